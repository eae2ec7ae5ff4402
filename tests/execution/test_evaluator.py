"""The evaluator against honest and dishonest models that answer from a thread."""

from __future__ import annotations

import os
import socket
import threading
import time

import numpy as np
import pytest

from autohyp.execution.evaluation import serve_evaluation
from autohyp.execution.evaluation.scoring import EvaluationData
from autohyp.execution.protocol import FrameChannel
from autohyp.testing import scripted_client as client
from autohyp.testing.scripted_training import evaluate_model, evaluate_script, tiny_data

DATA = tiny_data(n_rows=128)


def expected_bpb(model: client.Honest, data: EvaluationData, n_bytes: np.ndarray) -> float:
    """The definition, in one line each."""
    losses = model.losses(data.rows).astype(np.float64)
    sizes = n_bytes[data.rows[:, 1:]]
    return float(losses[sizes > 0].sum() / (np.log(2) * sizes.sum()))


def test_bits_per_byte_are_those_of_the_definition() -> None:
    model = client.Honest(DATA.vocab_size)
    result = evaluate_model(model, DATA)
    assert result.status == "ok", result.reason
    assert result.val_bpb == pytest.approx(expected_bpb(model, DATA, DATA.token_bytes), rel=1e-6)
    legacy_bpb = expected_bpb(model, DATA, DATA.token_bytes_legacy)
    assert result.val_bpb_legacy == pytest.approx(legacy_bpb, rel=1e-6)
    assert result.tokens == DATA.rows[:, 1:].size
    assert result.checks["noise_class"] == "float32"
    assert result.checks["repeated_distributions"] >= 1
    assert result.checks["checked_losses"] > 50
    assert result.checks["blind_losses"] >= 4


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("batch", "n_rows"), [(1, 8), (3, 9), (4, 48), (16, 130), (500, 50)])
def test_any_batch_size_gives_the_same_figure(batch: int, n_rows: int, device: str) -> None:
    data = tiny_data(n_rows=n_rows, sequence_len=16)
    model = client.Honest(data.vocab_size)
    result = evaluate_model(model, data, batch, device=device)
    assert result.status == "ok", result.reason
    assert result.val_bpb == pytest.approx(expected_bpb(model, data, data.token_bytes), rel=1e-6)


REASONS = {
    "looks_ahead": "looks ahead",
    "looks_ahead_in_loss": "own logits|looks ahead",
    "looks_far_ahead": "looks ahead",
    "forged_losses": "own logits|looks ahead",
    "shaved_losses": "lower than",
    "scaled_losses": "own logits|looks ahead|lower than",
    "unnormalised": "own logits|looks ahead",
    "not_a_number": "not a finite number",
    "infinite_loss": "not a finite number",
    "negative_loss": "negative loss",
    "infinite_logits": "logits are not finite",
    "nan_logits": "logits are not finite",
    "learns_on_the_job": "own logits|looks ahead|other predictions",
    "batch_statistics": "own logits|looks ahead|other predictions",
    "remembers_rows": "could not know",
    "wrong_shape": "wrong shape",
    "huge_answer": "wrong shape",
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", REASONS)
def test_dishonest_answers_are_refused(name: str, seed: int) -> None:
    result = evaluate_model(client.ANSWERERS[name](DATA.vocab_size), DATA, seed=seed)
    assert (result.status, result.cause) == ("invalid", "violation"), result
    assert result.val_bpb is None
    assert any(part in result.reason for part in REASONS[name].split("|")), result.reason


def test_every_dishonest_model_is_tested() -> None:
    assert set(REASONS) | {"honest", "raises"} == set(client.ANSWERERS)


def test_a_model_that_raises_is_a_failure_with_its_message() -> None:
    result = evaluate_model(client.Raises(DATA.vocab_size), DATA)
    assert (result.status, result.cause) == ("failed", "model_error")
    assert "CUDA out of memory" in result.reason


def frame(kind: int, length: int, payload: bytes = b"") -> bytes:
    return client.HEADER.pack(b"AHY1", kind, length) + payload


READY = client.dump(dtype="float32", device="cpu", device_batch_size=4)


@pytest.mark.parametrize(
    ("sent", "status", "cause", "reason"),
    [
        (b"", "failed", "closed", "before the evaluation"),
        (b"AHY1\1", "failed", "closed", "before the evaluation"),
        (b"GET / HTTP/1.1\r\n\r\n", "invalid", "violation", "something else"),
        (frame(client.READY, 1 << 60), "invalid", "violation", "wrong shape"),
        (frame(client.LOGITS, 4, b"abcd"), "invalid", "violation", "READY or FAILED was due"),
        (frame(99, 0), "invalid", "violation", "kind 99"),
        (frame(client.READY, 2, b"[]"), "invalid", "violation", "not an object"),
        (frame(client.READY, 4, b"\xff\xff\xff\xff"), "invalid", "violation", "cannot be read"),
        (frame(client.READY, 40_000, b"[" * 40_000), "invalid", "violation", "cannot be read"),
        (frame(client.READY, 24, b'{"device_batch_size":-1}'), "invalid", "violation", "batch size"),
        (frame(client.READY, 26, b'{"device_batch_size":true}'), "invalid", "violation", "batch size"),
        (frame(client.READY, len(READY), READY), "failed", "closed", "during the evaluation"),
        (frame(client.READY, len(READY), READY) * 2, "invalid", "violation", "kind 1"),
        (frame(client.READY, len(READY), READY) + frame(5, 4), "invalid", "violation", "wrong shape"),
    ],
)  # fmt: skip
def test_broken_peers(sent: bytes, status: str, cause: str, reason: str) -> None:
    result = evaluate_script(lambda sock: sock.sendall(sent), DATA)
    assert (result.status, result.cause) == (status, cause), result
    assert reason in result.reason


def test_a_silent_peer_is_given_up() -> None:
    heard = threading.Event()

    def silent(sock: socket.socket) -> None:
        sock.sendall(frame(client.READY, len(READY), READY))
        heard.wait(5)

    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=silent, args=(theirs,))
    thread.start()
    with ours, theirs:
        result = serve_evaluation(FrameChannel(ours), DATA, 0.05, np.random.default_rng(0))
    heard.set()
    thread.join()
    assert (result.status, result.cause) == ("failed", "timeout")


def test_the_evaluator_ends_with_its_launcher() -> None:
    owner, launcher = os.pipe()
    os.close(launcher)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        result = serve_evaluation(FrameChannel(ours, owner), DATA, 20, np.random.default_rng(0))
    os.close(owner)
    assert result.cause == "owner_gone"


def test_a_late_answer_is_counted_as_stalled() -> None:
    class Late(client.Honest):
        late_s = 0.15

        def logits(self, tokens: client.Tokens, positions: np.ndarray) -> client.Floats:
            time.sleep(self.late_s)  # the wait is what is measured
            self.late_s = 0.0
            return super().logits(tokens, positions)

    assert evaluate_model(Late(DATA.vocab_size), DATA).stalled_s > 0.08


def test_what_is_asked_is_not_predictable() -> None:
    asked: list[bytes] = []

    class Spy(client.Honest):
        def logits(self, tokens: client.Tokens, positions: np.ndarray) -> client.Floats:
            asked.append(tokens.tobytes())
            return super().logits(tokens, positions)

    for seed in (1, 2):
        evaluate_model(Spy(DATA.vocab_size), DATA, seed=seed)
    half = len(asked) // 2
    assert set(asked[:half]).isdisjoint(asked[half:])
