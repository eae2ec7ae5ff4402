"""Whole campaigns over the fakes: what is real is found, noise is not, nothing is lost on the way."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from autohyp.agents.base import RunOrder
from autohyp.agents.observer import Observer
from autohyp.config import CampaignConfig, LimitsConfig
from autohyp.errors import JournalError, WorkspaceError
from autohyp.execution.workspace import Workspace
from autohyp.journal import CampaignState, Draft, ExperimentEntry
from autohyp.journal import events as ev
from autohyp.records import (
    BASELINE_KIND,
    Brief,
    ConstantValue,
    DiffEdit,
    Hypothesis,
    PastExperiment,
    Run,
    RunResult,
    RunStatus,
    SourceEdit,
    Tool,
    ToolStatus,
    Verdict,
)
from autohyp.testing.fakes import (
    STAND_IN_SOURCE,
    FakeFleet,
    InMemoryWorkspace,
    ProcessDiedError,
    ScriptedObjective,
    SimulatedCampaign,
    make_hypothesis,
    make_result,
)

REAL_GAIN = make_hypothesis("real-gain", {"MATRIX_LR": 0.08})
HYPOTHESES = [
    make_hypothesis("noise-1", {"WEIGHT_DECAY": 0.1}),
    REAL_GAIN,
    make_hypothesis("crashes", {"DEPTH": 12}),
    make_hypothesis("cheats", {"WINDOW_PATTERN": "L"}),
    make_hypothesis("noise-2", {"WARMUP_RATIO": 0.1}),
    make_hypothesis("worse", {"WARMDOWN_RATIO": 0.9}),
    make_hypothesis("hangs", {"DEPTH": 5}),
    make_hypothesis("real-gain-2", {"WEIGHT_DECAY": 0.05}),
]
OBJECTIVE = ScriptedObjective(
    effects={("MATRIX_LR", 0.08): -0.03, ("WEIGHT_DECAY", 0.05): -0.02, ("WARMDOWN_RATIO", 0.9): 0.03},
    failures={
        ("DEPTH", 12): RunStatus.CRASHED,
        ("DEPTH", 5): RunStatus.TIMED_OUT,
        ("WINDOW_PATTERN", "L"): RunStatus.INVALID,
    },
)


def config(limits: dict[str, Any] | None = None, **decisions: Any) -> CampaignConfig:
    return CampaignConfig.model_validate(
        {
            "profile": "cpu",
            "run": {"constants": {}},
            "limits": {"max_experiments": 9} if limits is None else limits,
            "decisions": decisions,
        }
    )


def simulate(
    hypotheses: list[Hypothesis] = HYPOTHESES,
    limits: dict[str, Any] | None = None,
    num_workers: int = 1,
    objective: ScriptedObjective = OBJECTIVE,
    **decisions: Any,
) -> SimulatedCampaign:
    return SimulatedCampaign(objective, hypotheses, config(limits, **decisions), num_workers)


def by_title(state: CampaignState) -> dict[str, ExperimentEntry]:
    return {
        entry.experiment.hypothesis.title.removeprefix("Try "): entry for entry in state.experiments.values()
    }


def verdicts(state: CampaignState) -> dict[str, Verdict | None]:
    return {title: entry.verdict for title, entry in by_title(state).items()}


EXPECTED = {
    "baseline": Verdict.KEEP,
    "noise-1": Verdict.DISCARD,
    "real-gain": Verdict.KEEP,
    "crashes": Verdict.CRASH,
    "cheats": Verdict.INVALID,
    "noise-2": Verdict.DISCARD,
    "worse": Verdict.DISCARD,
    "hangs": Verdict.CRASH,
    "real-gain-2": Verdict.KEEP,
}


def assert_nothing_is_lost_or_counted_twice(campaign: SimulatedCampaign) -> None:
    """Every finished run is one result; every seed of an experiment has one; nothing is in flight."""
    state = campaign.ledger.state()
    finished = [e.event.result.run_id for e in campaign.ledger.entries if isinstance(e.event, ev.RunFinished)]
    assert Counter(finished) == Counter(set(finished))
    assert state.num_results == len(finished)
    assert state.in_flight == {}
    for entry in state.experiments.values():
        assert len({result.seed for result in entry.results}) == len(entry.results)
    decided = [entry.experiment_id for entry in state.decided()]
    assert len(decided) == len(set(decided))


# A whole campaign ----------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [1, 2, 5])
def test_the_real_gains_are_found_and_kept_and_nothing_else_is(num_workers: int) -> None:
    campaign = simulate(num_workers=num_workers)
    observer = campaign.play()
    state = campaign.ledger.state()
    # With many workers the second gain begins before the first is believed, and then is the smaller one.
    beside = num_workers == 5
    assert verdicts(state) == EXPECTED | ({"real-gain-2": Verdict.DISCARD} if beside else {})
    assert state.champion is not None
    assert state.champion.experiment.hypothesis.title == f"Try real-gain{'' if beside else '-2'}"
    assert state.champion.experiment.parent_experiment_id is not None
    assert observer.finished == state.ended == "the limit of 9 experiments is reached"
    assert campaign.workspace.champion_commit == state.champion.experiment.commit
    assert_nothing_is_lost_or_counted_twice(campaign)


def test_gains_build_on_one_another_with_one_worker() -> None:
    campaign = simulate()
    campaign.play()
    state = campaign.ledger.state()
    assert state.champion is not None
    constants = state.champion.experiment.constants
    assert (constants["MATRIX_LR"], constants["WEIGHT_DECAY"]) == (0.08, 0.05)
    assert state.champion.mean_bpb == pytest.approx(1.75, abs=0.002)
    assert campaign.workspace.champion_log[1:] == [
        state.experiments[experiment_id].experiment.commit for experiment_id in state.lineage
    ]


def test_the_baseline_is_run_three_times_before_anything_else() -> None:
    campaign = simulate()
    campaign.play()
    orders = [(order.title, order.run.seed) for order in campaign.fleet.assigned]
    assert orders[:3] == [("baseline", 42), ("baseline", 43), ("baseline", 44)]
    assert orders[3] == ("Try noise-1", 42)


def test_with_many_workers_nobody_waits_for_the_baseline_but_nothing_is_decided_before_it() -> None:
    campaign = simulate(num_workers=6)
    observer = campaign.observer()
    observer.step(0)
    assert len(campaign.fleet.busy()) == 6
    assert {order.title for order in campaign.fleet.assigned} > {"baseline", "Try noise-1"}
    challenger = campaign.fleet.assigned[2].run.run_id
    campaign.fleet.finish(challenger)
    observer.step(0)
    assert campaign.ledger.state().decision_order == []
    campaign.play()
    assert campaign.ledger.state().decision_order[0] == "exp-0001-baseline"


def test_a_new_champion_is_run_again() -> None:
    campaign = simulate(champion_runs=7)
    campaign.play()
    kept = by_title(campaign.ledger.state())["real-gain"]
    assert list(kept.scores) == [42, 43, 44, 45, 46, 47, 48]
    assert kept.decisions[-1].num_runs < 7


def test_a_champion_is_run_as_often_as_its_challenger() -> None:
    """Else the error of the champion's own mean would hide what the challenger's runs show."""
    small = ScriptedObjective(effects={("MATRIX_LR", 0.08): -0.004})
    campaign = simulate([REAL_GAIN], {"max_experiments": 2}, objective=small)
    campaign.play()
    entries = by_title(campaign.ledger.state())
    num_runs = entries["real-gain"].decisions[-1].num_runs
    assert num_runs > 3
    assert len(entries["baseline"].scores) == num_runs


def noise_only(campaign_number: int, **decisions: Any) -> CampaignState:
    """A campaign of twelve changes without any effect."""
    values = [1e-3 * (20 * campaign_number + n) for n in range(1, 13)]
    hypotheses = [make_hypothesis(f"noise-{value}", {"WEIGHT_DECAY": value}) for value in values]
    campaign = simulate(hypotheses, {"max_experiments": 13}, objective=ScriptedObjective(), **decisions)
    campaign.play()
    return campaign.ledger.state()


def test_changes_that_only_make_noise_are_kept_no_more_often_than_promised() -> None:
    states = [noise_only(number) for number in range(20)]
    num_kept = sum(len(state.lineage) - 1 for state in states)
    # In one campaign of twenty anything at all, and three standard deviations above that.
    assert num_kept <= 0.05 * 20 + 3 * (0.05 * 20) ** 0.5
    assert max(len(entry.results) for state in states for entry in state.experiments.values()) <= 16
    assert sum(len(noise_only(number, false_keep_rate=1e-6).lineage) for number in range(3)) == 3


def test_what_runs_out_of_memory_is_tried_again_with_fewer_rows_a_forward_pass() -> None:
    class SmallGpu(ScriptedObjective):
        """Has room for 8 rows of depth 4."""

        def result(self, run: Run, constants: Mapping[str, ConstantValue]) -> RunResult:
            rows, depth = constants["DEVICE_BATCH_SIZE"], constants["DEPTH"]
            assert isinstance(rows, int)
            assert isinstance(depth, int)
            if rows * depth <= 32:
                return super().result(run, constants)
            crash = make_result(run, status=RunStatus.CRASHED, reason="OutOfMemoryError")
            return crash.model_copy(update={"integrity": {"out_of_memory": True}})

    deeper = make_hypothesis("deeper", {"DEPTH": 16})
    objective = SmallGpu(effects={("DEPTH", 16): -0.03})
    campaign = simulate([deeper], {"max_experiments": 4}, objective=objective)
    rows = "\nDEVICE_BATCH_SIZE = 8\n"
    campaign.workspace = InMemoryWorkspace(STAND_IN_SOURCE.replace("\nMATRIX_LR", f"{rows}MATRIX_LR"))
    campaign.play()
    state = campaign.ledger.state()
    assert verdicts(state) == {
        "baseline": Verdict.KEEP,
        "deeper": Verdict.CRASH,
        "deeper, 4 rows a forward pass": Verdict.CRASH,
        "deeper, 2 rows a forward pass": Verdict.KEEP,
    }
    assert state.champion is not None
    assert state.champion.experiment.constants["DEPTH"] == 16


def test_equal_campaigns_give_equal_journals() -> None:
    first, second = simulate(num_workers=3), simulate(num_workers=3)
    first.play()
    second.play()
    assert [(e.key, e.event.type) for e in first.ledger.entries] == [
        (e.key, e.event.type) for e in second.ledger.entries
    ]
    assert first.ledger.state().lineage == second.ledger.state().lineage


def test_the_researcher_hears_of_every_decision_and_sees_the_past() -> None:
    campaign = simulate()
    campaign.play()
    heard = [past.hypothesis.title for past in campaign.researcher.observed]
    assert heard == ["baseline", *(h.title for h in HYPOTHESES)]
    gain = next(past for past in campaign.researcher.observed if past.hypothesis is not None
                and past.hypothesis.title == "Try real-gain").gain_bpb  # fmt: skip
    assert gain == pytest.approx(0.03, abs=0.005)


# Observers die -------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [1, 3])
def test_an_observer_replaced_after_every_step_ends_with_the_same_campaign(num_workers: int) -> None:
    steady, renewed = simulate(num_workers=num_workers), simulate(num_workers=num_workers)
    steady.play()
    renewed.play(renew=True)
    one, two = steady.ledger.state(), renewed.ledger.state()
    assert verdicts(one) == verdicts(two) == EXPECTED
    assert one.lineage == two.lineage
    assert [e.scores for e in one.experiments.values()] == [e.scores for e in two.experiments.values()]
    assert_nothing_is_lost_or_counted_twice(renewed)


@pytest.mark.parametrize("recorded", [False, True], ids=["before-it-is-recorded", "after-it-is-recorded"])
def test_an_observer_killed_at_any_change_loses_nothing(recorded: bool) -> None:
    """Killed at every single append; what should follow from a recorded fact is caught up."""

    def short_campaign() -> SimulatedCampaign:
        return simulate(HYPOTHESES[:3], {"max_experiments": 4})

    steady = short_campaign()
    steady.play()
    expected = steady.ledger.state()
    for number in range(1, steady.ledger.num_appends + 1):
        campaign = short_campaign()
        campaign.ledger.die_at(number, recorded=recorded)
        with pytest.raises(ProcessDiedError):
            campaign.play()
        campaign.fleet.finish_all()
        campaign.play()
        state = campaign.ledger.state()
        assert verdicts(state) == verdicts(expected), f"killed at append {number}"
        assert state.lineage == expected.lineage
        assert state.findings == expected.findings
        assert [e.scores for e in state.experiments.values()] == [
            e.scores for e in expected.experiments.values()
        ]
        assert state.champion is not None
        assert campaign.workspace.champion_commit == state.champion.experiment.commit
        assert_nothing_is_lost_or_counted_twice(campaign)


def test_runs_that_no_worker_has_any_more_are_run_again_and_are_nobodys_fault() -> None:
    campaign = simulate()
    campaign.observer().step(0)
    [run_id] = campaign.fleet.busy().values()
    campaign.fleet.lose(run_id)
    campaign.fleet.wait(0)  # the news dies with the observer
    campaign.observer()
    state = campaign.ledger.state()
    assert state.in_flight == {}
    assert state.experiments["exp-0001-baseline"].num_faults == {42: 0}
    campaign.play()
    assert campaign.fleet.assigned[1].run.run_id == "exp-0001-baseline.s42.a2"
    assert verdicts(campaign.ledger.state()) == EXPECTED


# Workers die ---------------------------------------------------------------------------------


def step_until_running(campaign: SimulatedCampaign, observer: Observer, title: str) -> str:
    """Play on until a run of this title is on a worker; its run_id."""
    for _ in range(100):
        observer.step(0)
        for order in campaign.fleet.assigned:
            if order.title == title and order.run.run_id in campaign.fleet.busy().values():
                return order.run.run_id
        campaign.fleet.finish_all()
    raise AssertionError(f"{title} never ran")


def test_a_lost_run_is_requeued_once_and_then_recorded_as_a_crash_with_the_reason() -> None:
    campaign = simulate()
    observer = campaign.observer()
    first = step_until_running(campaign, observer, "Try real-gain")
    campaign.fleet.lose(first, "the node vanished")
    observer.step(0)
    [second] = campaign.fleet.busy().values()
    assert second == first.replace(".a1", ".a2")
    campaign.fleet.lose(second, "the node vanished again")
    observer.step(0)
    entry = by_title(campaign.ledger.state())["real-gain"]
    assert entry.verdict is Verdict.CRASH
    assert entry.decision is not None
    assert entry.decision.reason == "it lost its worker again: the node vanished again"
    campaign.play()
    assert_nothing_is_lost_or_counted_twice(campaign)


@pytest.mark.parametrize("asked_first", ["worker-0", "worker-1"])
def test_a_run_that_waits_for_another_worker_does_not_wait_behind_its_own(asked_first: str) -> None:
    """With no experiment left to begin, this stood still for ever."""
    campaign = simulate([REAL_GAIN], {"max_experiments": 2}, num_workers=2)
    observer = campaign.observer()
    run_id = step_until_running(campaign, observer, "Try real-gain")
    [unlucky] = [name for name, run in campaign.fleet.busy().items() if run == run_id]
    campaign.fleet.idle = lambda: sorted(  # type: ignore[method-assign]
        FakeFleet.idle(campaign.fleet), key=lambda worker: worker.worker_id != asked_first
    )
    campaign.fleet.lose(run_id)
    observer.step(0)
    campaign.play(max_steps=50)
    assert campaign.ledger.state().ended is not None
    again = next(order for order in campaign.fleet.assigned if order.run.run_id.endswith("s42.a2"))
    assert again.run.worker_id != unlucky


def test_a_run_lost_once_counts_like_any_other() -> None:
    campaign = simulate()
    observer = campaign.observer()
    campaign.fleet.lose(step_until_running(campaign, observer, "Try real-gain"))
    campaign.play()
    assert verdicts(campaign.ledger.state()) == EXPECTED


@pytest.mark.parametrize("faults", [0, 1])
def test_a_worker_that_dies_just_after_it_recorded_its_result_takes_nothing_with_it(faults: int) -> None:
    """The result comes in between the observer's look at the state and its own record of the loss."""
    campaign = simulate()
    observer = campaign.observer()
    run_id = step_until_running(campaign, observer, "Try real-gain")
    for _ in range(faults):
        campaign.fleet.lose(run_id)
        observer.step(0)
        [run_id] = campaign.fleet.busy().values()
    run = campaign.ledger.state().in_flight[run_id]

    def result_comes_in(number: int) -> None:
        campaign.ledger.before_append = lambda number: None
        finish = ev.RunFinished(result=make_result(run, 1.77))
        campaign.ledger.append([Draft(f"finish:{run_id}", finish)])

    campaign.fleet.lose(run_id)
    campaign.ledger.before_append = result_comes_in
    observer.step(0)
    entry = by_title(campaign.ledger.state())["real-gain"]
    assert entry.scores == {42: 1.77}
    assert [decision.verdict for decision in entry.decisions] == [Verdict.REPLICATE]
    campaign.play()
    assert by_title(campaign.ledger.state())["real-gain"].verdict is Verdict.KEEP
    assert_nothing_is_lost_or_counted_twice(campaign)


