"""What a run is asked to do, what became of it, and the environment that it sees."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from autohyp.execution.sandbox.base import Limits, Sandbox
from autohyp.records import CurvePoint, Progress

__all__ = ["OutcomeStatus", "TrainingJob", "TrainingOutcome", "training_environment", "visible_gpu"]

CPU_ENVIRONMENT = {
    # glibc gives large freed blocks back to the kernel and takes them anew each step; keeping them makes
    # small models on a CPU about a fifth faster.
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(1 << 26),
}
GPU_ENVIRONMENT = ("LD_LIBRARY_PATH", "CUDA_HOME", "TRITON_LIBCUDA_PATH")


class OutcomeStatus(StrEnum):
    """How a run ended; all but `cancelled` are also a `records.RunStatus`."""

    COMPLETED = "completed"
    CRASHED = "crashed"
    TIMED_OUT = "timed_out"
    INVALID = "invalid"
    CANCELLED = "cancelled"


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """One run. `source_dir` holds train.py and prepare.py and is read-only for the run; `scratch_dir`
    is all that it can write to and is created here; both are apart from one another and from
    `data_dir`, a prepared folder.

    `on_progress` is called about once a second, `cancelled` five times, and before training `veto`, whose
    answer is a reason why the run cannot work, or empty; they must return at once, for nothing is watched
    meanwhile. `threads` limits the numeric libraries.
    """

    run_id: str
    source_dir: Path
    scratch_dir: Path
    data_dir: Path
    log_path: Path
    seed: int
    budget_s: float
    startup_allowance_s: float
    evaluation_timeout_s: float
    sandbox: Sandbox
    profile: str = "cpu"
    split: str = "val"
    threads: int = 1
    gpu_index: int | None = None
    limits: Limits = field(default_factory=Limits)
    log_limit_bytes: int = 4 << 20
    extra_environment: Mapping[str, str] = field(default_factory=dict)
    extra_readonly: tuple[Path, ...] = ()
    on_progress: Callable[[Progress], None] = field(default=lambda progress: None)
    cancelled: Callable[[], bool] = field(default=lambda: False)
    veto: Callable[[], str] = field(default=lambda: "")


@dataclass(frozen=True, kw_only=True)
class TrainingOutcome:
    """What became of a run.

    `val_bpb` is None unless `status` is completed; `reason` is a sentence unless it is. `num_steps`,
    `summary`, `curve` and the log come from the script; on a GPU `peak_memory_mb` too. `integrity`
    holds what the evaluator checked and what the launcher noticed.
    """

    run_id: str
    status: OutcomeStatus
    reason: str
    val_bpb: float | None
    val_bpb_legacy: float | None
    budget_s: float
    charged_s: float
    startup_s: float
    evaluation_s: float
    total_s: float
    num_steps: int
    peak_memory_mb: float
    summary: dict[str, str]
    curve: tuple[CurvePoint, ...]
    integrity: dict[str, str | float | bool]
    sandbox: str
    log_tail: str


def visible_gpu(gpu_index: int, driver: Path = Path("/proc/driver/nvidia/gpus")) -> str:
    """The UUID of /dev/nvidia<gpu_index>, else the index.

    An index would count the devices that a process may open: in a sandbox with one of them it is always 0.
    """
    for information in sorted(driver.glob("*/information")):
        text = information.read_text(errors="replace")
        fields: dict[str, str] = dict(re.findall(r"^([^:\n]+):\s*(.*?)\s*$", text, re.MULTILINE))
        if fields.get("Device Minor") == str(gpu_index) and "GPU UUID" in fields:
            return fields["GPU UUID"]
    return str(gpu_index)


def training_environment(
    job: TrainingJob, clock_fd: int, evaluation_fd: int, spare_fd: int
) -> dict[str, str]:
    """The whole environment of the run: an allow-list, nothing of ours.

    At `spare_fd` a second evaluator answers, should the one at `evaluation_fd` break.
    """
    scratch, threads = str(job.scratch_dir), str(job.threads)
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/cuda/bin:/usr/local/bin:/usr/bin:/bin",
        "HOME": scratch,
        "TMPDIR": f"{scratch}/tmp",
        "XDG_CACHE_HOME": f"{scratch}/cache",
        "TORCHINDUCTOR_CACHE_DIR": f"{scratch}/cache/inductor",
        "TRITON_CACHE_DIR": f"{scratch}/cache/triton",
        "LANG": "C.UTF-8",
        "USER": "autohyp",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONNOUSERSITE": "1",
        "PYTHONUNBUFFERED": "1",
        "CUDA_VISIBLE_DEVICES": "" if job.gpu_index is None else visible_gpu(job.gpu_index),
        "AUTOHYP_PROFILE": job.profile,
        "AUTOHYP_BUDGET_S": f"{job.budget_s:g}",
        "AUTOHYP_SEED": str(job.seed),
        "AUTOHYP_DATA": str(job.data_dir),
        "AUTOHYP_CLOCK_FD": str(clock_fd),
        "AUTOHYP_EVAL_FD": str(evaluation_fd),
        "AUTOHYP_EVAL_SPARE_FD": str(spare_fd),
    }
    if job.gpu_index is None:
        environment |= CPU_ENVIRONMENT
    else:
        environment |= {name: os.environ[name] for name in GPU_ENVIRONMENT if name in os.environ}
    return environment | dict(job.extra_environment)
