"""Bits per byte, the evaluator's client, the clock and the summary."""

from __future__ import annotations

import json
import math
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

VOCAB = 320


class Bigram(torch.nn.Module):
    """Logits that depend on the current token; asserts that batches never change shape."""

    def __init__(self, seed: int = 0, flat: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.nn.Parameter(torch.randn(VOCAB, VOCAB, generator=generator))
        self.flat = flat
        self.shapes: set[tuple[int, ...]] = set()
        self.modes: set[bool] = set()

    def forward(
        self, inputs: torch.Tensor, targets: torch.Tensor | None = None, reduction: str = "mean"
    ) -> torch.Tensor:
        self.shapes.add(tuple(inputs.shape))
        self.modes.add(self.training)
        logits = self.table[inputs]
        if targets is None:
            return logits
        assert not torch.is_grad_enabled()
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), reduction=reduction
        )
        return losses if self.flat else losses.view(targets.shape)


def reference_bpb(model: Bigram, rows: Any, token_bytes: Any) -> float:
    """One target at a time, in double precision."""
    log_probs = torch.log_softmax(model.table.detach().double(), -1).numpy()
    nats, total_bytes = 0.0, 0
    for row in rows.tolist():
        for current, following in pairwise(row):
            if token_bytes[following] > 0:
                nats -= log_probs[current, following]
                total_bytes += int(token_bytes[following])
    return nats / (math.log(2) * total_bytes)


@pytest.mark.parametrize("batch", [1, 5, 16, 64])
@pytest.mark.parametrize("flat", [False, True])
def test_bits_per_byte(prepare: ModuleType, active: Path, batch: int, flat: bool) -> None:
    model, data = Bigram(flat=flat), prepare.PreparedData()
    expected = reference_bpb(model, data.rows("val"), data.token_bytes())
    assert prepare.evaluate_bpb(model, batch) == pytest.approx(expected, rel=1e-6)
    rows = len(data.rows("val"))
    assert model.shapes == {(n, 64) for n in (min(batch, rows), rows % batch) if n}


def test_a_model_that_knows_nothing(prepare: ModuleType, active: Path) -> None:
    model, data = Bigram(), prepare.PreparedData()
    torch.nn.init.zeros_(model.table)
    sizes = data.token_bytes()[data.rows("val")[:, 1:]]
    expected = math.log2(VOCAB) * (sizes > 0).sum() / sizes.sum()
    assert prepare.evaluate_bpb(model, 8) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_restored(prepare: ModuleType, active: Path, training: bool) -> None:
    model = Bigram().train(training)
    prepare.evaluate_bpb(model, 16)
    assert model.training is training
    assert model.modes == {False}


# --- in a campaign: the other end of AUTOHYP_EVAL_FD ------------------------------------------------

HEADER = struct.Struct("<4sBxxxQ")


class Evaluator:
    """The server's end of the protocol, written from its specification."""

    def __init__(self, connection: socket.socket) -> None:
        self.stream = connection.makefile("rwb")

    def send(self, kind: int, payload: bytes) -> None:
        self.stream.write(HEADER.pack(b"AHY1", kind, len(payload)) + payload)
        self.stream.flush()

    def receive(self) -> tuple[int, bytes]:
        magic, kind, size = HEADER.unpack(self.stream.read(HEADER.size))
        assert magic == b"AHY1"
        return kind, self.stream.read(size)

    def claim(self, rows: Any) -> Any:
        self.send(2, struct.pack("<II", *rows.shape) + rows.astype("<u2").tobytes())
        kind, reply = self.receive()
        assert kind == 3
        return np.frombuffer(reply, "<f4").reshape(len(rows), rows.shape[1] - 1)

    def probe(self, rows: Any, positions: Any) -> Any:
        header = struct.pack("<III", len(rows), len(positions), rows.shape[1])
        self.send(4, header + positions.astype("<u4").tobytes() + rows.astype("<u2").tobytes())
        kind, reply = self.receive()
        assert kind == 5
        return np.frombuffer(reply, "<f4").reshape(len(rows), len(positions), -1)


Evaluate = Callable[..., Any]


