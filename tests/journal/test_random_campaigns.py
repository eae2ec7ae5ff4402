"""Random sequences of events, possible and not: the ledger on disk, the fold and a replay never disagree."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from autohyp.agents.ledger import Ledger
from autohyp.errors import JournalError
from autohyp.journal import CampaignState, Draft, ExperimentEntry, read_journal, replay
from autohyp.journal import events as ev
from autohyp.paths import CampaignPaths
from autohyp.records import Decision, Finding, Hardware, Hypothesis, RunStatus, Verdict
from autohyp.testing.fakes import InMemoryLedger, make_experiment, make_hypothesis, make_result, make_run

SCORES = st.floats(0.5, 3.0) | st.none()


class RandomCampaign(RuleBasedStateMachine):
    """Every event goes to a ledger on disk and to one in memory; some are impossible."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.paths = CampaignPaths(Path(self.folder.name) / "test")
        self.ledger = Ledger(self.paths)
        self.fake = InMemoryLedger()
        self.number = 0
        self.proposed: dict[str, Hypothesis] = {}
        self.begun: set[str] = set()
        event = ev.CampaignCreated(
            tag="test",
            objective="",
            config={"a": [1, 2.5]},
            target_sha256={},
            data_sha256="",
            created_at="2026",
        )
        self.send(event)

    @property
    def state(self) -> CampaignState:
        return self.ledger.state

    def send(self, event: ev.Event) -> bool:
        """To both; they must agree on whether it is possible."""
        self.number += 1
        draft, accepted = Draft(f"key-{self.number}", event), []
        for ledger in (self.ledger, self.fake):
            before = self.state.version
            try:
                ledger.append([draft])
            except JournalError:
                accepted.append(False)
                assert ledger is self.fake or self.state.version == before
            else:
                accepted.append(True)
        assert accepted[0] == accepted[1]
        return accepted[0]

    @rule(number=st.integers(1, 30))
    def propose(self, number: int) -> None:
        overrides = {"ADAM_BETAS": (0.8, 0.9), "NAME": "x", "FLAG": True, "N": number}
        is_new = f"hyp-{number}" not in self.state.hypothesis_ids
        hypothesis = self.proposed.setdefault(f"hyp-{number}", make_hypothesis(f"hyp-{number}", overrides))
        assert self.send(ev.HypothesisProposed(hypothesis=hypothesis)) == is_new

    @rule(data=st.data())
    def refuse(self, data: st.DataObject) -> None:
        chosen = data.draw(st.sampled_from([*self.proposed, "hyp-unknown"]))
        possible = chosen in self.state.queue
        assert self.send(ev.HypothesisRefused(hypothesis_id=chosen, reason="no")) == possible

    @precondition(lambda self: self.proposed)
    @rule(data=st.data(), num_seeds=st.integers(1, 3), skip=st.sampled_from([0, 0, 0, 1]))
    def create(self, data: st.DataObject, num_seeds: int, skip: int) -> None:
        chosen = data.draw(st.sampled_from([*(self.state.queue or self.proposed)]))
        ordinal = len(self.state.experiments) + 1 + skip
        experiment = make_experiment(ordinal, self.proposed[chosen], tuple(range(42, 42 + num_seeds)))
        possible = chosen in self.state.queue and not skip
        assert self.send(ev.ExperimentCreated(experiment=experiment)) == possible

    def entry(self, data: st.DataObject) -> ExperimentEntry:
        return self.state.experiments[data.draw(st.sampled_from([*self.state.experiments]))]

    @precondition(lambda self: self.state.experiments)
    @rule(data=st.data(), seed=st.integers(42, 45))
    def start(self, data: st.DataObject, seed: int) -> None:
        entry = self.entry(data)
        run = make_run(entry.experiment_id, seed, entry.attempts.get(seed, 0) + 1)
        possible = seed in entry.pending_seeds
        assert self.send(ev.RunStarted(run=run)) == possible
        self.begun.add(run.run_id)

    @precondition(lambda self: self.begun)
    @rule(data=st.data(), at_fault=st.booleans())
    def lose(self, data: st.DataObject, at_fault: bool) -> None:
        run_id = data.draw(st.sampled_from([*(self.state.in_flight or sorted(self.begun))]))
        possible = run_id in self.state.in_flight
        assert self.send(ev.RunLost(run_id=run_id, reason="gone", at_fault=at_fault)) == possible

    @precondition(lambda self: self.state.in_flight)
    @rule(data=st.data(), val_bpb=SCORES)
    def finish(self, data: st.DataObject, val_bpb: float | None) -> None:
        run = self.state.in_flight[data.draw(st.sampled_from([*self.state.in_flight]))]
        status = RunStatus.CRASHED if val_bpb is None else RunStatus.COMPLETED
        result = make_result(run, val_bpb, status)
        assert self.send(ev.RunFinished(result=result))
        assert not self.send(ev.RunFinished(result=result)), "a result counts once"

    @precondition(lambda self: self.state.experiments)
    @rule(data=st.data(), verdict=st.sampled_from(Verdict))
    def decide(self, data: st.DataObject, verdict: Verdict) -> None:
        entry = self.entry(data)
        seeds = (max(entry.seeds) + 1,) if verdict is Verdict.REPLICATE else ()
        decision = Decision(
            experiment_id=entry.experiment_id, verdict=verdict, reason="r", mean_bpb=1.1, next_seeds=seeds
        )
        possible = entry.awaits_decision
        assert self.send(ev.DecisionMade(decision=decision)) == possible

    @precondition(lambda self: self.state.experiments)
    @rule(data=st.data(), seeds=st.sets(st.integers(42, 46), max_size=2))
    def request(self, data: st.DataObject, seeds: set[int]) -> None:
        request = ev.RunsRequested(
            experiment_id=self.entry(data).experiment_id, seeds=tuple(sorted(seeds)), reason="r"
        )
        assert self.send(request)

    @rule(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=20), ends=st.booleans())
    def talk(self, text: str, ends: bool) -> None:
        assert self.send(ev.NoteWritten(author="a", text=text))
        assert self.send(
            ev.FindingRecorded(finding=Finding(finding_id="f", title=text, evidence="", confidence=1.0))
        )
        if ends:
            assert self.send(ev.CampaignEnded(reason=text))

    @rule(session=st.integers(1, 3))
    def sit(self, session: int) -> None:
        hardware = Hardware(cpus=2, memory_gb=1.5, gpus=("H200",))
        assert self.send(
            ev.SessionStarted(
                session_id=f"s{session}", host="h", hardware=hardware, sandbox="none", versions={"ray": "2"}
            )
        )
        assert self.send(ev.SessionEnded(session_id="s1", reason="r"))

    @rule(session=st.integers(1, 3), now=st.booleans())
    def stop(self, session: int, now: bool) -> None:
        sessions = self.state.sessions
        possible = bool(sessions) and sessions[-1].started.session_id == f"s{session}"
        assert self.send(ev.StopRequested(session_id=f"s{session}", now=now, author="a")) == possible

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        assert self.send(ev.PauseChanged(paused=paused, author="a"))
        assert self.send(ev.WorkerDrained(worker_id="worker-0", reason="r"))
        assert self.state.paused == paused

    @rule()
    def restart(self) -> None:
        before = self.ledger.state
        self.ledger.close()
        self.ledger = Ledger(self.paths)
        assert self.ledger.state == before

    @invariant()
    def replay_equals_the_live_state(self) -> None:
        if self.number % 5 == 0:
            assert replay(read_journal(self.paths.journal)) == self.state

    @invariant()
    def books_are_consistent(self) -> None:
        state = self.state
        assert set(state.queue) | set(state.refused) <= state.hypothesis_ids
        assert not set(state.queue) & set(state.refused)
        active = {run_id for entry in state.experiments.values() for run_id in entry.active}
        assert active == set(state.in_flight)
        for entry in state.experiments.values():
            finished = [result.seed for result in entry.results]
            assert len(finished) == len(set(finished)), "one result a seed"
            is_open = entry.verdict is None or bool(entry.pending_seeds or entry.active)
            assert (entry.experiment_id in state.open) == is_open

    def teardown(self) -> None:
        assert replay(read_journal(self.paths.journal)) == self.state
        assert [entry.event for entry in self.fake.entries] == [
            entry.event for entry in read_journal(self.paths.journal)
        ]
        self.ledger.close()
        self.folder.cleanup()


RandomCampaign.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.mark.usefixtures("no_fsync")
class TestRandomCampaign(RandomCampaign.TestCase):
    pass
