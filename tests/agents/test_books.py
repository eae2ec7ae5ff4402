"""A role's copy of the state: equal to the ledger's, whoever else changes it meanwhile."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import pytest

from autohyp.agents import ledger as ledger_module
from autohyp.agents.base import News
from autohyp.agents.books import Books
from autohyp.agents.ledger import Ledger
from autohyp.errors import JournalError
from autohyp.journal import Draft, Entry
from autohyp.journal import events as ev
from autohyp.paths import CampaignPaths
from autohyp.records import RunStatus, WorkerLive
from autohyp.testing.fakes import (
    baseline_hypothesis,
    make_experiment,
    make_hypothesis,
    make_result,
    make_run,
)


class LocalLedger:
    """A `LedgerClient` on a real ledger in this process, over the wire's form of drafts and entries."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.num_whole_states = 0

    def append(self, drafts: Sequence[Draft], since: int | None = None) -> News:
        self.ledger.append([Draft.from_wire(draft.wire()) for draft in drafts])
        return News() if since is None else self.news(since)

    def news(self, since: int) -> News:
        entries = self.ledger.news(since)
        if entries is None:
            self.num_whole_states += 1
            return News(state=copy.deepcopy(self.ledger.state))
        return News([Entry.from_wire(entry) for entry in entries])

    def heartbeat(self, *lives: WorkerLive) -> None:
        raise AssertionError("nobody works here")


@pytest.fixture
def paths(tmp_path: Path) -> CampaignPaths:
    return CampaignPaths(tmp_path / "test")


@pytest.fixture
def client(paths: CampaignPaths) -> LocalLedger:
    """A campaign whose baseline waits for its runs."""
    ledger = Ledger(paths)
    created = ev.CampaignCreated(
        tag="t", objective="", config={}, target_sha256={}, data_sha256="", created_at="2026"
    )
    ledger.append(
        [
            Draft("campaign", created),
            Draft("propose", ev.HypothesisProposed(hypothesis=baseline_hypothesis())),
            Draft("create", ev.ExperimentCreated(experiment=make_experiment(1, seeds=(42, 43)))),
        ]
    )
    return LocalLedger(ledger)


def start(seed: int) -> Draft:
    run = make_run(seed=seed)
    return Draft(f"start:{run.run_id}", ev.RunStarted(run=run))


def finish(seed: int, val_bpb: float = 1.8) -> Draft:
    run = make_run(seed=seed)
    return Draft(f"finish:{run.run_id}", ev.RunFinished(result=make_result(run, val_bpb)))


def propose(number: int) -> Draft:
    return Draft(f"hyp-{number}", ev.HypothesisProposed(hypothesis=make_hypothesis(f"hyp-{number}")))


def record(books: Books, *drafts: Draft) -> None:
    for draft in drafts:
        books.record(draft.key, draft.event)


def test_what_is_recorded_is_in_the_copy_at_once_and_in_the_ledger_after_the_flush(
    client: LocalLedger,
) -> None:
    books = Books(client)
    record(books, start(42), propose(1))
    assert list(books.state.in_flight) == ["exp-0001.s42.a1"]
    assert not client.ledger.state.in_flight
    books.flush()
    assert books.state == client.ledger.state
    books.flush()
    assert client.ledger.state.version == 5, "a turn is sent once"


def test_others_changes_come_in_before_and_after_ones_own(client: LocalLedger) -> None:
    books = Books(client)
    client.append([start(42)])
    record(books, start(43), propose(1))
    client.append([finish(42)])
    books.flush()
    assert books.state.version == client.ledger.state.version
    assert books.state.experiments["exp-0001"].scores == {42: 1.8}
    client.append([finish(43, 1.9)])
    assert books.refresh().experiments["exp-0001"].scores == {42: 1.8, 43: 1.9}
    assert books.state.noise == client.ledger.state.noise


def test_an_impossible_change_is_refused_before_it_is_sent(client: LocalLedger) -> None:
    books = Books(client)
    with pytest.raises(JournalError, match="is not in flight"):
        record(books, finish(42))
    books.flush()
    assert books.state == client.ledger.state


def test_a_change_that_the_ledger_refuses_leaves_a_copy_of_what_is_recorded(client: LocalLedger) -> None:
    books = Books(client)
    record(books, propose(1), start(42), propose(2))
    client.append([Draft("elsewhere", start(42).event)])
    with pytest.raises(JournalError, match=r"exists already|awaits no run"):
        books.flush()
    assert books.state == client.ledger.state
    assert set(books.state.queue) == {"hyp-1"}, "what came before the refused change was recorded"
    assert books.take_touched() is None
    record(books, propose(3))
    books.flush()
    assert books.state == client.ledger.state


def test_the_first_account_of_a_fact_counts(client: LocalLedger) -> None:
    """The observer takes a worker for lost and records a crash; its result, of the same key, was first."""
    client.append([start(42)])
    books = Books(client)
    crash = make_result(make_run(seed=42), None, RunStatus.CRASHED, "it lost its worker")
    books.record(finish(42).key, ev.RunFinished(result=crash))
    client.append([finish(42)])
    books.flush()
    assert books.state == client.ledger.state
    assert books.state.experiments["exp-0001"].scores == {42: 1.8}


def test_touched_are_the_experiments_that_changed(client: LocalLedger) -> None:
    books = Books(client)
    assert books.take_touched() is None, "at first any may have"
    record(books, propose(1))
    books.flush()
    assert books.take_touched() == set()
    record(books, start(42))
    client.append([start(43), finish(43)])
    books.flush()
    assert books.take_touched() == {"exp-0001"}
    assert books.take_touched() == set()


def test_a_reader_that_is_far_behind_gets_a_whole_state_of_its_own(
    client: LocalLedger, paths: CampaignPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "ENTRIES_KEPT", 4)
    client.ledger.close()
    client = LocalLedger(Ledger(paths))
    books, late = Books(client), Books(client)
    assert client.num_whole_states == 2
    for number in range(4):
        client.append([propose(number)])
        books.refresh()
    late.refresh()
    assert client.num_whole_states == 2
    for number in range(4, 9):
        client.append([propose(number)])
    late.refresh()
    assert client.num_whole_states == 3
    books.refresh()
    assert books.state == late.state == client.ledger.state
    assert late.state is not client.ledger.state
