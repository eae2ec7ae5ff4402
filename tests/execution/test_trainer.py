"""The launcher with scripted training runs: honest, broken and hostile ones."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from autohyp.errors import SandboxError, SandboxUnavailableError
from autohyp.execution import trainer as trainer_module
from autohyp.execution.job import visible_gpu
from autohyp.execution.sandbox.base import SandboxProcess, SandboxSpec
from autohyp.execution.sandbox.select import select_sandbox
from autohyp.execution.sandbox.unconfined import UnconfinedSandbox
from autohyp.execution.trainer import (
    OutcomeStatus,
    TrainingJob,
    TrainingOutcome,
    _Launch,
    run_training,
    training_environment,
)
from autohyp.records import Progress
from autohyp.testing.scripted_client import Honest
from autohyp.testing.scripted_training import (
    evaluate_model,
    tiny_data,
    write_scripted_source,
    write_tiny_data,
)

DATA = tiny_data()

Start = Callable[..., TrainingOutcome]


def open_descriptors() -> set[str]:
    """Each with what it is; the one that lists them is gone when it is looked at."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found.add(f"{fd}: {os.readlink(f'/proc/self/fd/{fd}')}")
    return found


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split())


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., TrainingJob]:
    """Makes a job for one of the scripted behaviours."""
    write_tiny_data(tmp_path / "data", DATA)

    def make(behaviour: str = "trains", answers: str = "honest", **changes: Any) -> TrainingJob:
        write_scripted_source(tmp_path / "source", DATA.vocab_size, behaviour, answers)
        settings: dict[str, Any] = {
            "run_id": "run-1",
            "source_dir": tmp_path / "source",
            "scratch_dir": tmp_path / "scratch",
            "data_dir": tmp_path / "data",
            "log_path": tmp_path / "logs" / "train.log",
            "seed": 1,
            "budget_s": 0.2,
            "startup_allowance_s": 20.0,
            "evaluation_timeout_s": 20.0,
            "sandbox": UnconfinedSandbox(),
        }
        return TrainingJob(**settings | changes)

    return make


@pytest.fixture
def start(job: Callable[..., TrainingJob]) -> Start:
    """Runs a job, and checks that nothing of it is left."""

    def run(behaviour: str = "trains", answers: str = "honest", **changes: Any) -> TrainingOutcome:
        descriptors, processes, threads = open_descriptors(), children(), threading.active_count()
        outcome = run_training(job(behaviour, answers, **changes))
        assert open_descriptors() == descriptors
        assert children() == processes
        assert threading.active_count() == threads
        return outcome

    return run


def test_an_honest_run_is_measured(start: Start, tmp_path: Path) -> None:
    seen: list[Progress] = []
    outcome = start(on_progress=seen.append)
    assert outcome.status is OutcomeStatus.COMPLETED, outcome
    assert outcome.val_bpb == pytest.approx(evaluate_model(Honest(DATA.vocab_size), DATA).val_bpb, rel=1e-6)
    assert outcome.val_bpb_legacy is not None
    assert outcome.reason == ""
    assert outcome.summary["num_params_M"] == "0.1"
    assert outcome.num_steps == 5
    assert [point.step for point in outcome.curve] == [0, 1, 2, 3, 4]
    assert outcome.integrity["noise_class"] == "float32"
    assert outcome.integrity["exit_code"] == 0
    assert 0 < outcome.charged_s < 1.2
    assert 0 < outcome.startup_s < outcome.total_s
    assert outcome.peak_memory_mb > 1
    assert outcome.sandbox == "none"
    assert "val_bpb" in (tmp_path / "logs" / "train.log").read_text()
    assert seen[0].phase == "starting"