def test_a_change_that_the_ledger_refuses_is_no_success() -> None:
    campaign = simulate()
    observer = campaign.observer()
    run_id = step_until_running(campaign, observer, "baseline")
    campaign.fleet.lose(run_id)

    def disk_full(number: int) -> None:
        raise JournalError("no space")

    campaign.ledger.before_append = disk_full
    with pytest.raises(JournalError, match="no space"):
        observer.step(0)


# The baseline --------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [RunStatus.CRASHED, RunStatus.INVALID, RunStatus.TIMED_OUT])
def test_a_baseline_that_does_not_run_ends_the_campaign_with_the_reason(status: RunStatus) -> None:
    campaign = simulate(objective=ScriptedObjective(failures={("DEPTH", 4): status}))
    observer = campaign.play()
    assert observer.finished == f"the baseline does not run: DEPTH=4 ended {status.value}"
    assert campaign.ledger.state().champion is None
    assert len(campaign.fleet.assigned) == 1
    assert campaign.play().finished == observer.finished, "resuming changes nothing about it"


def test_a_baseline_that_cannot_be_made_ends_the_campaign_with_the_reason() -> None:
    campaign = simulate()
    campaign.workspace = InMemoryWorkspace("def :\n")
    observer = campaign.play()
    assert observer.finished is not None
    assert observer.finished.startswith("the baseline does not run: train.py line 1")
    assert campaign.fleet.assigned == []


# Limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [1, 2, 3, 7])
@pytest.mark.parametrize("limit", [1, 2, 5, 8])
def test_max_experiments_is_met_exactly(limit: int, num_workers: int) -> None:
    campaign = simulate(limits={"max_experiments": limit}, num_workers=num_workers)
    observer = campaign.play()
    state = campaign.ledger.state()
    assert len(state.experiments) == len(state.decision_order) == limit
    assert observer.finished == state.ended == f"the limit of {limit} experiments is reached"
    assert all(not entry.pending_seeds for entry in state.experiments.values())


@pytest.mark.parametrize("num_workers", [1, 2, 3, 7])
@pytest.mark.parametrize("limit", [1, 2, 4, 9])
def test_max_runs_is_met_exactly(limit: int, num_workers: int) -> None:
    campaign = simulate(limits={"max_runs": limit}, num_workers=num_workers)
    observer = campaign.play()
    state = campaign.ledger.state()
    assert state.num_results == len(campaign.fleet.assigned) == limit
    assert observer.finished == state.ended == f"the limit of {limit} runs is reached"


def test_session_minutes_end_the_session_and_not_the_campaign() -> None:
    campaign = simulate(limits={"session_minutes": 2})
    moment = [0.0]
    campaign.clock = lambda: moment[0]
    observer = campaign.observer()
    while observer.finished is None:
        observer.step(0)
        moment[0] += 34.0
        campaign.fleet.finish_all()
    assert observer.finished == "the 2 minutes of this session are up"
    assert [order.run.seed for order in campaign.fleet.assigned] == [42, 43, 44]
    state = campaign.ledger.state()
    assert state.ended is None
    assert state.in_flight == {}


