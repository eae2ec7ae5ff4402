"""The fold: replay equals what was applied, impossible events change nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest

from autohyp.errors import JournalError
from autohyp.journal import CampaignState, Draft, Entry, replay
from autohyp.journal import events as ev
from autohyp.records import Decision, Finding, Hardware, RunStatus, Tool, ToolStatus, Verdict
from autohyp.testing.fakes import (
    InMemoryLedger,
    baseline_hypothesis,
    make_experiment,
    make_hypothesis,
    make_result,
    make_run,
)

BASELINE = make_experiment(1)
CHALLENGER = make_experiment(2, make_hypothesis("hyp-1"), parent_experiment_id="exp-0001")


def keep(experiment_id: str, **fields: object) -> ev.DecisionMade:
    return decided(experiment_id, Verdict.KEEP, **fields)


def decided(experiment_id: str, verdict: Verdict, **fields: object) -> ev.DecisionMade:
    return ev.DecisionMade(
        decision=Decision(experiment_id=experiment_id, verdict=verdict, reason="because", **fields)
    )


@pytest.fixture
def ledger(created: Draft) -> InMemoryLedger:
    """A campaign with a kept baseline, an experiment that waits for its run, and a queued hypothesis."""
    ledger = InMemoryLedger([created])
    for number, event in enumerate(
        [
            ev.SessionStarted(
                session_id="s1", host="h", hardware=Hardware(cpus=1, memory_gb=1), sandbox="none", versions={}
            ),
            ev.HypothesisProposed(hypothesis=baseline_hypothesis()),
            ev.ExperimentCreated(experiment=BASELINE),
            ev.RunStarted(run=make_run("exp-0001")),
            ev.RunFinished(result=make_result(make_run("exp-0001"), 1.8)),
            keep("exp-0001"),
            ev.HypothesisProposed(hypothesis=make_hypothesis("hyp-1")),
            ev.HypothesisProposed(hypothesis=make_hypothesis("hyp-2")),
            ev.ExperimentCreated(experiment=CHALLENGER),
        ]
    ):
        ledger.append([Draft(f"setup-{number}", event)])
    return ledger


def apply(ledger: InMemoryLedger, *events: ev.Event) -> CampaignState:
    for event in events:
        ledger.append([Draft(f"key-{ledger.num_appends}", event)])
    return ledger.state()


IMPOSSIBLE = [
    (ev.HypothesisProposed(hypothesis=make_hypothesis("hyp-2")), "exists already"),
    (ev.HypothesisProposed(hypothesis=make_hypothesis("hyp-1")), "exists already"),
    (ev.HypothesisRefused(hypothesis_id="hyp-1", reason=""), "is not queued"),
    (ev.HypothesisRefused(hypothesis_id="hyp-9", reason=""), "is not queued"),
    (ev.ExperimentCreated(experiment=CHALLENGER), "exists already"),
    (ev.ExperimentCreated(experiment=make_experiment(4, make_hypothesis("hyp-2"))), "3 comes next"),
    (ev.ExperimentCreated(experiment=make_experiment(3, make_hypothesis("hyp-1"))), "hyp-1 is not queued"),
    (ev.RunStarted(run=make_run("exp-0009")), "no experiment exp-0009"),
    (ev.RunStarted(run=make_run("exp-0001")), "exists already"),
    (ev.RunStarted(run=make_run("exp-0001", attempt=2)), "awaits no run of seed 42"),
    (ev.RunStarted(run=make_run("exp-0002", seed=43)), "awaits no run of seed 43"),
    (ev.RunLost(run_id="exp-0001.s42.a1", reason=""), "is not in flight"),
    (ev.RunLost(run_id="unheard-of", reason=""), "is not in flight"),
    (ev.RunFinished(result=make_result(make_run("exp-0001"))), "is not in flight"),
    (ev.RunFinished(result=make_result(make_run("exp-0002"))), "is not in flight"),
    (ev.RunsRequested(experiment_id="exp-0009", seeds=(1,), reason=""), "no experiment exp-0009"),
    (keep("exp-0001"), "does not await a decision"),
    (keep("exp-0002"), "does not await a decision"),
    (keep("exp-0009"), "does not await a decision"),
    (
        ev.CampaignCreated(
            tag="t", objective="", config={}, target_sha256={}, data_sha256="", created_at="2026-01-01"
        ),
        "begins with campaign_created, once",
    ),
]


@pytest.mark.parametrize(("event", "problem"), IMPOSSIBLE, ids=[f"{e.type}-{p[:20]}" for e, p in IMPOSSIBLE])
def test_an_impossible_event_is_refused_and_changes_nothing(
    ledger: InMemoryLedger, event: ev.Event, problem: str
) -> None:
    state = ledger.state()
    before = copy.deepcopy(state)
    with pytest.raises(JournalError, match=problem):
        state.apply(Entry(state.version + 1, "2026-01-02", "key", event, ""))
    assert state == before


def test_nothing_comes_before_the_campaign_is_created(note: Callable[[int], Draft]) -> None:
    state = CampaignState()
    with pytest.raises(JournalError, match="begins with campaign_created"):
        state.apply(Entry(1, "2026-01-02", "key", note(1).event, ""))
    assert state == CampaignState()


@pytest.mark.parametrize("change", [{"experiment_id": "exp-0001"}, {"experiment_id": "exp-9"}, {"seed": 43}])
def test_a_result_must_belong_to_its_run(ledger: InMemoryLedger, change: dict[str, object]) -> None:
    state = apply(ledger, ev.RunStarted(run=make_run("exp-0002")))
    before = copy.deepcopy(state)
    result = make_result(make_run("exp-0002")).model_copy(update=change)
    with pytest.raises(JournalError, match="names another experiment or seed"):
        state.apply(Entry(state.version + 1, "2026-01-02", "key", ev.RunFinished(result=result), ""))
    assert state == before


# The life of an experiment -------------------------------------------------------------------


def test_a_hypothesis_leaves_the_queue_as_an_experiment_or_as_a_refusal(ledger: InMemoryLedger) -> None:
    assert list(ledger.state().queue) == ["hyp-2"]
    state = apply(ledger, ev.HypothesisRefused(hypothesis_id="hyp-2", reason="a no-op"))
    assert state.queue == {}
    assert {name: refusal.reason for name, refusal in state.refused.items()} == {"hyp-2": "a no-op"}
    assert state.hypothesis_ids == {"hyp-baseline", "hyp-1", "hyp-2"}


def test_a_run_is_pending_then_in_flight_then_a_result(ledger: InMemoryLedger) -> None:
    run = make_run("exp-0002")
    assert ledger.state().experiments["exp-0002"].pending_seeds == [42]
    state = apply(ledger, ev.RunStarted(run=run))
    entry = state.experiments["exp-0002"]
    assert (entry.pending_seeds, entry.active, state.in_flight) == ([], {run.run_id: run}, {run.run_id: run})
    assert not entry.awaits_decision
    state = apply(ledger, ev.RunFinished(result=make_result(run, 1.7, total_s=40.0)))
    entry = state.experiments["exp-0002"]
    assert (entry.active, state.in_flight, entry.scores, entry.mean_bpb) == ({}, {}, {42: 1.7}, 1.7)
    assert entry.awaits_decision
    assert (state.charged_s, state.worker_s, state.num_results) == (60.0, 74.0, 2)


def test_a_lost_run_is_pending_again_and_only_faults_count(ledger: InMemoryLedger) -> None:
    for attempt, at_fault in ((1, False), (2, True), (3, False)):
        run = make_run("exp-0002", attempt=attempt)
        state = apply(
            ledger, ev.RunStarted(run=run), ev.RunLost(run_id=run.run_id, reason="gone", at_fault=at_fault)
        )
        assert state.experiments["exp-0002"].pending_seeds == [42]
        assert state.in_flight == {}
    assert state.experiments["exp-0002"].attempts == {42: 3}
    assert state.experiments["exp-0002"].num_faults == {42: 1}


def test_a_replicate_asks_for_runs_and_a_keep_makes_the_champion(ledger: InMemoryLedger) -> None:
    first, second = make_run("exp-0002"), make_run("exp-0002", seed=43)
    state = apply(
        ledger,
        ev.RunStarted(run=first),
        ev.RunFinished(result=make_result(first, 1.7)),
        decided("exp-0002", Verdict.REPLICATE, next_seeds=(43,)),
    )
    entry = state.experiments["exp-0002"]
    assert (entry.verdict, entry.pending_seeds, entry.awaits_decision) == (None, [43], False)
    assert state.champion_id == "exp-0001"
    state = apply(
        ledger,
        ev.RunStarted(run=second),
        ev.RunFinished(result=make_result(second, 1.72)),
        keep("exp-0002"),
    )
    assert state.lineage == state.decision_order == ["exp-0001", "exp-0002"]
    assert [entry.experiment_id for entry in state.decided()] == ["exp-0001", "exp-0002"]
    assert state.champion is state.experiments["exp-0002"]
    assert state.champion.mean_bpb == pytest.approx(1.71)
    assert state.open == {}


def test_runs_requested_of_a_decided_experiment_open_it_until_they_are_in(ledger: InMemoryLedger) -> None:
    run = make_run("exp-0001", seed=43)
    state = apply(ledger, ev.RunsRequested(experiment_id="exp-0001", seeds=(42, 43), reason="a lucky draw?"))
    assert "exp-0001" in state.open
    assert state.experiments["exp-0001"].pending_seeds == [43]
    state = apply(ledger, ev.RunStarted(run=run), ev.RunFinished(result=make_result(run, 1.9)))
    assert "exp-0001" not in state.open
    assert state.champion is not None
    assert state.champion.mean_bpb == pytest.approx(1.85)
    assert not state.champion.awaits_decision


@pytest.mark.parametrize("verdict", [Verdict.CRASH, Verdict.INVALID, Verdict.DISCARD])
def test_what_is_not_kept_is_closed_and_leaves_the_champion(ledger: InMemoryLedger, verdict: Verdict) -> None:
    run = make_run("exp-0002")
    result = make_result(run, status=RunStatus.CRASHED, reason="boom")
    state = apply(ledger, ev.RunStarted(run=run), ev.RunFinished(result=result), decided("exp-0002", verdict))
    entry = state.experiments["exp-0002"]
    assert (entry.verdict, entry.scores, entry.mean_bpb, entry.measured) == (verdict, {}, None, [])
    assert state.champion_id == "exp-0001"
    assert "exp-0002" not in state.open


def test_findings_and_tools_are_replaced_and_notes_collected(ledger: InMemoryLedger) -> None:
    finding = Finding(finding_id="f", title="old", evidence="", confidence=0.5)
    tool = Tool(tool_id="t", title="t", status=ToolStatus.REQUESTED, problem="p")
    state = apply(
        ledger,
        ev.FindingRecorded(finding=finding),
        ev.FindingRecorded(finding=finding.model_copy(update={"title": "new"})),
        ev.ToolChanged(tool=tool),
        ev.ToolChanged(tool=tool.model_copy(update={"status": ToolStatus.ADOPTED})),
        ev.NoteWritten(author="me", text="a"),
        ev.NoteWritten(author="me", text="b"),
    )
    assert [f.title for f in state.findings.values()] == ["new"]
    assert state.tools["t"].status is ToolStatus.ADOPTED
    assert [note.text for _, note in state.notes] == ["a", "b"]


def test_a_session_opens_an_ended_campaign_again(ledger: InMemoryLedger) -> None:
    state = apply(
        ledger, ev.CampaignEnded(reason="enough"), ev.SessionEnded(session_id="s1", reason="enough")
    )
    assert state.ended == "enough"
    assert state.sessions[0].end_reason == "enough"
    started = state.sessions[0].started.model_copy(update={"session_id": "s2"})
    state = apply(ledger, started)
    assert state.ended is None
    assert [session.started.session_id for session in state.sessions] == ["s1", "s2"]


def test_a_clock_that_is_set_back_takes_no_time_from_a_session(
    ledger: InMemoryLedger, note: Callable[[int], Draft]
) -> None:
    state = ledger.state()
    last_ts = state.sessions[-1].last_ts
    state.apply(Entry(state.version + 1, "1999-01-01T00:00:00.000Z", "k", note(1).event, ""))
    assert state.sessions[-1].last_ts == last_ts


def test_replay_is_the_same_for_the_same_entries_and_shares_nothing_that_changes(
    ledger: InMemoryLedger,
) -> None:
    one, two = replay(ledger.entries), replay(ledger.entries)
    assert one == two
    one.apply(Entry(one.version + 1, "2026", "k", ev.RunStarted(run=make_run("exp-0002")), ""))
    assert two == replay(ledger.entries)
    assert one != two
