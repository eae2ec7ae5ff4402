"""What only a GPU shows: kernels lent from run to run, and memory told before it is taken.

Nothing is measured on a machine without one. Variants share the GPU, so their speed says nothing.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from autohyp.agents.base import RunOrder
from autohyp.agents.verifier import Mute
from autohyp.agents.worker import Slot, Worker
from autohyp.config import CampaignConfig, RunConfig
from autohyp.execution.sandbox.select import select_sandbox
from autohyp.execution.workspace import Workspace
from autohyp.hardware import detect_hardware
from autohyp.journal.events import RunFinished
from autohyp.paths import CampaignPaths
from autohyp.records import ConstantValue, Run, RunResult, RunStatus
from autohyp.source import set_constants

from .figures import Figure

__all__ = ["measure_gpu"]

ROOT = Path(__file__).resolve().parents[2]
BUDGET_S = 10.0
SIDE_BY_SIDE = 3
Constants = Mapping[str, ConstantValue]
BASE: Constants = {"DEVICE_BATCH_SIZE": 16}  # so that the variants fit beside one another
VARIANTS: Sequence[Constants] = (
    {"DEPTH": 12},
    {"ASPECT_RATIO": 96},
    {"MLP_RATIO": 8},
    {"DEVICE_BATCH_SIZE": 32},
    {"WINDOW_PATTERN": "L"},
    {"HEAD_DIM": 64},
)
UNTOUCHED: Constants = {"MATRIX_LR": 0.05}
HUGE: Constants = {"DEPTH": 40, "DEVICE_BATCH_SIZE": 256}
CREATED_AT = "2026-01-01T00:00:00Z"


@dataclass
class _Bench:
    paths: CampaignPaths
    data_dir: Path
    config: CampaignConfig
    gpu_index: int | None

    def commit(self, name: str, base: str, source: str) -> str:
        workspace = Workspace(self.paths.repository)
        try:
            return workspace.commit_experiment(name, base, source, name, CREATED_AT).commit
        finally:
            workspace.close()

    def run(self, name: str, commit: str, base: str, base_peak_mb: float = 0.0) -> RunResult:
        slot = Slot(name, "node", threads=2, gpu_index=self.gpu_index, gpu_name="a GPU")
        sandbox = select_sandbox("auto")
        worker = Worker(slot, self.config, self.paths, self.data_dir, Mute(), sandbox)
        run = Run(run_id=name, experiment_id=name, seed=1, attempt=1, worker_id=name, node_id="node")
        order = RunOrder(run, commit, name, name, base_commit=base, base_peak_mb=base_peak_mb)
        ended = worker.measure(order)
        if not isinstance(ended, RunFinished):
            raise AssertionError(ended.reason)
        return ended.result


def measure_gpu(folder: Path) -> list[Figure]:
    """A base twice, cold and warm; children of it side by side; and one that no GPU has room for."""
    if not detect_hardware().gpus:
        print("    there is no GPU here", flush=True)
        return []
    return _measure(folder / "gpu", "gpu", 0, BASE, VARIANTS)


def _measure(
    folder: Path, profile: str, gpu_index: int | None, base: Constants, variants: Sequence[Constants]
) -> list[Figure]:
    bench = _lay_out(folder, profile, gpu_index)
    source = set_constants((ROOT / "train_template" / "train.py").read_text(), base)
    workspace, target = Workspace.create(
        bench.paths.repository,
        {"train.py": source, "prepare.py": (ROOT / "prepare.py").read_text()},
        "target",
    )
    workspace.close()
    cold = _checked(bench.run("cold", target, target))
    warm = _checked(bench.run("warm", target, target))
    peak_mb = warm.peak_memory_mb

    def run(constants: Constants) -> RunResult:
        name = "-".join(f"{key}-{value}".lower().replace("_", "-") for key, value in constants.items())
        commit = bench.commit(name, target, set_constants(source, constants))
        return bench.run(name, commit, target, peak_mb)

    untouched = _checked(run(UNTOUCHED))
    start_s = time.monotonic()
    huge = run(HUGE)
    vetoed_s = time.monotonic() - start_s
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        results = [_checked(result) for result in pool.map(run, variants)]
    errors = []
    for constants, result in zip(variants, results, strict=True):
        predicted_mb = float(result.integrity["predicted_memory_mb"])
        errors.append(100 * abs(predicted_mb / result.peak_memory_mb - 1))
        memory = f"{predicted_mb:,.0f} MiB predicted, {result.peak_memory_mb:,.0f} measured"
        busy_s = result.integrity.get("startup_gpu_busy_s")
        print(
            f"    {dict(constants)}: {memory}; started in {result.startup_s:.0f} s, the GPU busy {busy_s} s",
            flush=True,
        )
    print(f"    {dict(HUGE)}: {huge.status}: {huge.reason}", flush=True)
    files = warm.integrity["kernel_files"]
    return [
        Figure("compiling what runs build on, once", cold.total_s - warm.total_s, "s"),
        Figure("start-up of a run with its kernels lent", warm.startup_s, "s", note=f"{files:.0f} files"),
        Figure("the same, a constant of the optimizer changed", untouched.startup_s, "s"),
        Figure("memory predicted over measured, median error", statistics.median(errors), "%"),
        Figure("the same, largest of the variants", max(errors), "%", 15, note=f"of {len(errors)}"),
        Figure("what does not fit is given up after", vetoed_s, "s", note=huge.reason),
    ]


def _lay_out(folder: Path, profile: str, gpu_index: int | None) -> _Bench:
    data_dir = folder / "data"
    texts = [f"{sysconfig.get_path(name)}/**/*.py" for name in ("stdlib", "purelib")]  # no download
    prepare = [sys.executable, str(ROOT / "prepare.py"), "--profile", profile, "--data", str(data_dir)]
    subprocess.run([*prepare, "--source", "files", "--paths", *texts], check=True, capture_output=True)
    run = RunConfig(budget_s=BUDGET_S, share_kernels=True, predict_memory=True, startup_allowance_s=300)
    config = CampaignConfig(profile=profile, run=run).resolved(detect_hardware())
    return _Bench(CampaignPaths(folder / "campaign"), data_dir, config, gpu_index)


def _checked(result: RunResult) -> RunResult:
    # Beside others, or with long steps, a run may take more than its seconds; its memory is the same.
    if result.status not in (RunStatus.COMPLETED, RunStatus.INVALID):
        raise AssertionError(f"{result.run_id}: {result.reason}: {result.log_tail[-1000:]}")
    return result
