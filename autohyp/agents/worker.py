"""A worker: holds one GPU (or some cores) and runs experiments one after another.

It checks a commit out, trains it in the sandbox, has it measured by the evaluator, and records the result
itself, so that a result survives whoever ordered it. Whatever happens, the checkout and all processes of
the run are gone when `run` returns. It never judges: what a result means is decided elsewhere, and so is what
becomes of a run that it could not start.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from autohyp.agents.base import LedgerClient, RunOrder
from autohyp.agents.books import Books
from autohyp.config import CampaignConfig
from autohyp.errors import AutohypError, JournalError
from autohyp.execution.job import visible_gpu
from autohyp.execution.kernels import KernelShelf, write_blank_data
from autohyp.execution.nvml import total_memory_mb
from autohyp.execution.sandbox.base import Limits, Sandbox
from autohyp.execution.sizing import Forecast, Size, measure_size
from autohyp.execution.trainer import OutcomeStatus, TrainingJob, TrainingOutcome, run_training
from autohyp.execution.workspace import Workspace, remove_tree
from autohyp.journal import Draft
from autohyp.journal.events import Event, RunFinished, RunLost
from autohyp.paths import CampaignPaths
from autohyp.records import Progress, Run, RunResult, RunStatus, WorkerLive, utc_now

__all__ = ["Slot", "Worker"]

log = logging.getLogger(__name__)

COMPILE_BUDGET_S = 1.0
"""What a script that only compiles is told its budget is; the launcher grants it a run's time."""

_STATE_OF_PHASE: dict[str, Literal["launching", "compiling", "running", "evaluating"]] = {
    "launching": "launching",
    "starting": "compiling",
    "training": "running",
    "evaluating": "evaluating",
}
_TOLD_BY_SUMMARY = {
    "total_tokens_m": "total_tokens_M",
    "mfu_percent": "mfu_percent",
    "num_params_m": "num_params_M",
}


@dataclass(frozen=True)
class Slot:
    """What a worker holds: `gpu_index` is None on a CPU worker, which trains with `threads` threads."""

    worker_id: str
    node_id: str
    threads: int
    gpu_index: int | None = None
    gpu_name: str = ""

    @property
    def gpu_id(self) -> str:
        return "" if self.gpu_index is None else str(self.gpu_index)


