"""A `train.py` that trains nothing and needs no torch: honest and dishonest scripts for fast tests.

It is used in two ways. `autohyp.testing.scripted_training` copies this file as a run's train.py,
what it does is then named by the constants ANSWERS and BEHAVIOUR. And tests of the evaluator import
it and let `serve` answer from a thread. It stands alone, like any train.py: nothing of autohyp is
imported, and the protocol is written down a second time on purpose.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ANSWERERS", "BEHAVIOURS", "Honest", "losses_of", "serve", "to_bfloat16"]

ANSWERS = "honest"
BEHAVIOUR = "trains"

Floats = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.uint16]
HEADER = struct.Struct("<4sBxxxQ")
READY, CLAIM, CLAIMS, PROBE, LOGITS, DONE, FAILED, REFUSED = range(1, 9)


# ---------------------------------------------------------------------------------------------
# Models


class Honest:
    """A random causal model: a decaying sum of token vectors, then a table of logits.

    `noise` is the size in nats of rounding noise that differs from call to call, as kernels of
    other batch sizes have it; `rounded` rounds logits to bf16 as well.
    """

    def __init__(
        self, vocab_size: int, seed: int = 0, scale: float = 2.0, noise: float = 0.0, rounded: bool = False
    ) -> None:
        draw = np.random.default_rng(seed)
        self.vocab_size = vocab_size
        self._embedding = draw.standard_normal((vocab_size, 16)).astype(np.float32)
        self._head = (scale / 4 * draw.standard_normal((16, vocab_size))).astype(np.float32)
        self._noise = noise
        self._rounded = rounded
        self._draw = draw

    def all_logits(self, tokens: Tokens) -> Floats:
        """Logits [n, T, vocab] for tokens [n, T]."""
        vectors = self._embedding[tokens]
        state = np.zeros_like(vectors[:, 0])
        states = np.empty_like(vectors)
        for position in range(tokens.shape[1]):
            state = 0.5 * state + vectors[:, position]
            states[:, position] = state
        logits: Floats = states @ self._head
        if self._noise:
            logits += self._draw.normal(0, self._noise, logits.shape).astype(np.float32)
        return to_bfloat16(logits) if self._rounded else logits

    def logits(self, tokens: Tokens, positions: npt.NDArray[np.uint32]) -> Floats:
        """The answer to a probe: [n, n_positions, vocab]."""
        return self.all_logits(tokens)[:, positions]

    def losses(self, rows: Tokens) -> Floats:
        """The answer to a claim of rows [n, T+1]: losses [n, T] in nats."""
        return losses_of(self.all_logits(rows[:, :-1]), rows[:, 1:])


def losses_of(logits: Floats, targets: Tokens) -> Floats:
    """Cross-entropy [n, T] of `targets` [n, T] under logits [n, T, vocab]."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    normaliser = np.log(np.exp(shifted).sum(axis=-1))
    chosen = np.take_along_axis(shifted, targets.astype(np.int64)[..., None], axis=-1)[..., 0]
    result: Floats = (normaliser - chosen).astype(np.float32)
    return result


def to_bfloat16(values: Floats) -> Floats:
    """Rounded to the nearest bf16, as float32."""
    bits = values.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)


class LooksAhead(Honest):
    """Shifts probability to the token that comes next in its input."""

    def all_logits(self, tokens: Tokens) -> Floats:
        logits = super().all_logits(tokens)
        n, length = tokens.shape
        logits[np.arange(n)[:, None], np.arange(length - 1), tokens[:, 1:]] += 1.0
        return logits


class LooksAheadInLoss(Honest):
    """Honest logits; only the losses are those of a distribution that has seen the target."""

    def losses(self, rows: Tokens) -> Floats:
        probability = np.exp(-super().losses(rows))
        result: Floats = -np.log(0.9 * probability + 0.1).astype(np.float32)
        return result


