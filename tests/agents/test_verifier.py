"""Whether a result holds: which runs are made, how they are compared, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from autohyp.agents.base import RunOrder
from autohyp.agents.verifier import Mute, Verifier, check_commit
from autohyp.errors import CampaignError
from autohyp.execution.workspace import Workspace
from autohyp.journal import CampaignState, Draft, ExperimentEntry, read_journal, replay
from autohyp.journal import events as ev
from autohyp.records import RunResult, RunStatus
from autohyp.testing.campaigns import CampaignShape, write_campaign
from autohyp.testing.fakes import make_result

Score = Callable[[RunOrder], float]


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> CampaignState:
    shape = CampaignShape(num_experiments=30, seed=3, keep_rate=0.3, is_ended=True)
    return replay(read_journal(write_campaign(tmp_path_factory.mktemp("verify"), shape).journal))


@pytest.fixture
def champion(state: CampaignState) -> ExperimentEntry:
    entry = state.champion
    assert entry is not None
    assert entry is not state.baseline
    return entry


def verifier(state: CampaignState, score: Score, gpu_name: str) -> Verifier:
    def measure(order: RunOrder) -> RunResult:
        return make_result(order.run, score(order))

    return Verifier(state, 42, gpu_name, measure)


def gpu_of(entry: ExperimentEntry) -> str:
    [name] = {result.gpu_name for result in entry.measured}
    return name


def test_seeds_are_fresh_and_the_baseline_is_measured_on_the_holdout_only(
    state: CampaignState, champion: ExperimentEntry
) -> None:
    checking = verifier(state, lambda _: 1.0, "")
    orders = checking.orders(champion, 2, holdout=True)
    baseline = state.baseline
    assert baseline is not None
    used = {result.seed for entry in (champion, baseline) for result in entry.results}
    seeds = {order.run.seed for order in orders}
    assert len(seeds) == 2
    assert not seeds & used
    by_split = [(order.split, order.run.experiment_id) for order in orders]
    mine, base = champion.experiment_id, baseline.experiment_id
    assert by_split == [("val", mine)] * 2 + [("holdout", mine), ("holdout", base)] * 2
    assert len({order.run.run_id for order in orders}) == len(orders)
    assert {order.split for order in checking.orders(champion, 1, holdout=False)} == {"val"}
    assert len(checking.orders(baseline, 1, holdout=True)) == 2


def test_a_number_that_comes_again_holds(state: CampaignState, champion: ExperimentEntry) -> None:
    assert champion.mean_bpb is not None
    mean, baseline = champion.mean_bpb, state.baseline
    assert baseline is not None
    assert baseline.mean_bpb is not None
    gain = baseline.mean_bpb - mean

    def score(order: RunOrder) -> float:
        shift = 0.1 if order.split == "holdout" else 0.0  # another text, as hard for both
        return mean + shift + (gain if order.run.experiment_id == baseline.experiment_id else 0.0)

    checking = verifier(state, score, gpu_of(champion))
    found = checking.verify(champion, checking.orders(champion, 2, holdout=True))
    assert found.problems == []
    assert found.improvement is not None
    assert found.improvement.includes_zero
    assert found.holdout_gain is not None
    assert found.holdout_gain.value_bpb == pytest.approx(gain)
    assert found.shrinkage == pytest.approx(0.0, abs=1e-9)
    assert found.document()["shrinkage"] == found.shrinkage


def test_a_lucky_number_and_a_gain_on_validation_text_alone_do_not_hold(
    state: CampaignState, champion: ExperimentEntry
) -> None:
    assert state.noise is not None
    mean, sd = champion.mean_bpb or 0.0, state.noise.sd_bpb
    checking = verifier(state, lambda _: mean + 20 * sd, gpu_of(champion))
    worse, nothing = checking.verify(champion, checking.orders(champion, 2, holdout=True)).problems
    assert "fresh runs are worse than the recorded ones: -" in worse
    assert "it gains nothing on the hold-out split: +0.00000 bpb" in nothing


def test_numbers_of_another_gpu_are_not_compared(state: CampaignState, champion: ExperimentEntry) -> None:
    checking = verifier(state, lambda _: 9.0, "another")
    found = checking.verify(champion, checking.orders(champion, 1, holdout=False))
    assert found.improvement is None
    assert found.problems == []
    assert found.fresh_bpb == 9.0


def test_a_run_without_a_number_is_told_and_nothing_is_recorded(
    state: CampaignState, champion: ExperimentEntry
) -> None:
    def crash(order: RunOrder) -> RunResult:
        return make_result(order.run, status=RunStatus.CRASHED, reason="out of memory")

    checking = Verifier(state, 42, "", crash)
    with pytest.raises(CampaignError, match=r"seed \d+ gave no number: out of memory"):
        checking.verify(champion, checking.orders(champion, 1, holdout=False))
    with pytest.raises(CampaignError, match="records nothing"):
        Mute().append([Draft("key", ev.CampaignEnded(reason=""))])


def test_a_commit_that_is_not_what_the_journal_tells_is_refused(
    state: CampaignState, champion: ExperimentEntry, tmp_path: Path
) -> None:
    workspace, _ = Workspace.create(tmp_path / "repo.git", {"train.py": "X = 1\n"}, "another repository")
    with pytest.raises(CampaignError, match="its commit cannot be checked"):
        check_commit(state, workspace, champion)
    workspace.close()