@pytest.fixture
def evaluate(prepare: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    """evaluate(model, batch, script): what evaluate_bpb returns while `script(evaluator)` runs."""
    threads: list[threading.Thread] = []

    def run(model: torch.nn.Module, batch: int, script: Callable[[Evaluator], None]) -> Any:
        ours, theirs = socket.socketpair()
        problems: list[BaseException] = []

        def serve() -> None:
            evaluator = Evaluator(ours)
            try:
                script(evaluator)
            except BaseException as error:
                problems.append(error)
            finally:
                evaluator.stream.close()
                ours.close()

        monkeypatch.setenv("AUTOHYP_EVAL_FD", str(theirs.fileno()))
        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        try:
            value = prepare.evaluate_bpb(model, batch)
        finally:
            theirs.close()
            threads[-1].join()
        assert not problems
        return value

    return run


DONE = json.dumps({"val_bpb": 1.25, "val_bpb_legacy": 1.2}).encode()


def test_claims_and_probes(active: Path, evaluate: Evaluate) -> None:
    model, seen = Bigram(), {}
    rows = np.random.default_rng(0).integers(0, VOCAB, (11, 33))
    positions = np.array([0, 5, 31])

    def script(evaluator: Evaluator) -> None:
        kind, ready = evaluator.receive()
        seen["ready"] = (kind, json.loads(ready))
        seen["losses"] = evaluator.claim(rows)
        seen["logits"] = evaluator.probe(rows[:3, :-1], positions)
        seen["one"] = evaluator.claim(rows[:1])
        evaluator.send(6, DONE)

    assert evaluate(model, 4, script) == 1.25
    assert seen["ready"] == (1, {"dtype": "float32", "device": "cpu", "device_batch_size": 4})
    table = model.table.detach()
    expected = -torch.log_softmax(table, -1).numpy()[rows[:, :-1], rows[:, 1:]]
    assert np.abs(seen["losses"] - expected).max() < 1e-5
    assert (seen["one"] == seen["losses"][:1]).all()
    assert (seen["logits"] == table.numpy()[rows[:3, positions]]).all()
    assert {n for n, _ in model.shapes} <= {1, 2, 3, 4}  # no rows that do not count
    assert {length for _, length in model.shapes} == {32}


def test_autocast_is_told(active: Path, evaluate: Evaluate) -> None:
    seen = {}

    def script(evaluator: Evaluator) -> None:
        seen.update(json.loads(evaluator.receive()[1]))
        evaluator.send(6, DONE)

    with torch.autocast("cpu", torch.bfloat16):
        evaluate(Bigram(), 2, script)
    assert seen["dtype"] == "bfloat16"
    evaluate(Bigram().to(torch.bfloat16), 2, script)
    assert seen["dtype"] == "bfloat16"


def test_a_refusal_is_an_error_with_its_reason(prepare: ModuleType, active: Path, evaluate: Evaluate) -> None:
    def script(evaluator: Evaluator) -> None:
        evaluator.receive()
        evaluator.send(8, json.dumps({"reason": "the model looks ahead"}).encode())

    model = Bigram().train()
    with pytest.raises(prepare.EvaluationError, match="refused: the model looks ahead"):
        evaluate(model, 2, script)
    assert model.training


def test_a_failing_model_is_reported(active: Path, evaluate: Evaluate) -> None:
    seen = {}

    def script(evaluator: Evaluator) -> None:
        evaluator.receive()
        evaluator.send(2, struct.pack("<II", 1, 3) + np.array([1, 2, VOCAB + 9], "<u2").tobytes())
        seen["answer"] = evaluator.receive()

    with pytest.raises(IndexError):
        evaluate(Bigram(), 2, script)
    kind, payload = seen["answer"]
    assert kind == 7
    assert json.loads(payload)["error"].startswith("IndexError: ")


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"", "went away"),
        (HEADER.pack(b"AHY1", 2, 100) + b"short", "went away"),
        (HEADER.pack(b"HTTP", 2, 0), "no frame"),
        (HEADER.pack(b"AHY1", 2, 1 << 62), "no frame"),
        (HEADER.pack(b"AHY1", 99, 0), "unknown frame kind 99"),
    ],
)
def test_a_broken_evaluator_is_an_error(
    prepare: ModuleType, active: Path, evaluate: Evaluate, sent: bytes, expected: str
) -> None:
    def script(evaluator: Evaluator) -> None:
        evaluator.receive()
        evaluator.stream.write(sent)
        evaluator.stream.flush()

    with pytest.raises(prepare.EvaluationError, match=expected):
        evaluate(Bigram(), 2, script)


# --- the clock --------------------------------------------------------------------------------------