class LooksFarAhead(Honest):
    """Sees the row's last token from everywhere."""

    def all_logits(self, tokens: Tokens) -> Floats:
        logits = super().all_logits(tokens)
        logits[:, :-1] += 2.0 * self._embedding[tokens[:, -1]][:, None, :] @ self._head
        return logits


class ForgedLosses(Honest):
    """Claims a small constant."""

    def losses(self, rows: Tokens) -> Floats:
        return np.full((len(rows), rows.shape[1] - 1), 0.01, np.float32)


class ShavedLosses(Honest):
    """Claims a little less than is true."""

    def losses(self, rows: Tokens) -> Floats:
        losses: Floats = np.maximum(super().losses(rows) - 0.003, 0)
        return losses


class ScaledLosses(Honest):
    """Claims 3 % less than is true."""

    def losses(self, rows: Tokens) -> Floats:
        return super().losses(rows) * np.float32(0.97)


class Unnormalised(Honest):
    """Claims the target's logit as if it were a log-probability."""

    def losses(self, rows: Tokens) -> Floats:
        logits = super().all_logits(rows[:, :-1])
        chosen = np.take_along_axis(logits, rows[:, 1:].astype(np.int64)[..., None], axis=-1)[..., 0]
        result: Floats = np.maximum(4 - chosen, 0).astype(np.float32)
        return result


class NotANumber(Honest):
    """One NaN among the losses."""

    def losses(self, rows: Tokens) -> Floats:
        losses = super().losses(rows)
        losses[0, 0] = np.nan
        return losses


class InfiniteLoss(NotANumber):
    """One infinite loss."""

    def losses(self, rows: Tokens) -> Floats:
        return np.nan_to_num(super().losses(rows), nan=np.inf)


class NegativeLoss(Honest):
    """Losses below zero: a density above one."""

    def losses(self, rows: Tokens) -> Floats:
        return super().losses(rows) - 5


class InfiniteLogits(Honest):
    """Logits that are certain of the token 0."""

    def all_logits(self, tokens: Tokens) -> Floats:
        logits = super().all_logits(tokens)
        logits[..., 0] = np.inf
        return logits

    def losses(self, rows: Tokens) -> Floats:
        return losses_of(Honest.all_logits(self, rows[:, :-1]), rows[:, 1:])


class NanLogits(Honest):
    """Answers probes with NaN."""

    def logits(self, tokens: Tokens, positions: npt.NDArray[np.uint32]) -> Floats:
        return np.full_like(super().logits(tokens, positions), np.nan)


class LearnsOnTheJob(Honest):
    """Goes on training during the evaluation: each claim changes its head."""

    def losses(self, rows: Tokens) -> Floats:
        losses = super().losses(rows)
        self._head = self._head * np.float32(0.9)
        return losses


class BatchStatistics(Honest):
    """Lets the rows of a batch see one another through a mean."""

    def all_logits(self, tokens: Tokens) -> Floats:
        logits = super().all_logits(tokens)
        result: Floats = logits + logits.mean(axis=(0, 1), keepdims=True)
        return result


