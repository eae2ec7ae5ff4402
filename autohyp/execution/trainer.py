"""The launcher: one training run in a sandbox, watched, timed and measured from outside.

`run_training` starts the evaluator and the sandboxed train.py, and watches both in one loop without
threads: the log, the clock's events, the evaluator's words, the end of the process tree, and the
deadlines. Whatever happens (an exception in a callback included) no process, descriptor or thread is
left when it returns. The number comes from the evaluator alone; the log, the summary, the exit code and
the clock's events never make a run valid.

An evaluator that breaks (it ends without a word on the result) does not cost the training: the process still
lives, and a second evaluator measures it over a second socket. There is no third, and none after a verdict.

Not covered: memory, disk and process limits are the sandbox's. A script may stall its first answer to
the evaluator by `STALL_ALLOWANCE` of its budget before that is charged (kernels of an evaluation may
have to be compiled).
"""

from __future__ import annotations

import math
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from autohyp.execution.charging import BudgetClock
from autohyp.execution.job import (
    OutcomeStatus,
    TrainingJob,
    TrainingOutcome,
    training_environment,
    visible_gpu,
)
from autohyp.execution.logs import LogSink, clean, error_line, parse_summary
from autohyp.execution.nvml import GpuLoad, utilisation_of
from autohyp.execution.sandbox.base import SandboxProcess, SandboxSpec
from autohyp.execution.streams import Curve, Lines, as_object, number
from autohyp.records import Progress

__all__ = ["OutcomeStatus", "TrainingJob", "TrainingOutcome", "run_training", "training_environment"]

POLL_S = 0.2  # how soon a cancellation is seen
PROGRESS_INTERVAL_S = 1.0
EXIT_GRACE_S = 10.0  # for the script to end after it was measured
REFUSED_GRACE_S = 1.0  # and after it was refused: it may say why
EVALUATOR_GRACE_S = 10.0  # for the evaluator to say how it ended once the training process is gone
EVALUATOR_MARGIN_S = 10.0  # beyond its own time limit
STALL_ALLOWANCE = 0.2
MIN_STALL_ALLOWANCE_S = 5.0
FLOOD_FACTOR = 16
READ_BYTES = 65_536
PACKAGE_ROOT = Path(__file__).resolve().parents[2]


def run_training(job: TrainingJob) -> TrainingOutcome:
    """Trains and measures once. Raises SandboxError if nothing could be started, and what callbacks raise."""
    with ExitStack() as resources:
        return _Launch(job, resources).run()


