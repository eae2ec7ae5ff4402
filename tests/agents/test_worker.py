"""A worker's run from the order to the record, with real checkouts; training is a function of the test."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from autohyp.agents import worker as worker_module
from autohyp.agents.base import RunOrder
from autohyp.agents.worker import Slot, Worker
from autohyp.config import CampaignConfig, RunConfig
from autohyp.errors import JournalError, WorkspaceError
from autohyp.execution.job import TrainingJob, TrainingOutcome
from autohyp.execution.sandbox.select import select_sandbox
from autohyp.execution.sizing import Size
from autohyp.execution.workspace import Workspace
from autohyp.journal import Draft
from autohyp.journal import events as ev
from autohyp.paths import CampaignPaths
from autohyp.records import Hardware
from autohyp.testing.fakes import (
    STAND_IN_SOURCE,
    InMemoryLedger,
    baseline_hypothesis,
    make_experiment,
    make_run,
)
from autohyp.testing.scripted_training import make_outcome

RUN = make_run()
Training = Callable[[TrainingJob], None]


class Bench:
    """A worker with a ledger in which its run is in flight, and a training that does what the test says."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths = CampaignPaths(root)
        workspace, self.commit = Workspace.create(
            self.paths.repository, {"train.py": STAND_IN_SOURCE}, "target"
        )
        workspace.close()
        created = ev.CampaignCreated(
            tag="t", objective="", config={}, target_sha256={}, data_sha256="", created_at=""
        )
        experiment = make_experiment(1, baseline_hypothesis())
        self.ledger = InMemoryLedger(
            [
                Draft("campaign", created),
                Draft("propose", ev.HypothesisProposed(hypothesis=experiment.hypothesis)),
                Draft("create", ev.ExperimentCreated(experiment=experiment)),
                Draft("start", ev.RunStarted(run=RUN)),
            ]
        )
        self.order = RunOrder(run=RUN, commit=self.commit, title="t", hypothesis_id="h")
        self.during: Training = lambda job: None

        def train(job: TrainingJob) -> TrainingOutcome:
            self.during(job)
            return make_outcome(job, 1.5)

        monkeypatch.setattr(worker_module, "run_training", train)
        config = CampaignConfig(profile="cpu").resolved(Hardware(cpus=1, memory_gb=4))
        slot = Slot("worker-0", "node", threads=1)
        self.worker = Worker(slot, config, self.paths, root, self.ledger, select_sandbox("none"))

    @property
    def last(self) -> ev.Event:
        return self.ledger.entries[-1].event

    def left(self) -> list[Path]:
        records = self.paths.repository / "worktrees"
        return [*self.paths.worktrees.glob("*"), *records.glob("*")]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path / "t", monkeypatch)


def test_a_run_is_recorded_and_leaves_nothing(bench: Bench) -> None:
    seen: list[str] = []
    bench.during = lambda job: seen.append((job.source_dir / "train.py").read_text())
    bench.worker.run(bench.order)
    assert seen == [STAND_IN_SOURCE]
    assert isinstance(bench.last, ev.RunFinished)
    assert bench.last.result.val_bpb == 1.5
    assert bench.left() == []
    assert bench.worker.live.state == "idle"


def test_it_says_what_it_runs_until_that_is_recorded(bench: Bench) -> None:
    """An observer that is restarted meanwhile must not take the run for lost."""
    said: list[str] = []
    bench.ledger.before_append = lambda number: said.append(bench.worker.live.run_id)
    bench.worker.run(bench.order)
    assert said == [RUN.run_id]
    assert bench.worker.live.run_id == ""


def test_a_result_that_comes_too_late_is_dropped(bench: Bench) -> None:
    lost = ev.RunLost(run_id=RUN.run_id, reason="no sign of life")
    bench.during = lambda job: bench.ledger.append([Draft("lost by the observer", lost)]) and None
    bench.worker.run(bench.order)
    assert bench.last == lost
    assert bench.left() == []
    assert bench.worker.live.state == "idle"


