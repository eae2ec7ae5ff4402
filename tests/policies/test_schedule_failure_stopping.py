"""Who runs next, what a lost run means, and when to stop."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from autohyp.config import CampaignConfig, DecisionConfig, LimitsConfig
from autohyp.journal import CampaignState, Draft, Entry, ExperimentEntry
from autohyp.journal import events as ev
from autohyp.policies.failure import LossAction, on_lost_run, with_smaller_batch
from autohyp.policies.schedule import NextRun, champion_runs_wanted, next_run, num_wanted
from autohyp.policies.stopping import (
    Allowance,
    allowance,
    campaign_hours,
    expected_run_s,
    has_nothing_to_do,
    session_s,
)
from autohyp.records import ConstantsEdit, Decision, DiffEdit, Hardware, RunStatus, Verdict
from autohyp.source import apply_edit, read_constants, unified_diff
from autohyp.testing.fakes import (
    InMemoryLedger,
    baseline_hypothesis,
    make_experiment,
    make_hypothesis,
    make_result,
    make_run,
)

Send = Callable[..., CampaignState]


@pytest.fixture
def send() -> Send:
    """Events into a campaign that has a baseline with three seeds; returns the state after them."""
    ledger = InMemoryLedger()

    def send(*events: ev.Event) -> CampaignState:
        for event in events:
            ledger.append([Draft(f"k{ledger.num_appends}", event)])
        return ledger.state()

    send(
        ev.CampaignCreated(
            tag="t", objective="", config={}, target_sha256={}, data_sha256="", created_at="2026"
        ),
        ev.HypothesisProposed(hypothesis=baseline_hypothesis()),
        ev.ExperimentCreated(experiment=make_experiment(1, seeds=(42, 43, 44))),
    )
    return send


def experiment(ordinal: int, seeds: tuple[int, ...] = (42,)) -> tuple[ev.Event, ev.Event]:
    hypothesis = make_hypothesis(f"hyp-{ordinal}")
    return (
        ev.HypothesisProposed(hypothesis=hypothesis),
        ev.ExperimentCreated(experiment=make_experiment(ordinal, hypothesis, seeds)),
    )


def ran(ordinal: int, seed: int, val_bpb: float = 1.8, total_s: float = 36.0) -> tuple[ev.Event, ev.Event]:
    run = make_run(f"exp-{ordinal:04d}", seed)
    return ev.RunStarted(run=run), ev.RunFinished(result=make_result(run, val_bpb, total_s=total_s))


def decided(ordinal: int, verdict: Verdict, next_seeds: tuple[int, ...] = ()) -> ev.DecisionMade:
    return ev.DecisionMade(
        decision=Decision(
            experiment_id=f"exp-{ordinal:04d}", verdict=verdict, reason="r", next_seeds=next_seeds
        )
    )


# Schedule ------------------------------------------------------------------------------------


def test_the_baseline_comes_first_seed_by_seed(send: Send) -> None:
    state = send(*experiment(2))
    assert next_run(state, "worker-1", 2) == NextRun("exp-0001", 42, 1)
    state = send(*ran(1, 42), ev.RunStarted(run=make_run("exp-0001", 43)))
    assert next_run(state, "worker-1", 2) == NextRun("exp-0001", 44, 1)


def test_then_the_champion_then_replicates_then_what_was_not_begun(send: Send) -> None:
    state = send(
        *ran(1, 42), *ran(1, 43), *ran(1, 44), decided(1, Verdict.KEEP),
        *experiment(2),
        *experiment(3), *ran(3, 42), decided(3, Verdict.REPLICATE, (43,)),
        *experiment(4), *ran(4, 42, 1.5), decided(4, Verdict.KEEP),
        ev.RunsRequested(experiment_id="exp-0004", seeds=(43,), reason="lucky?"),
    )  # fmt: skip
    order = []
    while (chosen := next_run(state, "worker-1", 2)) is not None:
        order.append((chosen.experiment_id, chosen.seed))
        state = send(ev.RunStarted(run=make_run(*order[-1])))
    assert order == [("exp-0004", 43), ("exp-0003", 43), ("exp-0002", 42)]


def test_of_equals_the_older_one_goes_first(send: Send) -> None:
    state = send(
        *ran(1, 42), *ran(1, 43), *ran(1, 44), decided(1, Verdict.KEEP), *experiment(2), *experiment(3)
    )
    assert next_run(state, "worker-1", 2) == NextRun("exp-0002", 42, 1)


def test_a_lost_run_is_next_again_as_another_attempt(send: Send) -> None:
    run = make_run("exp-0001", 42)
    state = send(ev.RunStarted(run=run), ev.RunLost(run_id=run.run_id, reason="gone"))
    assert next_run(state, "worker-1", 2) == NextRun("exp-0001", 42, 2)


def test_nothing_waits_when_all_runs_are_out(send: Send) -> None:
    state = send(*(ev.RunStarted(run=make_run("exp-0001", seed)) for seed in (42, 43, 44)))
    assert next_run(state, "worker-1", 2) is None


@pytest.mark.parametrize(("champion_runs", "expected"), [(1, ()), (2, (43,)), (4, (43, 44, 45))])
def test_a_champion_with_few_runs_gets_more(
    send: Send, champion_runs: int, expected: tuple[int, ...]
) -> None:
    policy = DecisionConfig(champion_runs=champion_runs)
    assert champion_runs_wanted(send(), policy, 42) == ()
    state = send(
        *ran(1, 42), *ran(1, 43), *ran(1, 44), decided(1, Verdict.KEEP),
        *experiment(2), *ran(2, 42), decided(2, Verdict.KEEP),
    )  # fmt: skip
    assert champion_runs_wanted(state, policy, 42) == expected
    if expected:
        state = send(ev.RunsRequested(experiment_id="exp-0002", seeds=expected, reason=""))
        assert champion_runs_wanted(state, policy, 42) == (), "asked for once"


def test_a_run_lost_with_its_worker_goes_to_another_unless_there_is_none(send: Send) -> None:
    run = make_run("exp-0001", 42)
    lost = ev.RunLost(run_id=run.run_id, reason="gone", at_fault=True)
    state = send(ev.RunStarted(run=run), lost)
    again = NextRun("exp-0001", 42, 2)
    assert next_run(state, run.worker_id, 2) is None
    assert next_run(state, "worker-1", 2) == again
    assert next_run(state, run.worker_id, 1) == again


def test_one_hypothesis_a_worker_is_kept_ahead() -> None:
    assert [num_wanted(n, 0) for n in (1, 8)] == [2, 9]
    assert [num_wanted(1, queued) for queued in (1, 2)] == [1, 0]
    assert [num_wanted(8, queued) for queued in (4, 5, 9)] == [5, 0, 0]


# Failure -------------------------------------------------------------------------------------


def test_a_lost_run_is_requeued_once_and_then_a_crash_but_stops_never_count(send: Send) -> None:
    def lose(attempt: int, *, at_fault: bool) -> CampaignState:
        run = make_run("exp-0001", 42, attempt)
        return send(ev.RunStarted(run=run), ev.RunLost(run_id=run.run_id, reason="gone", at_fault=at_fault))

    entry = lose(1, at_fault=False).experiments["exp-0001"]
    assert on_lost_run(entry, 42, at_fault=True) is LossAction.REQUEUE
    entry = lose(2, at_fault=True).experiments["exp-0001"]
    assert on_lost_run(entry, 42, at_fault=True) is LossAction.CRASH
    assert on_lost_run(entry, 42, at_fault=False) is LossAction.REQUEUE
    assert on_lost_run(entry, 43, at_fault=True) is LossAction.REQUEUE, "faults count by seed"


# Stopping ------------------------------------------------------------------------------------


def session(session_id: str = "s") -> ev.SessionStarted:
    return ev.SessionStarted(
        session_id=session_id,
        host="h",
        hardware=Hardware(cpus=1, memory_gb=1),
        sandbox="none",
        versions={},
    )


def ask(
    state: CampaignState, elapsed_s: float = 0.0, expected_run_s: float = 36.0, **limits: float
) -> Allowance:
    return allowance(state, LimitsConfig.model_validate(limits), elapsed_s, expected_run_s)


def test_without_limits_everything_goes(send: Send) -> None:
    assert ask(send(), elapsed_s=1e9) == Allowance(True, True, "", False)


def test_max_experiments_counts_begun_ones_and_lets_runs_go_on(send: Send) -> None:
    assert ask(send(), max_experiments=2).may_begin
    allowed = ask(send(*experiment(2)), max_experiments=2)
    assert allowed == Allowance(True, False, "the limit of 2 experiments is reached", True)


def test_max_runs_counts_what_is_in_flight_but_not_what_was_lost(send: Send) -> None:
    state = send(*ran(1, 42))
    assert ask(state, max_runs=2).may_run
    run = make_run("exp-0001", 43)
    state = send(ev.RunStarted(run=run))
    assert ask(state, max_runs=2) == Allowance(False, False, "the limit of 2 runs is reached", True)
    state = send(ev.RunLost(run_id=run.run_id, reason="gone"))
    assert ask(state, max_runs=2).may_run


def test_worker_hours_include_what_runs_now(send: Send) -> None:
    state = send(*ran(1, 42, total_s=1800.0))
    hour = {"max_gpu_hours": 1.0, "expected_run_s": 900.0}
    assert ask(state, **hour).may_run
    state = send(ev.RunStarted(run=make_run("exp-0001", 43)))
    assert ask(state, **hour).may_run, "1800 + 900 + 900 s fit exactly"
    state = send(ev.RunStarted(run=make_run("exp-0001", 44)))
    assert ask(state, **hour) == Allowance(False, False, "the limit of 1 worker hours is reached", True)


def test_session_minutes_let_no_run_start_that_would_not_end_in_time(send: Send) -> None:
    assert ask(send(), elapsed_s=84.0, session_minutes=2).may_run
    allowed = ask(send(), elapsed_s=84.1, session_minutes=2)
    assert (allowed.may_run, allowed.may_begin, allowed.ends_campaign) == (False, False, False)
    assert allowed.reason == "the 2 minutes of this session are up"


def sessions(*moments: tuple[str, ev.Event]) -> CampaignState:
    """A campaign whose events after its creation are recorded at these times of one day."""
    state = CampaignState()
    created = ev.CampaignCreated(
        tag="t", objective="", config={}, target_sha256={}, data_sha256="", created_at="2026"
    )
    for seq, (clock, event) in enumerate([("08:00:00", created), *moments], start=1):
        state.apply(Entry(seq, f"2026-01-01T{clock}.000Z", str(seq), event, ""))
    return state


def note() -> ev.NoteWritten:
    return ev.NoteWritten(author="a", text="")


def test_hours_are_those_of_all_sessions_without_the_time_between() -> None:
    state = sessions(
        ("09:00:00", session("a")), ("09:30:00", note()), ("20:00:00", session("b")), ("20:45:00", note())
    )
    assert campaign_hours(state, elapsed_s=2700.0) == pytest.approx(1.25)
    lasted_h = [session_s(each) / 3600 for each in state.sessions]
    assert lasted_h[-1] > 0
    assert campaign_hours(state, elapsed_s=None) == pytest.approx(sum(lasted_h)), "the last one is over"
    assert ask(state, elapsed_s=2700.0, max_hours=1.26, expected_run_s=36.0).may_run
    assert ask(state, elapsed_s=2700.0, max_hours=1.25, expected_run_s=36.0) == Allowance(
        False, False, "the limit of 1.25 hours is reached", True
    )


def test_hours_grow_while_nothing_is_recorded() -> None:
    state = sessions(("09:00:00", session("a")))
    assert ask(state, elapsed_s=3500.0, max_hours=1).may_run
    assert not ask(state, elapsed_s=3600.0, max_hours=1).may_run, "a paused campaign uses its hours too"


@pytest.mark.parametrize("later", ["03:10:00", "23:10:00"])
def test_a_clock_that_is_set_within_a_session_neither_gives_nor_takes_hours(later: str) -> None:
    state = sessions(("09:00:00", session("a")), (later, note()))
    limit = {"max_hours": 2.0, "expected_run_s": 0.0}
    assert ask(state, elapsed_s=7200.0, **limit).may_run
    assert not ask(state, elapsed_s=7201.0, **limit).may_run


def test_a_clock_that_was_set_back_between_sessions_makes_none_of_them_negative() -> None:
    state = sessions(("09:00:00", session("a")), ("09:30:00", note()), ("07:00:00", session("b")))
    assert [session_s(each) for each in state.sessions] == [1800.0, 0.0]
    assert campaign_hours(state, elapsed_s=0.0) == 0.5


def test_money_is_worker_hours_times_their_price_and_counts_what_runs_now(send: Send) -> None:
    state = send(*ran(1, 42, total_s=1800.0), ev.RunStarted(run=make_run("exp-0001", 43)))
    price = {"usd_per_gpu_hour": 4.0, "expected_run_s": 900.0}
    assert ask(state, max_usd=4.0, **price).may_run, "1800 + 900 + 900 s cost exactly 4"
    assert ask(state, max_usd=3.99, **price) == Allowance(
        False, False, "the limit of 3.99 US dollars is reached", True
    )


def test_there_is_nothing_to_do_only_when_no_run_no_decision_and_no_end_is_left(send: Send) -> None:
    full, session = Allowance(True, False, ""), Allowance(False, False, "")
    assert not has_nothing_to_do(send(), Allowance())
    assert not has_nothing_to_do(send(), full), "the baseline's runs are still to come"
    assert has_nothing_to_do(send(), session)
    state = send(*ran(1, 42), *ran(1, 43), *ran(1, 44))
    assert not has_nothing_to_do(state, session), "all runs are in: it must be decided"
    state = send(decided(1, Verdict.KEEP))
    assert has_nothing_to_do(state, full)
    assert has_nothing_to_do(state, session)
    limit = Allowance(False, False, "the limit of 1 experiments is reached", ends_campaign=True)
    assert not has_nothing_to_do(state, limit), "a driver was killed before the end was recorded"
    assert has_nothing_to_do(send(ev.CampaignEnded(reason=limit.reason)), limit)


def test_a_run_is_expected_to_take_the_mean_but_never_less_than_its_budget(send: Send) -> None:
    config = CampaignConfig.model_validate({"run": {"budget_s": 30.0}})
    longer = CampaignConfig.model_validate({"run": {"budget_s": 60.0}})
    simulated = CampaignConfig.model_validate(
        {"run": {"budget_s": 30.0}, "simulation": {"trainer": "autohyp.testing.objectives:bowl"}}
    )
    assert expected_run_s(send(), config) == 40.0, "nothing is measured yet"
    assert expected_run_s(send(), simulated) == 30.0, "nothing has to be loaded"
    assert expected_run_s(send(*ran(1, 42, total_s=50.0), *ran(1, 43, total_s=34.0)), config) == 42.0
    assert expected_run_s(send(), longer) == 60.0, "runs that crashed early promise nothing"


# Memory ----------------------------------------------------------------------------------------

BEFORE = "DEPTH = 8\n\n\n\n\nDEVICE_BATCH_SIZE = 64\n"


def out_of_memory(edit: ConstantsEdit | DiffEdit, source: str, **facts: float | bool) -> ExperimentEntry:
    proposed = make_hypothesis("hyp-1").model_copy(update={"edit": edit})
    constants = read_constants(source)
    experiment = make_experiment(2, proposed).model_copy(update={"constants": constants})
    result = make_result(make_run("exp-0002"), status=RunStatus.CRASHED, reason="OutOfMemoryError")
    results = [result.model_copy(update={"integrity": facts})]
    return ExperimentEntry(experiment, [result.seed], results=results)


@pytest.mark.parametrize(
    ("predicted_mb", "rows"), [(0.0, 32), (81_000, 32), (160_001, 16), (700_000, 4), (80_000_000, 1)]
)
def test_what_ran_out_of_memory_gets_as_few_rows_as_the_prediction_asks_for(
    predicted_mb: float, rows: int
) -> None:
    source = BEFORE.replace("8", "16", 1)
    facts = {"predicted_memory_mb": predicted_mb, "gpu_memory_mb": 80_000.0}
    entry = out_of_memory(ConstantsEdit(overrides={"DEPTH": 16}), source, out_of_memory=True, **facts)
    smaller = with_smaller_batch(entry, BEFORE, source)
    assert smaller is not None
    assert smaller.edit == ConstantsEdit(overrides={"DEPTH": 16, "DEVICE_BATCH_SIZE": rows})
    assert smaller.hypothesis_id == f"hyp-1.rows{rows}"
    assert smaller.title == f"Try hyp-1, {rows} rows a forward pass"


def test_a_change_of_code_keeps_its_change() -> None:
    source = BEFORE + "print(DEPTH)\n"
    entry = out_of_memory(DiffEdit(patch=unified_diff(BEFORE, source)), source, out_of_memory=True)
    smaller = with_smaller_batch(entry, BEFORE, source)
    assert smaller is not None
    moved_on = BEFORE.replace("8", "12", 1)
    assert apply_edit(moved_on, smaller.edit) == "DEPTH = 12\n\n\n\n\nDEVICE_BATCH_SIZE = 32\nprint(DEPTH)\n"


@pytest.mark.parametrize(
    ("rows", "facts"), [("64", {}), ("1", {"out_of_memory": True}), ("x", {"out_of_memory": True})]
)
def test_there_is_nothing_smaller_where_memory_is_not_the_trouble_or_the_batch_cannot_be_halved(
    rows: str, facts: dict[str, bool]
) -> None:
    source = BEFORE.replace("64", rows)
    entry = out_of_memory(ConstantsEdit(overrides={"DEPTH": 16}), source, **facts)
    assert with_smaller_batch(entry, BEFORE, source) is None
