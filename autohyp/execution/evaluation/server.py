"""One evaluation, from the training process's READY to its DONE or REFUSED."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from autohyp.execution.evaluation.checks import Checks
from autohyp.execution.evaluation.plan import ClaimStep, OpenStep, Plan, Step, make_plan
from autohyp.execution.evaluation.scoring import EvaluationData, Score
from autohyp.execution.protocol import (
    MAX_JSON_BYTES,
    DeadlineError,
    FrameChannel,
    Kind,
    OwnerGoneError,
    PeerClosedError,
    ViolationError,
    claim_payload,
    decode_json,
    json_payload,
    probe_payload,
)

__all__ = ["EvaluationResult", "serve_evaluation"]

REQUESTS_AHEAD = 2  # sent before the first is answered: the model need not wait for the checks
MAX_BATCH = 65_536
LAST_FRAME_TIMEOUT_S = 2.0
STALL_FACTOR = 10.0  # an answer is late beyond this many times the usual time per row


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """What came out. `status` is ok, invalid (dishonest or broken answers) or failed (no answer).

    `cause` of the last two: violation, closed, timeout, model_error, owner_gone. `tokens` were
    claimed in `seconds` since READY; `stalled_s` is how much of that went into answers that took
    far longer than the usual ones.
    """

    status: str
    val_bpb: float | None = None
    val_bpb_legacy: float | None = None
    reason: str = ""
    cause: str = ""
    tokens: int = 0
    seconds: float = 0.0
    stalled_s: float = 0.0
    checks: Mapping[str, float | str] = field(default_factory=dict)


def serve_evaluation(
    channel: FrameChannel,
    data: EvaluationData,
    timeout_s: float,
    rng: np.random.Generator,
    on_started: Callable[[float], None] = lambda monotonic_s: None,
) -> EvaluationResult:
    """Waits for READY (as long as it takes), measures the model within `timeout_s`, and says how that ended.

    `on_started` is called with the `time.monotonic()` at which READY had arrived, before anything
    is sent. `rng` must be unknown to the training process. Never raises for what the training
    process does.
    """
    session = _Session(channel, data, timeout_s, rng, on_started)
    try:
        result = session.run()
        channel.queue(Kind.DONE, json_payload(val_bpb=result.val_bpb, val_bpb_legacy=result.val_bpb_legacy))
    except ViolationError as error:
        channel.queue(Kind.REFUSED, json_payload(reason=str(error)))
        result = session.ended("invalid", "violation", str(error))
    except _ModelError as error:
        result = session.ended("failed", "model_error", f"the model raised while it was evaluated: {error}")
    except PeerClosedError:
        when = "during" if session.started_s else "before"
        reason = f"the training process closed the connection {when} the evaluation"
        result = session.ended("failed", "closed", reason)
    except DeadlineError:
        channel.queue(Kind.REFUSED, json_payload(reason="the evaluation took too long"))
        result = session.ended("failed", "timeout", f"the evaluation was not finished within {timeout_s:g} s")
    except OwnerGoneError:
        return session.ended("failed", "owner_gone", "the launcher is gone")
    # The result stands whether or not the training process hears of it.
    with contextlib.suppress(DeadlineError, OwnerGoneError):
        channel.flush(time.monotonic() + LAST_FRAME_TIMEOUT_S)
    return result


class _ModelError(Exception):
    """The training process sent FAILED."""


class _Session:
    """The state of one evaluation."""

    def __init__(
        self,
        channel: FrameChannel,
        data: EvaluationData,
        timeout_s: float,
        rng: np.random.Generator,
        on_started: Callable[[float], None],
    ) -> None:
        self._channel = channel
        self._data = data
        self._timeout_s = timeout_s
        self._rng = rng
        self._on_started = on_started
        self._score = Score(data)
        self._answer_s: list[tuple[int, float]] = []  # rows and seconds of each answer
        self._checks: Checks | None = None
        self.started_s = 0.0

    def run(self) -> EvaluationResult:
        batch, device = self._receive_ready()
        self.started_s = self._channel.received_at_s
        self._on_started(self.started_s)
        plan = make_plan(self._data.rows, self._data.vocab_size, batch, device != "cpu", self._rng)
        self._checks = Checks(self._data, plan)
        self._ask_all(plan, self._checks)
        self._checks.finish()
        return self.ended("ok", "", "")

    def ended(self, status: str, cause: str, reason: str) -> EvaluationResult:
        """The result so far; the figures are given only if it is ok."""
        is_ok = status == "ok"
        return EvaluationResult(
            status=status,
            val_bpb=self._score.val_bpb if is_ok else None,
            val_bpb_legacy=self._score.val_bpb_legacy if is_ok else None,
            reason=reason,
            cause=cause,
            tokens=self._score.tokens,
            seconds=round(time.monotonic() - self.started_s, 4) if self.started_s else 0.0,
            stalled_s=self._stalled_s(),
            checks=self._checks.report if self._checks else {},
        )

    def _receive_ready(self) -> tuple[int, object]:
        """The device batch size and the device."""
        frame = self._channel.receive({Kind.READY: MAX_JSON_BYTES, Kind.FAILED: MAX_JSON_BYTES}, None)
        if frame.kind is Kind.FAILED:
            raise _ModelError(_error_text(frame.payload))
        ready = decode_json(frame.payload)
        batch = ready.get("device_batch_size")
        if not isinstance(batch, int) or isinstance(batch, bool) or not 1 <= batch <= MAX_BATCH:
            raise ViolationError(f"the training process named no device batch size of 1 to {MAX_BATCH}")
        return batch, ready.get("device")

    def _ask_all(self, plan: Plan, checks: Checks) -> None:
        """Sends the steps, a few ahead of the answers but none before the step that it must wait for."""
        waiting: deque[int] = deque()
        upcoming = 0
        while upcoming < len(plan.steps) or waiting:
            while (
                upcoming < len(plan.steps)
                and len(waiting) < REQUESTS_AHEAD
                and (not waiting or plan.steps[upcoming].after < waiting[0])
            ):
                self._send(plan.steps[upcoming])
                waiting.append(upcoming)
                upcoming += 1
            self._take_answer(plan.steps[waiting.popleft()], checks)

    def _send(self, step: Step) -> None:
        row_len = self._data.sequence_len + isinstance(step, ClaimStep)
        rows = np.stack([splice.tokens(self._data.rows, row_len) for splice in step.rows])
        if isinstance(step, ClaimStep):
            self._channel.queue(Kind.CLAIM, claim_payload(rows))
        else:
            self._channel.queue(Kind.PROBE, probe_payload(rows, step.positions))

    def _take_answer(self, step: Step, checks: Checks) -> None:
        shape: tuple[int, ...]
        if isinstance(step, ClaimStep):
            kind, shape = Kind.CLAIMS, (len(step.rows), self._data.sequence_len)
        else:
            kind, shape = Kind.LOGITS, (len(step.rows), len(step.positions), self._data.vocab_size)
        sizes = {kind: 4 * math.prod(shape), Kind.FAILED: MAX_JSON_BYTES}
        before_s = self._channel.received_at_s
        frame = self._channel.receive(sizes, self.started_s + self._timeout_s)
        if frame.kind is Kind.FAILED:
            raise _ModelError(_error_text(frame.payload))
        self._answer_s.append((len(step.rows), self._channel.received_at_s - before_s))
        values = np.frombuffer(frame.payload, dtype="<f4").reshape(shape)
        if isinstance(step, ClaimStep):
            self._add_to_score(step, checks.add_claims(step, values))
        elif isinstance(step, OpenStep):
            self._add_to_score(step, checks.add_open(step, values))
        else:
            checks.add_logits(step, values)

    def _add_to_score(self, step: ClaimStep | OpenStep, losses: npt.NDArray[np.float32]) -> None:
        """Adds the rows that are not decoys."""
        whole = len(losses[0]) + isinstance(step, ClaimStep)
        real = [i for i, splice in enumerate(step.rows) if splice.length == whole]
        if real:
            targets = self._data.rows[[step.rows[i].row for i in real], 1:]
            self._score.add(targets, losses[real])

    def _stalled_s(self) -> float:
        if not self._answer_s:
            return 0.0
        usual_s = statistics.median(seconds / n_rows for n_rows, seconds in self._answer_s)
        late = (max(0.0, seconds - STALL_FACTOR * usual_s * n_rows) for n_rows, seconds in self._answer_s)
        return round(sum(late), 4)


def _error_text(payload: bytearray) -> str:
    return str(decode_json(payload).get("error", "no reason given"))[:500]
