"""What trust costs a run: its sandbox and preflight, and an evaluator in another process."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from autohyp.config import CPU_CONSTANTS
from autohyp.execution.job import OutcomeStatus, TrainingJob
from autohyp.execution.preflight import PreflightLimits, check
from autohyp.execution.sandbox.base import Sandbox, SandboxSpec
from autohyp.execution.sandbox.select import select_sandbox
from autohyp.execution.sandbox.unconfined import UnconfinedSandbox
from autohyp.execution.trainer import run_training
from autohyp.shapes import SEQUENCE_LEN
from autohyp.source import set_constants

from .figures import Figure

__all__ = ["measure_trust"]

ROOT = Path(__file__).resolve().parents[2]
LAUNCHES = 40
CHECKS = 40
EVALUATIONS = 9
BACKENDS = ("bubblewrap", "landlock")
TIMING_SCRIPT = """
import time

import torch

import prepare
import model as template

torch.manual_seed(prepare.SEED)
model = template.build_model(prepare.Tokenizer.from_data().vocab_size, prepare.MAX_SEQ_LEN)
torch.nn.init.normal_(model.head.weight, std=0.1)  # as it comes it answers with zeros
rows = template.DEVICE_BATCH_SIZE


def plainly():
    start_s = time.perf_counter()
    with torch.no_grad():
        prepare._bits_per_byte(prepare.ModelAnswers(model.eval(), rows))
    return time.perf_counter() - start_s


plainly()  # the first pass pays for memory that the others find
before_s = plainly()
start_s = time.perf_counter()
prepare.evaluate_bpb(model, rows)
evaluated_s = time.perf_counter() - start_s
plain_s = (before_s + plainly()) / 2
print(f"---\\nplain_s: {plain_s}\\nevaluated_s: {evaluated_s}")
"""


def measure_trust(folder: Path) -> list[Figure]:
    """Every figure is a median; what is compared is measured in turns."""
    preflight_ms = _preflight_ms()
    return [
        Figure("preflight of one edit, median", preflight_ms, "ms", note=f"of {CHECKS}"),
        *_launching(folder / "launching", preflight_ms),
        *_evaluating(folder / "evaluating"),
    ]


def _preflight_ms() -> float:
    """Of edits of the real train.py that were not seen before; the parent was, as in a campaign."""
    parent = set_constants((ROOT / "train_template" / "train.py").read_text(), CPU_CONSTANTS)
    limits = PreflightLimits(sequence_len=SEQUENCE_LEN["cpu"])
    children = [set_constants(parent, {"MATRIX_LR": 0.03 + number / 1e4}) for number in range(CHECKS + 1)]
    times = []
    for child in children:
        start_s = time.perf_counter()
        report = check(child, parent, {}, limits)
        times.append(time.perf_counter() - start_s)
        if not report.is_clear:
            raise AssertionError(report.reason)
    return 1000 * statistics.median(times[1:])


def _launching(folder: Path, preflight_ms: float) -> list[Figure]:
    """From the launch of a program that does nothing to its end, with and without a sandbox."""
    folder.mkdir()
    sandboxes: dict[str, Sandbox] = {name: select_sandbox(name) for name in BACKENDS}
    sandboxes["none"] = UnconfinedSandbox()
    times: dict[str, list[float]] = {name: [] for name in sandboxes}
    with (folder / "output").open("wb") as output:
        spec = SandboxSpec(
            command=(sys.executable, "-I", "-S", "-c", ""),
            cwd=folder,
            stdout_fd=output.fileno(),
            writable=(folder,),
        )
        for _ in range(LAUNCHES):
            for name, sandbox in sandboxes.items():
                start_s = time.perf_counter()
                with sandbox.launch(spec) as process:
                    if process.wait():
                        raise AssertionError(f"{name}: {process.outcome}")
                times[name].append(1000 * (time.perf_counter() - start_s))
    plain_ms = statistics.median(times["none"])
    figures = []
    for name in BACKENDS:
        added_ms = statistics.median(times[name]) - plain_ms
        what = f"added to a run by {name} and preflight, median"
        note = f"{added_ms:.0f} ms of it the sandbox's, of {LAUNCHES} launches"
        figures.append(Figure(what, added_ms + preflight_ms, "ms", 150, note=note))
    return figures


def _evaluating(folder: Path) -> list[Figure]:
    """The same model of the cpu profile, measured by the evaluator and by a plain loop in its own process."""
    data, source = folder / "data", folder / "source"
    source.mkdir(parents=True)
    prepare = [sys.executable, str(ROOT / "prepare.py"), "--profile", "cpu", "--data", str(data)]
    subprocess.run(prepare, check=True, capture_output=True)
    shutil.copy(ROOT / "prepare.py", source)
    template = (ROOT / "train_template" / "train.py").read_text()
    (source / "model.py").write_text(set_constants(template, CPU_CONSTANTS))
    (source / "train.py").write_text(TIMING_SCRIPT)
    plain, evaluated = [], []
    for number in range(EVALUATIONS):
        summary = _evaluate(folder, source, data, number)
        plain.append(float(summary["plain_s"]))
        evaluated.append(float(summary["evaluated_s"]))
    overhead = [100 * (each / base - 1) for each, base in zip(evaluated, plain, strict=True)]
    spread = f"{min(overhead):.0f} to {max(overhead):.0f} % in {EVALUATIONS} runs"
    note = f"{statistics.median(plain):.2f} s in-process; {spread}"
    what = "the evaluator over an in-process evaluation, median"
    return [Figure(what, statistics.median(overhead), "%", 10, note=note)]


def _evaluate(folder: Path, source: Path, data: Path, number: int) -> dict[str, str]:
    job = TrainingJob(
        run_id=f"evaluation-{number}",
        source_dir=source,
        scratch_dir=folder / f"scratch-{number}",
        data_dir=data,
        log_path=folder / f"{number}.log",
        seed=number,
        budget_s=60,
        startup_allowance_s=60,
        evaluation_timeout_s=120,
        sandbox=UnconfinedSandbox(),  # the plain loop reads what a sandbox hides
    )
    outcome = run_training(job)
    if outcome.status is not OutcomeStatus.COMPLETED:
        raise AssertionError(f"{outcome.reason}: {outcome.log_tail[-1000:]}")
    return outcome.summary