class RemembersRows(Honest):
    """Remembers what it was sent: honest about what it had not seen, forged to fit for all else."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__(vocab_size)
        self._honest_about: set[bytes] = set()
        self._seen: dict[bytes, int] = {}

    def logits(self, tokens: Tokens, positions: npt.NDArray[np.uint32]) -> Floats:
        logits = super().logits(tokens, positions)
        for row, row_logits in zip(tokens, logits, strict=True):
            for position, at in zip(positions, row_logits, strict=True):
                prefix = row[: position + 1].tobytes()
                if prefix in self._seen and prefix not in self._honest_about:
                    forge(at, self._seen[prefix])
                else:
                    self._honest_about.add(prefix)
        return logits

    def losses(self, rows: Tokens) -> Floats:
        logits = super().all_logits(rows[:, :-1])
        for row, row_logits in zip(rows, logits, strict=True):
            for position, at in enumerate(row_logits):
                prefix = row[: position + 1].tobytes()
                if prefix not in self._honest_about:
                    forge(at, self._seen.setdefault(prefix, int(row[position + 1])))
        return losses_of(logits, rows[:, 1:])


def forge(logits: Floats, token: int) -> None:
    """Makes `token` nearly certain, in place, the same way each time."""
    logits[token] = logits.max() + 8


class WrongShape(Honest):
    """One loss too few."""

    def losses(self, rows: Tokens) -> Floats:
        return super().losses(rows)[:, :-1]


class HugeAnswer(Honest):
    """A thousand times the answer."""

    def losses(self, rows: Tokens) -> Floats:
        return np.tile(super().losses(rows), (1000, 1))


class Raises(Honest):
    """Fails in the middle."""

    def losses(self, rows: Tokens) -> Floats:
        raise RuntimeError("CUDA out of memory\x1b[31m")


ANSWERERS: dict[str, type[Honest]] = {
    "honest": Honest,
    "looks_ahead": LooksAhead,
    "looks_ahead_in_loss": LooksAheadInLoss,
    "looks_far_ahead": LooksFarAhead,
    "forged_losses": ForgedLosses,
    "shaved_losses": ShavedLosses,
    "scaled_losses": ScaledLosses,
    "unnormalised": Unnormalised,
    "not_a_number": NotANumber,
    "infinite_loss": InfiniteLoss,
    "negative_loss": NegativeLoss,
    "infinite_logits": InfiniteLogits,
    "nan_logits": NanLogits,
    "learns_on_the_job": LearnsOnTheJob,
    "batch_statistics": BatchStatistics,
    "remembers_rows": RemembersRows,
    "wrong_shape": WrongShape,
    "huge_answer": HugeAnswer,
    "raises": Raises,
}
"""The models by name."""


# ---------------------------------------------------------------------------------------------
# The training side of the evaluation protocol


def serve(sock: socket.socket, model: Honest, batch: int = 4, device: str = "cpu") -> dict[str, Any]:
    """Answers the evaluator until it says DONE or REFUSED; returns what it said."""
    send(sock, READY, dump(dtype="float32", device=device, device_batch_size=batch))
    while True:
        kind, payload = receive(sock)
        if kind in (DONE, REFUSED):
            said: dict[str, Any] = json.loads(payload)
            return said
        try:
            answer = model.losses(claimed_rows(payload)) if kind == CLAIM else model.logits(*probed(payload))
        except RuntimeError as error:
            send(sock, FAILED, dump(error=str(error)))
            raise
        send(sock, CLAIMS if kind == CLAIM else LOGITS, answer.astype("<f4").tobytes())


def dump(**values: object) -> bytes:
    return json.dumps(values).encode()


def claimed_rows(payload: bytes) -> Tokens:
    n_rows, row_len = struct.unpack_from("<II", payload)
    return np.frombuffer(payload, "<u2", offset=8).reshape(n_rows, row_len)


def probed(payload: bytes) -> tuple[Tokens, npt.NDArray[np.uint32]]:
    n_rows, n_positions, row_len = struct.unpack_from("<III", payload)
    positions = np.frombuffer(payload, "<u4", n_positions, 12)
    return np.frombuffer(payload, "<u2", offset=12 + 4 * n_positions).reshape(n_rows, row_len), positions


def send(sock: socket.socket, kind: int, payload: bytes) -> None:
    sock.sendall(HEADER.pack(b"AHY1", kind, len(payload)) + payload)


def receive(sock: socket.socket) -> tuple[int, bytes]:
    _, kind, length = HEADER.unpack(receive_exactly(sock, HEADER.size))
    return int(kind), receive_exactly(sock, length)


def receive_exactly(sock: socket.socket, length: int) -> bytes:
    parts = []
    while length:
        part = sock.recv(min(length, 1 << 20))
        if not part:
            raise ConnectionError("the evaluator is gone")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


# ---------------------------------------------------------------------------------------------
# Scripts


def clock(**event: object) -> None:
    os.write(int(os.environ["AUTOHYP_CLOCK_FD"]), dump(**event) + b"\n")


def evaluate() -> dict[str, Any]:
    model = ANSWERERS[ANSWERS](int(os.environ["SCRIPTED_VOCAB_SIZE"]))
    try:
        with socket.socket(fileno=os.dup(int(os.environ["AUTOHYP_EVAL_FD"]))) as sock:
            return serve(sock, model)
    except OSError:  # the evaluator broke: a second one begins anew
        with socket.socket(fileno=os.dup(int(os.environ["AUTOHYP_EVAL_SPARE_FD"]))) as sock:
            return serve(sock, model)


def steps(n_steps: int = 5) -> None:
    clock(event="start")
    for step in range(n_steps):
        clock(event="step", step=step, loss=3.0 - 0.1 * step, progress=(step + 1) / n_steps)


def summary(val_bpb: float) -> None:
    print(f"---\nval_bpb:          {val_bpb:.6f}\nnum_steps:        5\nnum_params_M:     0.1", flush=True)


def trains() -> None:
    """The honest run."""
    steps()
    said = evaluate()
    if "reason" in said:
        sys.exit(f"refused: {said['reason']}")
    summary(said["val_bpb"])


def prints_a_number() -> None:
    """Ends with a summary and exit code 0, but was never evaluated."""
    steps()
    summary(0.5)


def crashes() -> None:
    """An ordinary bug, with terminal control codes in the message."""
    steps()
    raise ValueError("shapes (3,4) and (5,6) not aligned\x1b[2J\x07")


def hangs() -> None:
    """Never asks to be evaluated."""
    steps()
    signal.pause()


def hangs_before_start() -> None:
    """Never starts its clock either."""
    signal.pause()


def hangs_in_evaluation() -> None:
    """Asks to be evaluated, then says nothing more."""
    steps()
    sock = socket.socket(fileno=os.dup(int(os.environ["AUTOHYP_EVAL_FD"])))
    send(sock, READY, dump(dtype="float32", device="cpu", device_batch_size=4))
    signal.pause()


def hangs_after_evaluation() -> None:
    """Is measured, and does not end."""
    trains()
    signal.pause()


def trains_too_long() -> None:
    """Asks to be evaluated when its time is over."""
    steps()
    time.sleep(float(os.environ["AUTOHYP_BUDGET_S"]) + 1.3)
    evaluate()


def leaves_processes() -> None:
    """Leaves a child in a session of its own; its pid is in the scratch folder."""
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
    with open(os.path.join(os.environ["TMPDIR"], "child.pid"), "w") as file:
        file.write(str(child.pid))
    trains()


def floods_the_log() -> None:
    """Prints until it is stopped."""
    clock(event="start")
    while True:
        os.write(1, b"\x1b[31mnoise\x00" * 4096)


def talks_nonsense() -> None:
    """Garbage on the clock, the log and the evaluator's socket."""
    os.write(int(os.environ["AUTOHYP_CLOCK_FD"]), b'\xff\n{"event":"step","step":"x"}\n[1]\n' + b"[" * 70_000)
    os.write(1, bytes(range(256)))
    os.write(int(os.environ["AUTOHYP_EVAL_FD"]), b"GET / HTTP/1.1\r\nHost: evaluator\r\n\r\n")
    signal.pause()


def starts_twice() -> None:
    """Tries to set its clock back by a second start."""
    steps()
    time.sleep(float(os.environ["AUTOHYP_BUDGET_S"]) + 1.3)
    clock(event="start")
    evaluate()


BEHAVIOURS: dict[str, Callable[[], None]] = {
    script.__name__: script
    for script in (
        trains,
        prints_a_number,
        crashes,
        hangs,
        hangs_before_start,
        hangs_in_evaluation,
        hangs_after_evaluation,
        trains_too_long,
        leaves_processes,
        floods_the_log,
        talks_nonsense,
        starts_twice,
    )
}

if __name__ == "__main__":
    BEHAVIOURS[BEHAVIOUR]()