def test_quick_failures_do_not_make_a_run_look_short() -> None:
    """Three runs of 34 s and five of 2 s make 14 s on average; yet the next run takes at least its budget."""
    crashes = [make_hypothesis(f"crash-{n}", {"DEPTH": 12, "WEIGHT_DECAY": 1e-3 * n}) for n in range(1, 6)]
    campaign = simulate([*crashes, REAL_GAIN], {"max_gpu_hours": 140 / 3600})
    campaign.play()
    assert campaign.ledger.state().worker_s == 3 * 34.0 + 5 * 2.0


def test_a_run_that_just_fits_into_the_worker_hours_is_made_and_no_other() -> None:
    campaign = simulate(limits={"max_gpu_hours": 5 * 34 / 3600 + 1e-9})
    observer = campaign.play()
    assert campaign.ledger.state().num_results == 5
    assert observer.finished is not None
    assert "worker hours" in observer.finished


# Researchers ---------------------------------------------------------------------------------


class Broken:
    """Fails in every way a researcher can."""

    name = "broken"

    def __init__(self, answer: object = None) -> None:
        self.answer = answer
        self.num_calls = 0

    def propose(self, brief: Brief, n: int) -> list[Hypothesis]:
        self.num_calls += 1
        if self.answer is None:
            raise RuntimeError("no ideas")
        return self.answer  # type: ignore[return-value]

    def observe(self, experiment: PastExperiment) -> None:
        raise RuntimeError("did not listen")