def test_the_result_tells_how_long_the_gpu_computed_before_it_was_charged(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(trainer_module, "utilisation_of", lambda gpu: asked.append(gpu) or (lambda: 0.5))
    outcome = start(gpu_index=0, extra_environment={"CUDA_VISIBLE_DEVICES": ""})
    assert outcome.status is OutcomeStatus.COMPLETED, outcome
    assert asked == [visible_gpu(0)]
    # The load is looked at while the script starts, and not any more once it trains.
    assert 0 <= float(outcome.integrity["startup_gpu_busy_s"]) <= 0.5 * outcome.startup_s + 0.1


def test_an_honest_run_is_measured_in_a_sandbox(start: Start) -> None:
    try:
        sandbox = select_sandbox("auto")
    except SandboxUnavailableError as error:
        pytest.skip(str(error))
    outcome = start(sandbox=sandbox)
    assert outcome.status is OutcomeStatus.COMPLETED, outcome
    assert outcome.sandbox == sandbox.name


@pytest.mark.parametrize(
    ("behaviour", "status", "reason"),
    [
        ("prints_a_number", "crashed", "without asking to be evaluated"),
        ("crashes", "crashed", "exit code 1: ValueError: shapes (3,4) and (5,6) not aligned"),
        ("hangs", "timed_out", "not asked to be evaluated"),
        ("hangs_before_start", "timed_out", "not asked to be evaluated"),
        ("trains_too_long", "invalid", "its budget is 0.2 s"),
        ("starts_twice", "invalid", "its budget is 0.2 s"),
        ("talks_nonsense", "invalid", "something else than evaluation frames"),
    ],
)
def test_runs_without_a_number(
    start: Start, monkeypatch: pytest.MonkeyPatch, behaviour: str, status: str, reason: str
) -> None:
    allowance_s = 0.1 if behaviour == "hangs_before_start" else 20
    if behaviour.startswith("hangs"):
        monkeypatch.setattr("autohyp.execution.charging.MIN_TOLERANCE_S", 0.1)
    outcome = start(behaviour, startup_allowance_s=allowance_s)
    assert outcome.status == status, outcome
    assert reason in outcome.reason
    assert outcome.val_bpb is None
    assert "\x1b" not in outcome.log_tail + outcome.reason


def test_answers_that_are_refused_make_the_run_invalid(start: Start) -> None:
    outcome = start(answers="looks_ahead")
    assert outcome.status is OutcomeStatus.INVALID
    assert "looks ahead" in outcome.reason
    assert outcome.val_bpb is None
    assert "refused" in outcome.log_tail


def test_a_model_that_raises_in_the_evaluation_crashes_the_run(start: Start) -> None:
    outcome = start(answers="raises")
    assert outcome.status is OutcomeStatus.CRASHED
    assert outcome.reason.endswith("CUDA out of memory")


def test_an_evaluation_that_hangs_is_ended(start: Start) -> None:
    outcome = start("hangs_in_evaluation", evaluation_timeout_s=0.1)
    assert outcome.status is OutcomeStatus.TIMED_OUT
    assert "0.1 s" in outcome.reason


def test_a_script_that_does_not_end_keeps_its_number(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autohyp.execution.trainer.EXIT_GRACE_S", 0.1)
    outcome = start("hangs_after_evaluation")
    assert outcome.status is OutcomeStatus.COMPLETED
    assert outcome.integrity["was_killed"] is True


def test_no_process_outlives_its_run(start: Start, tmp_path: Path) -> None:
    outcome = start("leaves_processes")
    assert outcome.status is OutcomeStatus.COMPLETED
    child = int((tmp_path / "scratch" / "tmp" / "child.pid").read_text())
    assert not Path(f"/proc/{child}").exists()


def test_a_log_flood_is_cut_and_ended(start: Start, tmp_path: Path) -> None:
    outcome = start("floods_the_log", budget_s=60.0, log_limit_bytes=100_000)
    assert outcome.status is OutcomeStatus.CRASHED
    assert "printed more than" in outcome.reason
    log = (tmp_path / "logs" / "train.log").read_text()
    assert len(log) < 101_000
    assert set(log.splitlines()[0]) == set("noise")


def test_a_cancelled_run_ends_at_once(start: Start) -> None:
    cancelled_at_s: list[float] = []

    def cancelled() -> bool:
        cancelled_at_s.append(time.monotonic())
        return len(cancelled_at_s) > 3

    outcome = start("hangs", budget_s=60.0, cancelled=cancelled)
    assert outcome.status is OutcomeStatus.CANCELLED
    assert time.monotonic() - cancelled_at_s[3] < 1.0


def test_a_veto_ends_a_run_that_does_not_train_yet(start: Start) -> None:
    outcome = start("hangs_before_start", veto=lambda: "it would run out of memory")
    assert (outcome.status, outcome.reason) == (OutcomeStatus.CRASHED, "it would run out of memory")
    assert outcome.integrity["out_of_memory"] is True
    assert outcome.integrity["was_killed"] is True


def test_a_run_that_trains_is_not_ended_by_a_prediction(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autohyp.execution.charging.MIN_TOLERANCE_S", 0.1)
    monkeypatch.setattr(trainer_module, "PROGRESS_INTERVAL_S", 0.0)
    phases: list[str] = []

    def veto() -> str:
        return "it would run out of memory" if "training" in phases else ""

    outcome = start("hangs", on_progress=lambda progress: phases.append(progress.phase), veto=veto)
    assert veto()
    assert outcome.status is OutcomeStatus.TIMED_OUT
    assert "out_of_memory" not in outcome.integrity


def test_a_run_that_ran_out_of_memory_says_so(start: Start) -> None:
    assert start("trains", "raises").integrity["out_of_memory"] is True


def test_an_error_in_a_callback_leaves_nothing_behind(job: Callable[..., TrainingJob]) -> None:
    def fail(progress: Progress) -> None:
        raise KeyError("the worker's bug")

    descriptors, processes = open_descriptors(), children()
    with pytest.raises(KeyError):
        run_training(job("hangs", on_progress=fail))
    assert (open_descriptors(), children()) == (descriptors, processes)


def test_a_sandbox_that_cannot_start_leaves_nothing_behind(job: Callable[..., TrainingJob]) -> None:
    class Broken(UnconfinedSandbox):
        def launch(self, spec: SandboxSpec) -> SandboxProcess:
            raise SandboxError("no")

    descriptors, processes = open_descriptors(), children()
    with pytest.raises(SandboxError):
        run_training(job(sandbox=Broken()))
    assert (open_descriptors(), children()) == (descriptors, processes)


def test_an_evaluator_without_data_is_not_blamed_on_the_run(start: Start, tmp_path: Path) -> None:
    (tmp_path / "data" / "val" / "rows.npy").write_bytes(b"torn")
    outcome = start("hangs", budget_s=60.0)
    assert outcome.status is OutcomeStatus.CRASHED
    assert "evaluator" in outcome.reason


@pytest.mark.parametrize("event", [b"", b"evaluation_started"], ids=["before", "during"])
@pytest.mark.parametrize("kills", [1, 2])
def test_an_evaluator_that_breaks_is_replaced_once(
    start: Start, monkeypatch: pytest.MonkeyPatch, event: bytes, kills: int
) -> None:
    """Killed when it has asked for something, or as soon as it runs: the training is not lost."""
    start_evaluator, on_evaluator = _Launch._start_evaluator, _Launch._on_evaluator
    killed: list[int] = []

    def kill(launch: _Launch) -> None:
        if len(killed) < kills:
            killed.append(launch._evaluator.pid)
            launch._evaluator.kill()

    def started(launch: _Launch, ours: socket.socket) -> None:
        start_evaluator(launch, ours)
        if not event:
            kill(launch)

    def heard(launch: _Launch, data: bytes) -> None:
        on_evaluator(launch, data)
        if event and event in data:
            kill(launch)

    monkeypatch.setattr(_Launch, "_start_evaluator", started)
    monkeypatch.setattr(_Launch, "_on_evaluator", heard)
    outcome = start(budget_s=5.0)
    assert outcome.integrity["evaluator_was_replaced"] is True
    if kills == 1:
        assert outcome.status is OutcomeStatus.COMPLETED, outcome
        honest = evaluate_model(Honest(DATA.vocab_size), DATA).val_bpb
        assert outcome.val_bpb == pytest.approx(honest, rel=1e-6)
        assert outcome.num_steps == 5
    else:
        assert outcome.status is OutcomeStatus.CRASHED
        assert "evaluator" in outcome.reason
        assert outcome.val_bpb is None


def test_a_gpu_is_named_by_its_uuid(tmp_path: Path) -> None:
    for minor, bus in ((0, "0000:1a:00.0"), (3, "0000:9f:00.0")):
        (tmp_path / bus).mkdir()
        text = f"Model: \t\t NVIDIA H200\nGPU UUID: \t GPU-{minor}\nDevice Minor: \t {minor}\n"
        (tmp_path / bus / "information").write_text(text)
    assert [visible_gpu(index, tmp_path) for index in (0, 3, 5)] == ["GPU-0", "GPU-3", "5"]


def test_the_environment_is_an_allow_list(
    job: Callable[..., TrainingJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "s3cret")
    environment = training_environment(job(), 7, 8, 9)
    assert "s3cret" not in environment.values()
    assert (environment["AUTOHYP_CLOCK_FD"], environment["AUTOHYP_EVAL_FD"]) == ("7", "8")
    assert environment["AUTOHYP_EVAL_SPARE_FD"] == "9"
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
