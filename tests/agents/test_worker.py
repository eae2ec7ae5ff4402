"""A worker's run from the order to the record, with real checkouts; training is a function of the test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from autohyp.agents import worker as worker_module
from autohyp.agents.base import RunOrder
from autohyp.agents.worker import Slot, Worker
from autohyp.config import CampaignConfig
from autohyp.errors import JournalError, WorkspaceError
from autohyp.execution.job import TrainingJob, TrainingOutcome
from autohyp.execution.sandbox.select import select_sandbox
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
