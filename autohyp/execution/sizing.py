"""How large the training of a train.py is, told while it starts, before it has taken a GPU's memory.

The script goes through one step on tensors without contents, in the sandbox (`dry_run`). That tells its
parameters and FLOPs, and the memory of a plain fp32 run; what compiled kernels and bf16 make of that differs
by a factor that hardly changes between an experiment and its parent. So the memory of an experiment is
predicted from what its parent was measured to take, times the ratio of the two dry runs.

Not covered: scripts that need a GPU to get through a step; they are tried without a prediction.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from autohyp.errors import AutohypError
from autohyp.execution.job import TrainingJob, training_environment
from autohyp.execution.sandbox.base import SandboxSpec

__all__ = ["Forecast", "Size", "measure_size"]

log = logging.getLogger(__name__)

DRY_RUN = Path(__file__).with_name("dry_run.py")
DRY_RUN_LIMIT_S = 120.0
MAX_SIZE_FILE_BYTES = 4096
POLL_S = 0.1
SURE_EXCESS = 1.15
"""How far a prediction must lie above a GPU's memory to be believed: it is good to about a tenth, and one
that is wrong would cost an experiment that fits."""


@dataclass(frozen=True)
class Size:
    """One training step's parameters, FLOPs (of matrix products and attention) and fp32 memory."""

    num_params_m: float
    tflops_per_step: float
    memory_mb: float


def measure_size(job: TrainingJob, is_cancelled: Callable[[], bool] = lambda: False) -> Size | None:
    """The size of the train.py in `job.source_dir`, in seconds and without a GPU; None if it cannot be told.

    Of the job only its folders, data, sandbox and limits count; its scratch folder is used up.
    """
    job = replace(job, gpu_index=None)
    size_file = job.scratch_dir / "size.json"
    for folder in (job.scratch_dir / "tmp", job.scratch_dir / "cache"):
        folder.mkdir(parents=True, exist_ok=True)
    environment = {
        name: value
        for name, value in training_environment(job, 0, 0, 0).items()
        if not name.endswith("_FD")  # nobody listens
    }
    visible = [job.data_dir / "train", job.data_dir / "tokenizer", job.data_dir / "meta.json"]
    with open(os.devnull, "wb") as nowhere:
        spec = SandboxSpec(
            command=(sys.executable, "-s", str(DRY_RUN), str(size_file)),
            cwd=job.source_dir,
            stdout_fd=nowhere.fileno(),
            readonly=(job.source_dir, DRY_RUN, *visible),
            writable=(job.scratch_dir,),
            environment=environment,
            limits=job.limits,
        )
        give_up_s = time.monotonic() + DRY_RUN_LIMIT_S
        with job.sandbox.launch(spec) as process:
            while process.wait(POLL_S) is None:
                if is_cancelled() or time.monotonic() > give_up_s:
                    return None
    return _read_size(size_file)


def _read_size(path: Path) -> Size | None:
    """What the dry run wrote, if it is what it should be: the script might have written it."""
    try:
        with path.open("rb") as file:
            told = json.loads(file.read(MAX_SIZE_FILE_BYTES))
        size = Size(**{name: float(value) for name, value in told.items()})
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None
    return size if all(math.isfinite(value) and value >= 0 for value in asdict(size).values()) else None


Measure = Callable[[Callable[[], bool]], Size | None]


def _tell_nothing(_is_over: Callable[[], bool]) -> Size | None:
    return None


class Forecast:
    """Whether a run will fit into its GPU, found out in a thread of its own while the run starts.

    `measure_base` gives the size of what the run's experiment was made from, and `base_peak_mb` is what that
    was measured to take; without it nothing is predicted, only told. Both are given a function that says when
    nobody waits any more.
    """

    def __init__(
        self,
        measure: Measure = _tell_nothing,
        measure_base: Measure = _tell_nothing,
        base_peak_mb: float = 0.0,
        gpu_memory_mb: float = 0.0,
    ) -> None:
        self._measure, self._measure_base = measure, measure_base
        self._base_peak_mb, self._gpu_memory_mb = base_peak_mb, gpu_memory_mb
        self._is_over = threading.Event()
        self._found: dict[str, float] = {}

    @contextmanager
    def made_meanwhile(self) -> Iterator[Forecast]:
        """Works while the block runs; what is not found by its end is given up."""
        thread = threading.Thread(target=self._work, name="forecast", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._is_over.set()
            thread.join()

    def veto(self) -> str:
        """Why the run need not go on, or nothing."""
        predicted_mb = self._found.get("predicted_memory_mb", 0.0)
        if self._gpu_memory_mb <= 0 or predicted_mb <= SURE_EXCESS * self._gpu_memory_mb:
            return ""
        return (
            f"it would run out of memory: it needs about {predicted_mb / 1024:.0f} GiB "
            f"of this GPU's {self._gpu_memory_mb / 1024:.0f}"
        )

    def facts(self) -> dict[str, str | float | bool]:
        """What a result tells of it: figures by name, none where nothing was found out."""
        return dict(self._found)

    def _work(self) -> None:
        try:
            size = self._measure(self._is_over.is_set)
            if size is None:
                return
            found = {"sized_params_m": size.num_params_m, "tflops_per_step": size.tflops_per_step}
            base = self._measure_base(self._is_over.is_set) if self._base_peak_mb > 0 else None
            if base is not None and base.memory_mb > 0:
                found["gpu_memory_mb"] = self._gpu_memory_mb
                found["predicted_memory_mb"] = self._base_peak_mb * size.memory_mb / base.memory_mb
            self._found = {name: round(value, 3) for name, value in found.items()}
        except (AutohypError, OSError):
            log.exception("the size could not be told")