BASELINE_AGAIN = make_hypothesis("sneaky", {"DEPTH": 6}).model_copy(update={"kind": BASELINE_KIND})


@pytest.mark.parametrize(
    "answer",
    [None, 7, ["not a hypothesis"], [HYPOTHESES[0]] * 9, [BASELINE_AGAIN] * 9],
    ids=["raises", "no list", "wrong type", "repeats itself", "claims to be the baseline"],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_researcher_that_fails_never_stops_the_campaign(answer: object, first: bool) -> None:
    campaign = simulate()
    broken = Broken(answer)
    campaign.researchers.insert(0 if first else 1, broken)
    campaign.play()
    assert verdicts(campaign.ledger.state()) == EXPECTED
    assert broken.num_calls > 0
    assert campaign.ledger.state().baseline is not None


def test_a_researcher_that_fails_is_left_alone_for_a_while_and_the_standstill_is_explained() -> None:
    campaign = simulate()
    moment = [0.0]
    campaign.clock = lambda: moment[0]
    broken = Broken()
    campaign.researchers = [broken]
    observer = campaign.observer()
    for _ in range(6):
        observer.step(0)
        campaign.fleet.finish_all()
    assert broken.num_calls == 1
    moment[0] = 1e6
    observer.step(0)
    assert broken.num_calls == 2
    notes = [note.text for _, note in campaign.ledger.state().notes]
    assert notes == ["researcher broken failed: RuntimeError: no ideas"]


def test_a_researcher_that_gives_too_much_is_cut_and_the_queue_stays_short() -> None:
    class Eager(Broken):
        def propose(self, brief: Brief, n: int) -> list[Hypothesis]:
            return [make_hypothesis(f"e-{n}", {"DEPTH": 20 + n}) for n in range(100)]

    campaign = simulate(num_workers=2)
    campaign.researchers = [Eager()]
    campaign.observer().step(0)
    assert len(campaign.ledger.state().hypothesis_ids) <= 1 + 3


def test_a_higher_priority_goes_first_and_the_older_one_among_equals() -> None:
    hypotheses = [
        make_hypothesis("low", {"DEPTH": 6}, priority=1.0),
        make_hypothesis("high-1", {"DEPTH": 8}, priority=2.0),
        make_hypothesis("high-2", {"DEPTH": 10}, priority=2.0),
    ]
    campaign = simulate(hypotheses, {"max_experiments": 4}, num_workers=3)
    campaign.play()
    assert list(by_title(campaign.ledger.state())) == ["baseline", "high-1", "high-2", "low"]


# Refusals ------------------------------------------------------------------------------------

NO_OP = make_hypothesis("no-op", {"DEPTH": 4})
TYPO = make_hypothesis("typo", {"DEPHT": 4})
NOT_PYTHON = make_hypothesis("not-python").model_copy(update={"edit": SourceEdit(source="def :")})
BAD_PATCH = make_hypothesis("bad-patch").model_copy(update={"edit": DiffEdit(patch="@@ -1 +1 @@\n-a\n+b\n")})
OWN_METRIC = make_hypothesis("own-metric").model_copy(
    update={"edit": SourceEdit(source=STAND_IN_SOURCE.replace("prepare.evaluate_bpb(None, 1)", "0.1"))}
)
TWICE = make_hypothesis("twice", {"MATRIX_LR": 0.08})


@pytest.mark.parametrize(
    ("hypothesis", "reason"),
    [
        (NO_OP, "changes nothing"),
        (TYPO, "did you mean DEPTH"),
        (NOT_PYTHON, "line 1"),
        (BAD_PATCH, "does not match the source"),
        (OWN_METRIC, "evaluate_bpb"),
    ],
    ids=lambda value: value.hypothesis_id if isinstance(value, Hypothesis) else "",
)
def test_what_cannot_be_tried_is_refused_with_the_reason_and_costs_no_run(
    hypothesis: Hypothesis, reason: str
) -> None:
    campaign = simulate([hypothesis, REAL_GAIN], {"max_experiments": 2})
    campaign.play()
    state = campaign.ledger.state()
    assert reason in state.refused[hypothesis.hypothesis_id].reason
    assert verdicts(state) == {"baseline": Verdict.KEEP, "real-gain": Verdict.KEEP}
    assert campaign.workspace.read("champion").count("MATRIX_LR = 0.08") == 1


def test_a_program_that_was_tried_is_not_tried_again() -> None:
    worse = make_hypothesis("worse", {"WARMDOWN_RATIO": 0.9})
    again = make_hypothesis("worse-again", {"WARMDOWN_RATIO": 0.9})
    campaign = simulate([worse, again, REAL_GAIN], {"max_experiments": 3})
    campaign.play()
    refused = {name: refusal.reason for name, refusal in campaign.ledger.state().refused.items()}
    assert refused == {"worse-again": "the same program was tried or proposed before as exp-0002-try-worse"}


def test_at_equal_val_bpb_the_shorter_source_is_kept() -> None:
    start = STAND_IN_SOURCE.index("def spare")
    end = STAND_IN_SOURCE.index("print(prepare.SEED)")
    shorter = SourceEdit(source=STAND_IN_SOURCE[:start] + STAND_IN_SOURCE[end:])
    tidy = make_hypothesis("tidy").model_copy(update={"edit": shorter})
    campaign = simulate([tidy], {"max_experiments": 2})
    campaign.play()
    entry = by_title(campaign.ledger.state())["tidy"]
    assert entry.verdict is Verdict.KEEP
    assert len(entry.results) >= 2
    assert entry.experiment.line_delta < 0


# Stopping and resuming -----------------------------------------------------------------------


def test_stop_lets_runs_finish() -> None:
    campaign = simulate(num_workers=2)
    campaign.begin_session()
    observer = campaign.observer()
    observer.step(0)
    campaign.stop("enough", now=False)
    observer.step(0)
    assert observer.finished is None
    assert len(campaign.fleet.busy()) == 2
    campaign.fleet.finish_all()
    observer.step(0)
    assert observer.finished == "enough"
    state = campaign.ledger.state()
    assert (state.num_results, state.in_flight, state.ended) == (2, {}, None)


def test_stop_now_gives_up_what_runs_and_a_resume_runs_it_again() -> None:
    campaign = simulate(num_workers=2)
    campaign.begin_session()
    observer = campaign.observer()
    observer.step(0)
    given_up = set(campaign.fleet.busy().values())
    campaign.stop("enough for today", now=False)
    campaign.stop("impatient", now=True)
    observer.step(0)
    observer.step(0)
    assert observer.finished == "impatient"
    state = campaign.ledger.state()
    assert (state.num_results, state.in_flight, state.ended) == (0, {}, None)
    assert all(not any(entry.num_faults.values()) for entry in state.experiments.values())
    campaign.begin_session()
    campaign.play()
    again = {order.run.run_id for order in campaign.fleet.assigned[2:]}
    assert {run_id.replace(".a1", ".a2") for run_id in given_up} <= again
    assert verdicts(campaign.ledger.state()) == EXPECTED
    assert_nothing_is_lost_or_counted_twice(campaign)


def test_a_run_stopped_many_times_never_becomes_a_crash() -> None:
    campaign = simulate()
    for _ in range(5):
        campaign.begin_session()
        observer = campaign.observer()
        observer.step(0)
        campaign.stop("not now", now=True)
        observer.step(0)
        observer.step(0)
        assert observer.finished == "not now"
    assert campaign.fleet.assigned[-1].run.attempt == 5
    campaign.begin_session()
    campaign.play()
    assert verdicts(campaign.ledger.state()) == EXPECTED


def test_a_stop_survives_the_observer() -> None:
    campaign = simulate()
    campaign.begin_session()
    campaign.observer().step(0)
    campaign.stop("enough", now=True)
    successor = campaign.observer()
    successor.step(0)
    successor.step(0)
    assert successor.finished == "enough"


def test_a_pause_starts_nothing_and_ends_nothing() -> None:
    campaign = simulate(num_workers=2)
    observer = campaign.observer()
    observer.step(0)
    campaign.ledger.append([Draft("pause", ev.PauseChanged(paused=True, author="me"))])
    campaign.fleet.finish_all()
    for _ in range(3):
        observer.step(0)
    assert (campaign.fleet.busy(), observer.finished) == ({}, None)
    assert campaign.ledger.state().num_results == 2, "what ran was let finish"
    campaign.ledger.append([Draft("unpause", ev.PauseChanged(paused=False, author="me"))])
    observer.step(0)
    assert len(campaign.fleet.busy()) == 2
    campaign.play()
    assert verdicts(campaign.ledger.state()) == EXPECTED


def test_a_worker_that_fails_again_and_again_is_let_go_and_the_others_finish() -> None:
    campaign = simulate(num_workers=2)
    campaign.begin_session()
    observer = campaign.observer()
    for _ in range(20):
        observer.step(0)
        for worker_id, run_id in campaign.fleet.busy().items():
            if worker_id == "worker-0":
                campaign.fleet.lose(run_id)
            else:
                campaign.fleet.finish(run_id)
    state = campaign.ledger.state()
    assert state.drained == {"worker-0": "it failed 3 times in a row"}
    assert campaign.fleet.num_workers() == 1
    campaign.observer().step(0)
    campaign.play()
    assert_nothing_is_lost_or_counted_twice(campaign)


def test_a_campaign_that_met_its_limit_goes_on_with_a_higher_one() -> None:
    campaign = simulate(limits={"max_experiments": 3})
    campaign.play()
    campaign.config = campaign.config.model_copy(update={"limits": LimitsConfig(max_experiments=9)})
    campaign.play()
    assert verdicts(campaign.ledger.state()) == EXPECTED


# Tools ---------------------------------------------------------------------------------------


def test_tools_are_asked_for_once_there_are_runs_and_judged_when_published() -> None:
    campaign = simulate()
    campaign.play()
    tools = campaign.ledger.state().tools
    assert {tool.status for tool in tools.values()} == {ToolStatus.REQUESTED}
    assert set(tools) == {"noise-model", "loss-forecast"}
    published: Tool = tools["noise-model"].model_copy(
        update={"status": ToolStatus.PUBLISHED, "worth": {"explained_share": 0.8}}
    )
    campaign.ledger.append([Draft("published", ev.ToolChanged(tool=published))])
    campaign.observer().step(0)
    judged = campaign.ledger.state().tools["noise-model"]
    assert judged.status is ToolStatus.ADOPTED
    assert "explains 80%" in judged.notes


# Over a real repository ----------------------------------------------------------------------


def test_over_git_every_experiment_has_a_ref_and_the_champions_log_tells_the_story(tmp_path: Path) -> None:
    campaign = SimulatedCampaign.at(tmp_path, OBJECTIVE, HYPOTHESES[:4], config({"max_experiments": 5}))
    campaign.play()
    state = campaign.ledger.state()
    repository = tmp_path / "repo.git"

    def git(*arguments: str) -> list[str]:
        command = ["git", "-C", str(repository), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()

    refs = git("for-each-ref", "--format=%(refname:strip=3)", "refs/heads/experiments")
    assert refs == list(state.experiments)
    assert git("log", "--format=%s", "champion") == ["Try real-gain", "baseline", "The target as it came"]
    story = "\n".join(git("log", "-1", "--format=%B", "champion"))
    assert "a mechanism" in story
    assert "Experiment: exp-0003-try-real-gain" in story
    kept = state.experiments["exp-0003-try-real-gain"].experiment
    assert "+MATRIX_LR = 0.08" in kept.diff
    assert "1 file changed" in kept.diff_stat


def test_a_commit_that_an_observer_had_no_time_to_write_is_made_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign = SimulatedCampaign.at(tmp_path, OBJECTIVE, HYPOTHESES, config())
    campaign.play(until=1)

    known = set(campaign.ledger.state().experiments)
    assign = campaign.fleet.assign

    def die_at_a_new_one(worker_id: str, order: RunOrder) -> None:
        if order.run.experiment_id not in known:
            raise ProcessDiedError("the changes are durable, the files are not written")
        assign(worker_id, order)

    with monkeypatch.context() as patched:
        patched.setattr(Workspace, "_write", lambda *_: None)
        patched.setattr(campaign.fleet, "assign", die_at_a_new_one)
        with pytest.raises(ProcessDiedError):
            campaign.play()
    campaign.workspace = Workspace(tmp_path / "repo.git")
    *_, entry = campaign.ledger.state().open_experiments()
    assert entry.experiment_id not in known
    with pytest.raises(WorkspaceError):
        campaign.workspace.read(entry.experiment.commit)
    campaign.play()
    for entry in campaign.ledger.state().experiments.values():
        assert campaign.workspace.read(entry.experiment.commit)
        assert campaign.workspace.read(f"experiments/{entry.experiment_id}")