class _Launch:
    """The state of one run; everything that must be undone is on `resources`."""

    def __init__(self, job: TrainingJob, resources: ExitStack) -> None:
        self._job = job
        self._resources = resources
        self._selector = resources.enter_context(selectors.DefaultSelector())
        self._log = resources.enter_context(LogSink(job.log_path, job.log_limit_bytes))
        self._curve = Curve()
        self._verdict: tuple[OutcomeStatus, str] | None = None
        self._result: dict[str, Any] = {}  # the evaluator's last word
        self._evaluator_errors = b""
        self._clock_lines = Lines()
        self._evaluator_lines = Lines()
        self._evaluator_open = False
        self._num_evaluators = 0
        self._evaluation_began_s = 0.0
        self._exit_by_s = math.inf  # when the script must have ended
        self._evaluator_by_s = math.inf  # when the evaluator must have ended
        self._next_progress_s = 0.0
        self._was_killed = False
        gpu_index = job.gpu_index
        self._load = None if gpu_index is None else GpuLoad(utilisation_of(visible_gpu(gpu_index)))

    # ------------------------------------------------------------------------------------------
    # Start

    def run(self) -> TrainingOutcome:
        started_s = time.monotonic()
        for folder in (self._job.scratch_dir / "tmp", self._job.scratch_dir / "cache"):
            folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as theirs:  # closed here once the run has its own copies
            (ours, first), (self._spare, second) = socket.socketpair(), socket.socketpair()
            for end in (ours, first, second):
                theirs.enter_context(end)
            self._resources.enter_context(self._spare)
            self._start_evaluator(ours)
            self._process = self._start_training(theirs, (first.fileno(), second.fileno()))
        self._clock = BudgetClock(time.monotonic(), self._job.budget_s, self._job.startup_allowance_s)
        self._selector.register(self._process.fileno(), selectors.EVENT_READ)
        while not self._is_over():
            self._check(time.monotonic())
            for key, _ in self._selector.select(POLL_S):
                self._handle(key)
        for key in [key for key in self._selector.get_map().values() if key.data]:
            while self._handle(key):
                pass
        self._log.close()
        return self._outcome(started_s, time.monotonic())

    def _start_evaluator(self, ours: socket.socket) -> None:
        """Starts an evaluator on our end of a socket to the training process."""
        job = self._job
        command = [sys.executable, "-P", "-m", "autohyp.execution.evaluator"]
        command += ["--fd", str(ours.fileno()), "--data", str(job.data_dir), "--split", job.split]
        command += ["--timeout-s", str(job.evaluation_timeout_s)]
        evaluator = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # held open: it ends when we do
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(ours.fileno(),),
            start_new_session=True,
            env={
                "PATH": os.defpath,
                "PYTHONPATH": str(PACKAGE_ROOT),
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
            },
        )
        self._evaluator = self._resources.enter_context(evaluator)
        self._resources.callback(evaluator.kill)  # runs before the line above waits
        self._watch(evaluator.stdout, self._on_evaluator)
        self._watch(evaluator.stderr, self._on_evaluator_error)
        self._num_evaluators += 1
        self._evaluator_open = True

    def _start_training(self, theirs: ExitStack, evaluation_fds: tuple[int, int]) -> SandboxProcess:
        job = self._job
        log_end, stdout_fd = os.pipe()
        log = self._resources.enter_context(os.fdopen(log_end, "rb", buffering=0))
        theirs.callback(os.close, stdout_fd)
        clock_socket, clock_end = socket.socketpair()
        self._resources.enter_context(clock_socket)
        theirs.enter_context(clock_end)
        self._watch(log, self._log.feed)
        self._watch(clock_socket, self._on_clock)
        visible = [job.data_dir / "train", job.data_dir / "tokenizer", job.data_dir / "meta.json"]
        spec = SandboxSpec(
            command=(sys.executable, "-s", "train.py"),
            cwd=job.source_dir,
            stdout_fd=stdout_fd,
            readonly=(job.source_dir, *visible, *job.extra_readonly),
            writable=(job.scratch_dir,),
            environment=training_environment(job, clock_end.fileno(), *evaluation_fds),
            pass_fds=(clock_end.fileno(), *evaluation_fds),
            limits=job.limits,
            gpu_index=job.gpu_index,
        )
        return self._resources.enter_context(job.sandbox.launch(spec))

    def _watch(self, end: Any, handler: Callable[[bytes], None]) -> None:
        os.set_blocking(end.fileno(), False)
        self._selector.register(end, selectors.EVENT_READ, handler)

    # ------------------------------------------------------------------------------------------
    # What comes in

    def _handle(self, key: selectors.SelectorKey) -> int:
        """Takes what there is from one end, and returns how many bytes it was."""
        if key.data is None:  # the training process's
            if self._process.poll() is not None:
                self._selector.unregister(key.fileobj)
                self._evaluator_by_s = time.monotonic() + EVALUATOR_GRACE_S
            return 0
        try:
            data = os.read(key.fd, READ_BYTES)
        except BlockingIOError:
            return 0
        except OSError:  # reset: as good as closed
            data = b""
        if data:
            key.data(data)
        else:
            self._selector.unregister(key.fileobj)
            self._evaluator_open &= key.fileobj is not self._evaluator.stdout
        return len(data)

    def _on_clock(self, data: bytes) -> None:
        for line in self._clock_lines.feed(data):
            event = as_object(line)
            if event.get("event") == "start":
                self._clock.start(time.monotonic())
            elif event.get("event") == "step":
                self._curve.add(event)

    def _on_evaluator(self, data: bytes) -> None:
        for line in self._evaluator_lines.feed(data):
            event = as_object(line)
            if event.get("event") == "evaluation_started":
                self._evaluation_began_s = float(event["monotonic_s"])
                self._clock.stop(self._evaluation_began_s)
            elif event.get("event") == "result":
                self._result = event
                grace_s = EXIT_GRACE_S if event["status"] == "ok" else REFUSED_GRACE_S
                self._exit_by_s = time.monotonic() + grace_s

    def _on_evaluator_error(self, data: bytes) -> None:
        self._evaluator_errors = (self._evaluator_errors + data)[-4096:]

    # ------------------------------------------------------------------------------------------
    # What follows from it

    def _is_over(self) -> bool:
        return self._process.poll() is not None and not self._evaluator_open

    def _check(self, now_s: float) -> None:
        """Ends what must be ended, and reports progress."""
        if self._has_lost_its_evaluator():
            self._evaluator_lines = Lines()
            self._start_evaluator(self._spare)
            self._spare.close()  # it has its own copy, and must be alone with the training process
        if self._verdict is None:
            self._verdict = self._reason_to_end(now_s)
        must_end = self._verdict is not None or now_s > self._exit_by_s
        if must_end and self._process.poll() is None:
            self._was_killed = True
            self._process.kill()
        if now_s > self._evaluator_by_s:
            self._evaluator.kill()
        if self._load is not None and not self._clock.has_begun(now_s):
            self._load.look(now_s)
        if now_s >= self._next_progress_s:
            self._next_progress_s = now_s + PROGRESS_INTERVAL_S
            self._job.on_progress(self._progress(now_s))

    def _has_lost_its_evaluator(self) -> bool:
        is_lost = not self._evaluator_open and not self._result and self._verdict is None
        return is_lost and self._num_evaluators == 1 and self._process.poll() is None

    def _reason_to_end(self, now_s: float) -> tuple[OutcomeStatus, str] | None:
        clock, job = self._clock, self._job
        if job.cancelled():
            return OutcomeStatus.CANCELLED, "it was cancelled"
        if self._log.received_bytes > FLOOD_FACTOR * job.log_limit_bytes:
            return OutcomeStatus.CRASHED, f"it printed more than {self._log.received_bytes >> 20} MiB"
        if self._process.poll() is not None:
            return None
        if not self._evaluator_open and not self._result:
            return OutcomeStatus.CRASHED, "the evaluator ended before it measured anything"
        # A run that trains has shown that it works, whatever was predicted.
        if not clock.has_begun(now_s) and (reason := job.veto()):
            return OutcomeStatus.CRASHED, reason
        if clock.stopped_s is None and now_s > clock.kill_at_s:
            return OutcomeStatus.TIMED_OUT, (
                f"it had not asked to be evaluated {clock.charged_s(now_s):.1f} s into its budget "
                f"of {job.budget_s:g} s"
            )
        if clock.stopped_s is not None and clock.is_over(clock.charged_s(now_s)):
            return OutcomeStatus.INVALID, self._over_budget(clock.charged_s(now_s))
        evaluation_limit_s = job.evaluation_timeout_s + EVALUATOR_MARGIN_S
        if clock.stopped_s is not None and now_s > self._evaluation_began_s + evaluation_limit_s:
            return OutcomeStatus.TIMED_OUT, "the evaluation did not end"
        return None

    def _over_budget(self, charged_s: float) -> str:
        return f"it trained for {charged_s:.1f} s, its budget is {self._job.budget_s:g} s"

    def _progress(self, now_s: float) -> Progress:
        clock, last = self._clock, self._curve.last
        if clock.stopped_s is not None:
            phase = "evaluating"
        else:
            phase = "training" if clock.is_training(now_s) else "starting"
        return Progress(
            phase=phase,
            step=last.step if last else 0,
            progress=min(1.0, clock.charged_s(now_s) / clock.budget_s),
            loss=last.loss if last else None,
            elapsed_s=round(now_s - clock.launched_s, 3),
        )

    # ------------------------------------------------------------------------------------------
    # The end

    def _outcome(self, started_s: float, ended_s: float) -> TrainingOutcome:
        job, clock, result = self._job, self._clock, self._result
        summary = parse_summary(self._log.tail)
        charged_s = clock.charged_s(ended_s) + self._charged_stall_s()
        status, reason = self._judge(charged_s)
        is_measured = status is OutcomeStatus.COMPLETED
        exit_ = self._process.outcome
        peak_memory_mb = exit_.peak_memory_mb if exit_ else 0.0
        if job.gpu_index is not None:
            peak_memory_mb = number(summary.get("peak_vram_mb")) or peak_memory_mb
        return TrainingOutcome(
            run_id=job.run_id,
            status=status,
            reason=reason,
            val_bpb=result["val_bpb"] if is_measured else None,
            val_bpb_legacy=result["val_bpb_legacy"] if is_measured else None,
            budget_s=job.budget_s,
            charged_s=round(charged_s, 3),
            startup_s=round(clock.startup_s(ended_s), 3),
            evaluation_s=result.get("seconds", 0.0),
            total_s=round(ended_s - started_s, 3),
            num_steps=int(number(summary.get("num_steps")) or self._curve.num_steps),
            peak_memory_mb=round(peak_memory_mb, 1),
            summary=summary,
            curve=self._curve.points(),
            integrity=self._integrity(),
            sandbox=job.sandbox.name,
            log_tail=self._log.tail,
        )

    def _charged_stall_s(self) -> float:
        allowance_s = max(MIN_STALL_ALLOWANCE_S, STALL_ALLOWANCE * self._job.budget_s)
        return max(0.0, float(self._result.get("stalled_s", 0.0)) - allowance_s)

    def _judge(self, charged_s: float) -> tuple[OutcomeStatus, str]:
        """How the run ended; what was measured counts only if nothing speaks against it."""
        result = self._result
        if self._verdict is not None:
            return self._verdict
        if result.get("status") == "invalid":
            return OutcomeStatus.INVALID, result["reason"]
        if result.get("status") == "ok":
            if self._clock.is_over(charged_s):
                return OutcomeStatus.INVALID, self._over_budget(charged_s)
            return OutcomeStatus.COMPLETED, ""
        if result.get("cause") == "timeout":
            return OutcomeStatus.TIMED_OUT, result["reason"]
        if result.get("cause") == "model_error":
            # One line: a script's own words must not look like lines of ours.
            return OutcomeStatus.CRASHED, " ".join(clean(result["reason"].encode()).split())
        if not result:
            said = clean(self._evaluator_errors).strip().splitlines() or ["nothing"]
            return OutcomeStatus.CRASHED, f"the evaluator failed; its last words: {said[-1]}"
        return OutcomeStatus.CRASHED, self._crash_reason()

    def _crash_reason(self) -> str:
        exit_ = self._process.outcome
        when = "" if self._clock.stopped_s is None else " during the evaluation"
        if exit_ and exit_.violation:
            return exit_.violation
        if self._was_killed and self._result.get("cause") == "closed":
            return str(self._result["reason"])  # the signal was ours, and says nothing
        code = exit_.returncode if exit_ else 0
        if code == 0 and not self._was_killed:
            return f"it ended{when or ' without asking to be evaluated'}"
        if code < 0:
            return f"it was ended by signal {-code} ({signal.strsignal(-code)}){when}"
        line = error_line(self._log.tail)
        return f"it ended with exit code {code}{when}" + (f": {line}" if line else "")

    def _ran_out_of_memory(self) -> bool:
        """By its own words, or by ours that it would have."""
        if self._result.get("status") == "ok":
            return False
        said = f"{self._log.tail}\n{self._result.get('reason', '')}\n{self._verdict or ''}".lower()
        return "out of memory" in said

    def _integrity(self) -> dict[str, str | float | bool]:
        found: dict[str, str | float | bool] = dict(self._result.get("checks", {}))
        found["log_was_cut"] = self._log.is_cut
        if self._ran_out_of_memory():
            found["out_of_memory"] = True
        if self._load is not None and self._load.busy_s is not None:
            # Compiling and warming up need some: the rest of what a script could have trained for nothing.
            found["startup_gpu_busy_s"] = round(self._load.busy_s, 1)
        found["was_killed"] = self._was_killed
        if self._num_evaluators > 1:
            found["evaluator_was_replaced"] = True
        found["stalled_s"] = float(self._result.get("stalled_s", 0.0))
        exit_ = self._process.outcome
        if exit_ is not None:
            found["exit_code"] = float(exit_.returncode)
            if exit_.violation:
                found["sandbox_violation"] = exit_.violation
        return found