class FakeTime:
    now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def fake_time(prepare: ModuleType, monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    clock = FakeTime()
    monkeypatch.setattr(prepare, "time", clock)
    return clock


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The other end of AUTOHYP_CLOCK_FD."""
    ours, theirs = socket.socketpair()
    monkeypatch.setenv("AUTOHYP_CLOCK_FD", str(theirs.fileno()))
    ours.setblocking(False)
    with ours, theirs:
        yield ours


@pytest.fixture
def make_clock(prepare: ModuleType) -> Iterator[Callable[..., Any]]:
    made: list[Any] = []

    def make(*arguments: float) -> Any:
        made.append(prepare.TrainingClock(*arguments))
        return made[-1]

    yield make
    for clock in made:
        clock.close()


def events(launcher: socket.socket) -> list[Any]:
    data = b""
    while True:
        try:
            chunk = launcher.recv(1 << 20)
        except BlockingIOError:
            break
        if not chunk:
            break
        data += chunk
    assert not data or data.endswith(b"\n")
    return [json.loads(line) for line in data.splitlines()]


def test_the_clock_counts_from_its_start(fake_time: FakeTime, make_clock: Callable[..., Any]) -> None:
    clock = make_clock(30.0)
    fake_time.now_s += 50
    assert (clock.elapsed_s, clock.progress, clock.expired) == (0.0, 0.0, False)
    clock.start()
    fake_time.now_s += 15
    assert (clock.elapsed_s, clock.progress, clock.expired) == (15.0, 0.5, False)
    fake_time.now_s += 20
    assert (clock.elapsed_s, clock.progress, clock.expired) == (35.0, 1.0, True)
    clock.report(1, 2.0)


def test_no_step_is_begun_that_would_end_after_the_budget(
    fake_time: FakeTime, make_clock: Callable[..., Any]
) -> None:
    clock = make_clock(30.0)
    clock.start()
    fake_time.now_s += 12
    clock.report(1, 2.0)
    assert not clock.expired
    fake_time.now_s += 12
    clock.report(2, 2.0)
    assert clock.expired  # 24 s are gone and a step takes 12


def test_events_at_most_ten_a_second(
    fake_time: FakeTime, launcher: socket.socket, make_clock: Callable[..., Any]
) -> None:
    clock = make_clock(10.0)
    clock.start()
    for step in range(1, 31):
        fake_time.now_s += 0.035
        clock.report(step, float("nan") if step == 4 else 3.5)
    start, *steps = events(launcher)
    assert start == {"event": "start"}
    assert [event["step"] for event in steps] == list(range(1, 31, 3))
    assert steps[0] == {"event": "step", "step": 1, "loss": 3.5, "progress": 0.0035}
    assert steps[1]["loss"] is None


def test_a_launcher_that_does_not_read_never_blocks_training(
    fake_time: FakeTime, launcher: socket.socket, make_clock: Callable[..., Any]
) -> None:
    clock = make_clock(1000.0)
    clock.start()
    for step in range(20_000):
        fake_time.now_s += 0.2
        clock.report(step, 1.0)
    assert 10 < len(events(launcher)) < 20_000
    clock.report(20_001, 1.0)
    fake_time.now_s += 0.2
    clock.report(20_002, 1.0)
    assert events(launcher)[-1]["step"] in (20_001, 20_002)


def test_a_launcher_that_has_gone_is_no_problem(
    fake_time: FakeTime, launcher: socket.socket, make_clock: Callable[..., Any]
) -> None:
    clock = make_clock(10.0)
    clock.start()
    launcher.close()
    for step in range(3):
        fake_time.now_s += 1
        clock.report(step, 1.0)
    assert clock.progress == 0.3


# --- the summary ------------------------------------------------------------------------------------

SUMMARY = {
    "val_bpb": 0.99790012, "training_seconds": 300.04, "total_seconds": 325.9, "peak_vram_mb": 45060.2,
    "mfu_percent": 39.804, "total_tokens_M": 499.6, "num_steps": 953, "num_params_M": 50.3, "depth": 8,
}  # fmt: skip


def test_the_summary(prepare: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    prepare.print_summary(device="cpu", **SUMMARY)
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "---"
    pairs = [line.split(": ", 1) for line in lines]
    assert [key for key, _ in pairs] == [*SUMMARY, "device"]
    values = {key: value.strip() for key, value in pairs}
    assert values["val_bpb"] == "0.997900"
    assert values["num_steps"] == "953"
    assert float(values["total_tokens_M"]) == 499.6


def test_a_summary_without_an_agreed_key(prepare: ModuleType) -> None:
    with pytest.raises(ValueError, match="lacks val_bpb, depth"):
        prepare.print_summary(
            **{key: value for key, value in SUMMARY.items() if key not in ("val_bpb", "depth")}
        )


def test_exports(prepare: ModuleType) -> None:
    assert all(hasattr(prepare, name) for name in prepare.__all__)