def test_a_result_that_the_ledger_refuses_is_no_silence(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(number: int) -> None:
        raise JournalError("not this one")

    bench.ledger.before_append = refuse
    with pytest.raises(JournalError, match="not this one"):
        bench.worker.run(bench.order)
    assert bench.worker.live.state == "idle"


def test_a_run_that_cannot_be_started_is_not_judged_here(bench: Bench) -> None:
    num_entries = len(bench.ledger.entries)
    order = RunOrder(run=RUN, commit="0" * 40, title="t", hypothesis_id="h")
    with pytest.raises(WorkspaceError):
        bench.worker.run(order)
    assert len(bench.ledger.entries) == num_entries
    assert bench.left() == []
    assert bench.worker.live.state == "idle"
    bench.worker.run(bench.order)
    assert isinstance(bench.last, ev.RunFinished)


def test_a_checkout_that_cannot_be_removed_costs_no_result(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Workspace, folder: Path) -> None:
        raise WorkspaceError("the disk is read-only")

    bench.during = lambda job: monkeypatch.setattr(Workspace, "remove_checkout", fail)
    bench.worker.run(bench.order)
    assert isinstance(bench.last, ev.RunFinished)
    assert bench.last.result.val_bpb == 1.5
    monkeypatch.undo()


def test_a_cancelled_run_is_interrupted_and_so_is_any_that_still_comes(bench: Bench) -> None:
    bench.during = lambda job: bench.worker.cancel()
    bench.worker.run(bench.order)
    assert bench.last == ev.RunLost(run_id=RUN.run_id, reason="it was interrupted", at_fault=False)


def test_workers_of_one_name_on_two_nodes_do_not_share_a_place(bench: Bench) -> None:
    """One that was given up comes back, while another has its name."""
    config = CampaignConfig(profile="cpu").resolved(Hardware(cpus=1, memory_gb=4))
    elsewhere = Slot("worker-0", "elsewhere", threads=1)

    def appear(job: TrainingJob) -> None:
        Worker(elsewhere, config, bench.paths, job.data_dir, bench.ledger, select_sandbox("none"))
        assert (job.source_dir / "train.py").is_file()

    bench.during = appear
    bench.worker.run(bench.order)
    assert isinstance(bench.last, ev.RunFinished)


# The forecast of its memory --------------------------------------------------------------------


@pytest.fixture
def on_a_gpu(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """The same on a GPU of 80 GB; a dry run needs a megabyte for each character of the source."""
    workspace = Workspace(bench.paths.repository)
    larger = workspace.commit_experiment(
        "larger", bench.commit, 2 * STAND_IN_SOURCE, "larger", "2026-01-01T00:00:00Z"
    )
    workspace.close()
    bench.order = replace(bench.order, commit=larger.commit, base_commit=bench.commit, base_peak_mb=50_000.0)
    bench.worker.slot = Slot("worker-0", "node", threads=1, gpu_index=3)
    config = CampaignConfig(profile="gpu", run=RunConfig(share_kernels=False))
    bench.worker._config = config.resolved(Hardware(cpus=1, memory_gb=4, gpus=("H100",)))
    monkeypatch.setattr(worker_module, "total_memory_mb", {"3": 80_000.0}.__getitem__)
    return bench


def wait_for(said: Callable[[], str]) -> str:
    """What it says as soon as it says anything."""
    deadline_s = time.monotonic() + 60
    while not said():
        assert time.monotonic() < deadline_s
    return said()


def test_the_base_is_sized_once_and_the_run_told_before_it_takes_memory(
    on_a_gpu: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, sized = on_a_gpu, []

    def measure_size(job: TrainingJob, is_cancelled: Callable[[], bool]) -> Size:
        assert not job.scratch_dir.exists(), "nothing of the run, nor of another"
        source = (job.source_dir / "train.py").read_text()
        sized.append(source)
        return Size(num_params_m=7.0, tflops_per_step=9.0, memory_mb=len(source))

    monkeypatch.setattr(worker_module, "measure_size", measure_size)
    vetoes: list[str] = []
    bench.during = lambda job: vetoes.append(wait_for(job.veto))
    ended = [bench.worker.measure(bench.order) for _ in range(2)]
    assert sized == [2 * STAND_IN_SOURCE, STAND_IN_SOURCE, 2 * STAND_IN_SOURCE]
    assert vetoes == 2 * ["it would run out of memory: it needs about 98 GiB of this GPU's 78"]
    for event in ended:
        assert isinstance(event, ev.RunFinished)
        assert event.result.integrity["predicted_memory_mb"] == 100_000
        assert event.result.integrity["sized_params_m"] == 7.0
    assert bench.left() == []


def test_the_base_itself_is_sized_and_not_predicted(on_a_gpu: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    told = threading.Event()

    def measure_size(job: TrainingJob, is_cancelled: Callable[[], bool]) -> Size:
        assert not told.is_set(), "once"
        told.set()
        return Size(num_params_m=7.0, tflops_per_step=9.0, memory_mb=1.0)

    monkeypatch.setattr(worker_module, "measure_size", measure_size)
    on_a_gpu.during = lambda job: told.wait(60) and None
    event = on_a_gpu.worker.measure(replace(on_a_gpu.order, commit=on_a_gpu.commit))
    assert isinstance(event, ev.RunFinished)
    assert "predicted_memory_mb" not in event.result.integrity


def test_on_a_cpu_nothing_is_sized_beside_the_training(
    on_a_gpu: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure_size(*_: object) -> None:
        raise AssertionError("it would take the time of what trains")

    monkeypatch.setattr(worker_module, "measure_size", measure_size)
    on_a_gpu.worker.slot = Slot("worker-0", "node", threads=1)
    on_a_gpu.worker._config = CampaignConfig(profile="cpu").resolved(Hardware(cpus=1, memory_gb=4))
    event = on_a_gpu.worker.measure(on_a_gpu.order)
    assert isinstance(event, ev.RunFinished)
    assert event.result.integrity == {}