class Worker:
    """Runs orders in the calling thread; `cancel` and `live` may be called from others."""

    def __init__(
        self,
        slot: Slot,
        config: CampaignConfig,
        paths: CampaignPaths,
        data_dir: Path,
        ledger: LedgerClient,
        sandbox: Sandbox,
    ) -> None:
        self.slot = slot
        self._config = config
        self._paths = paths
        self._data_dir = data_dir
        self._ledger = ledger
        self._sandbox = sandbox
        self._workspace = Workspace(paths.repository)
        self._kernels = KernelShelf(paths.kernels / (slot.node_id or "here"))
        self._sizes: dict[str, Size | None] = {}  # by commit, of those that runs were built on
        self._cancelled = threading.Event()
        self._order: RunOrder | None = None
        self.live = self._describe(None)
        # A worker that was lost may come back on its node while another has its name elsewhere.
        self._place = paths.worktrees / ".".join(filter(None, (slot.worker_id, slot.node_id)))
        self._clear_place()

    def cancel(self) -> None:
        """Give up the run in progress, and any that still comes: it is interrupted, and tried again later.

        For good: an order that is on its way when the session ends must not start.
        """
        self._cancelled.set()

    def run(self, order: RunOrder) -> None:
        """Carry an order out and record its result, which is dropped when the run was given up meanwhile.

        Raises when the run could not be started (AutohypError, OSError), or the ledger fails (JournalError).
        """
        self._order = order
        self._beat(Progress(phase="launching"))
        try:
            self._tell(order.run.run_id, self.measure(order))
        finally:
            self._order = None
            self._beat(None)  # only now: an observer that asks meanwhile must know that the run is not lost

    def _tell(self, run_id: str, event: Event) -> None:
        """Record how a run ended; whoever took this worker for lost has recorded another end already."""
        key = f"lost:{run_id}" if isinstance(event, RunLost) else f"finish:{run_id}"
        try:
            self._ledger.append([Draft(key, event)])
        except JournalError:
            if run_id in Books(self._ledger).state.in_flight:
                raise
            log.warning("%s was given up before this worker ended it", run_id)

    def measure(self, order: RunOrder) -> RunFinished | RunLost:
        """Train and measure, and return what is to be recorded. Raises as `run` does."""
        try:
            return self._measure(order)
        finally:
            self._clear_place()

    def _measure(self, order: RunOrder) -> RunFinished | RunLost:
        run = order.run
        outcome: TrainingOutcome | None = None
        try:
            with self._workspace.checkout(order.commit, self._place / "source") as source_dir:
                job = self._job(order, source_dir)
                started_s = time.monotonic()
                lent = self._lend_kernels(order, job)
                waited_s = time.monotonic() - started_s if lent else 0.0
                with self._forecast(order, job).made_meanwhile() as forecast:
                    outcome = run_training(replace(job, veto=forecast.veto))
                outcome = replace(
                    outcome,
                    integrity=outcome.integrity | lent | forecast.facts(),
                    total_s=round(outcome.total_s + waited_s, 3),  # the GPU was held
                )
        except (AutohypError, OSError):
            if outcome is None:
                raise
            log.exception("the checkout of %s could not be removed", run.run_id)
        if outcome.status is OutcomeStatus.CANCELLED:
            return RunLost(run_id=run.run_id, reason="it was interrupted", at_fault=False)
        status = RunStatus(outcome.status.value)
        return RunFinished(result=self._result(run, status, outcome.reason, **_measurements(outcome)))

    def _lend_kernels(self, order: RunOrder, job: TrainingJob) -> dict[str, str | float | bool]:
        """Give the run its parent's compiled kernels; returns what its result says of that."""
        share = self._config.run.share_kernels
        if not order.base_commit or not (job.gpu_index is not None if share is None else share):
            return {}
        count = self._kernels.lend(
            order.base_commit,
            job.scratch_dir / "cache",
            lambda: self._compile(order, job),
            self._cancelled.is_set,
        )
        return {"kernels_from": order.base_commit[:12], "kernel_files": count}

    def _compile(self, order: RunOrder, job: TrainingJob) -> Path | None:
        """Run the parent for a moment on data that says nothing; returns its cache if it got to its end."""
        place = self._place / "compiling"
        remove_tree(place)
        write_blank_data(self._data_dir, place / "data")
        with self._workspace.checkout(order.base_commit, self._place / "base") as source_dir:
            outcome = run_training(
                replace(
                    job,
                    run_id=f"{job.run_id}.compile",
                    source_dir=source_dir,
                    scratch_dir=place / "scratch",
                    data_dir=place / "data",
                    log_path=place / "compile.log",
                    split="val",
                    extra_environment={"AUTOHYP_BUDGET_S": f"{COMPILE_BUDGET_S:g}"},
                )
            )
        if outcome.status in (OutcomeStatus.COMPLETED, OutcomeStatus.INVALID):
            return place / "scratch" / "cache"
        log.warning("kernels of %s: %s", order.base_commit[:12], outcome.reason)
        return None

    def _forecast(self, order: RunOrder, job: TrainingJob) -> Forecast:
        """Of the run's memory; on a CPU nobody asks, for it would take the time of what trains there."""
        gpu_index = job.gpu_index
        asks = self._config.run.predict_memory
        if not (gpu_index is not None if asks is None else asks):
            return Forecast()

        def measure(is_over: Callable[[], bool]) -> Size | None:
            return measure_size(replace(job, scratch_dir=self._place / "sizing"), is_over)

        def measure_base(is_over: Callable[[], bool]) -> Size | None:
            if order.base_commit not in self._sizes:
                with self._workspace.checkout(order.base_commit, self._place / "base") as source_dir:
                    scratch_dir = self._place / "base_sizing"
                    size = measure_size(replace(job, source_dir=source_dir, scratch_dir=scratch_dir), is_over)
                if is_over():
                    return None
                self._sizes[order.base_commit] = size
            return self._sizes[order.base_commit]

        has_base = order.base_commit not in ("", order.commit)
        return Forecast(
            measure,
            measure_base,
            base_peak_mb=order.base_peak_mb if has_base else 0.0,
            gpu_memory_mb=0.0 if gpu_index is None else total_memory_mb(visible_gpu(gpu_index)),
        )

    def _job(self, order: RunOrder, source_dir: Path) -> TrainingJob:
        config, run = self._config, order.run
        scratch = self._place / "scratch"
        scratch.mkdir(parents=True, exist_ok=True)
        return TrainingJob(
            run_id=run.run_id,
            source_dir=source_dir,
            scratch_dir=scratch,
            data_dir=self._data_dir,
            seed=run.seed,
            budget_s=config.run.budget_s or 0.0,
            startup_allowance_s=config.run.startup_allowance_s or 0.0,
            evaluation_timeout_s=config.run.evaluation_timeout_s or 0.0,
            split=order.split,
            threads=self.slot.threads,
            gpu_index=self.slot.gpu_index,
            profile=config.profile,
            sandbox=self._sandbox,
            limits=Limits(
                memory_mb=config.sandbox.memory_mb,
                processes=config.sandbox.processes,
                open_files=config.sandbox.open_files,
                file_size_mb=config.sandbox.scratch_mb,
                scratch_mb=config.sandbox.scratch_mb,
            ),
            log_path=self._paths.log(run.experiment_id, run.run_id),
            log_limit_bytes=int(config.sandbox.log_mb * 2**20),
            on_progress=self._beat,
            cancelled=self._cancelled.is_set,
        )

    def _result(self, run: Run, status: RunStatus, reason: str, **measurements: Any) -> RunResult:
        facts = run.model_dump(exclude={"started_at"})
        facts |= {"status": status, "reason": reason, "budget_s": self._config.run.budget_s or 0.0}
        return RunResult.model_validate(facts | {"sandbox": self._sandbox.name} | measurements)

    def _beat(self, progress: Progress | None) -> None:
        self.live = self._describe(progress)
        self._ledger.heartbeat(self.live)

    def _describe(self, progress: Progress | None) -> WorkerLive:
        order = self._order if progress is not None else None
        run = order.run if order else None
        return WorkerLive(
            worker_id=self.slot.worker_id,
            node_id=self.slot.node_id,
            gpu_id=self.slot.gpu_id,
            gpu_name=self.slot.gpu_name,
            pid=os.getpid(),
            state=_STATE_OF_PHASE[progress.phase] if progress else "idle",
            run_id=run.run_id if run else "",
            experiment_id=run.experiment_id if run else "",
            hypothesis_id=order.hypothesis_id if order else "",
            title=order.title if order else "",
            commit=order.commit if order else "",
            progress=progress,
            updated_at=utc_now(),
        )

    def _clear_place(self) -> None:
        """Remove what this worker, or one of the same name before it, left behind.

        What cannot be removed must not cost a result: it is tried again before the next run, and on resume.
        """
        try:
            if self._place.exists():
                for name in ("source", "base"):
                    self._workspace.remove_checkout(self._place / name)
                remove_tree(self._place)
        except (AutohypError, OSError):
            log.exception("%s could not be removed", self._place)


def _measurements(outcome: TrainingOutcome) -> dict[str, Any]:
    """A run's measured fields, and those that only its summary tells."""
    told = {name: _figure(outcome.summary.get(key)) for name, key in _TOLD_BY_SUMMARY.items()}
    tokens = told["total_tokens_m"] * 1e6
    return told | {
        "val_bpb": outcome.val_bpb,
        "val_bpb_legacy": outcome.val_bpb_legacy,
        "charged_s": outcome.charged_s,
        "startup_s": outcome.startup_s,
        "evaluation_s": outcome.evaluation_s,
        "total_s": outcome.total_s,
        "num_steps": outcome.num_steps,
        "tokens_per_second": tokens / outcome.charged_s if outcome.charged_s else 0.0,
        "peak_memory_mb": outcome.peak_memory_mb,
        "curve": outcome.curve,
        "summary": outcome.summary,
        "integrity": outcome.integrity,
        "log_tail": outcome.log_tail,
    }


def _figure(text: str | None) -> float:
    """A finite number from the script's summary, else 0."""
    try:
        value = float(text or 0.0)
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else 0.0
