"""The campaign's state: a pure fold over the journal's entries.

`replay(entries)` gives the same state for the same entries, always; `CampaignState.apply` is one step of
it, with one `_apply_<type>` per event. An event that cannot follow what came before raises JournalError
before anything changed, so the ledger refuses it instead of recording it. Nothing here reads a clock or a
file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from autohyp.errors import JournalError
from autohyp.journal import events as ev
from autohyp.records import (
    Decision,
    Experiment,
    Finding,
    Hypothesis,
    Run,
    RunResult,
    Tool,
    Verdict,
)

__all__ = ["CampaignState", "ExperimentEntry", "Session", "replay"]


@dataclass
class ExperimentEntry:
    """An experiment with all that happened to it.

    `seeds` are all runs asked for so far, `active` those on a worker now, `attempts` counts the runs begun
    per seed, `num_faults` those that took their worker with them.
    """

    experiment: Experiment
    seeds: list[int]
    results: list[RunResult] = field(default_factory=list)
    active: dict[str, Run] = field(default_factory=dict)
    attempts: dict[int, int] = field(default_factory=dict)
    num_faults: dict[int, int] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)
    first_started_at: str = ""

    @property
    def experiment_id(self) -> str:
        return self.experiment.experiment_id

    @property
    def decision(self) -> Decision | None:
        return self.decisions[-1] if self.decisions else None

    @property
    def verdict(self) -> Verdict | None:
        """The terminal verdict, or None while there is none."""
        last = self.decision
        return last.verdict if last is not None and last.verdict.is_terminal else None

    @property
    def measured(self) -> list[RunResult]:
        return [result for result in self.results if result.is_measured]

    @property
    def scores(self) -> dict[int, float]:
        """val_bpb by seed."""
        return {result.seed: result.val_bpb for result in self.results if result.val_bpb is not None}

    @property
    def mean_bpb(self) -> float | None:
        scores = self.scores
        return sum(scores.values()) / len(scores) if scores else None

    @property
    def pending_seeds(self) -> list[int]:
        """Seeds asked for that neither have a result nor run now."""
        taken = {result.seed for result in self.results} | {run.seed for run in self.active.values()}
        return [seed for seed in self.seeds if seed not in taken]

    @property
    def awaits_decision(self) -> bool:
        """Whether every run asked for is in and nothing was decided on them yet."""
        decided_on = self.decision
        if self.verdict is not None or self.active or self.pending_seeds:
            return False
        return decided_on is None or decided_on.verdict is Verdict.REPLICATE


@dataclass
class Session:
    """One driver's time with the campaign; it lasted at least until `last_ts`, however it ended."""

    started: ev.SessionStarted
    started_at: str
    last_ts: str
    end_reason: str = ""


@dataclass
class CampaignState:
    """Everything known of a campaign at one point of its journal; `version` is the last entry's seq.

    `queue` holds hypotheses not tried yet, `runs` the experiment of every run ever begun, `in_flight` the
    runs on a worker now, `open` the experiments that are undecided or have runs to come, `lineage` the
    champions in order. So what the observer looks at each time does not grow with the campaign. `paused`,
    `stop`, `worker_faults` (failures in a row) and `drained` (reason by worker) belong to the last session.
    """

    version: int = 0
    created: ev.CampaignCreated | None = None
    sessions: list[Session] = field(default_factory=list)
    hypotheses: dict[str, Hypothesis] = field(default_factory=dict)
    queue: dict[str, Hypothesis] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    experiments: dict[str, ExperimentEntry] = field(default_factory=dict)
    runs: dict[str, str] = field(default_factory=dict)
    in_flight: dict[str, Run] = field(default_factory=dict)
    open: dict[str, None] = field(default_factory=dict)
    lineage: list[str] = field(default_factory=list)
    decision_order: list[str] = field(default_factory=list)
    findings: dict[str, Finding] = field(default_factory=dict)
    tools: dict[str, Tool] = field(default_factory=dict)
    notes: list[tuple[str, ev.NoteWritten]] = field(default_factory=list)
    paused: bool = False
    stop: ev.StopRequested | None = None
    worker_faults: dict[str, int] = field(default_factory=dict)
    drained: dict[str, str] = field(default_factory=dict)
    ended: str | None = None
    charged_s: float = 0.0
    worker_s: float = 0.0

    # What follows from the fields ------------------------------------------------------------

    @property
    def tag(self) -> str:
        return self.created.tag if self.created else ""

    @property
    def champion_id(self) -> str | None:
        return self.lineage[-1] if self.lineage else None

    @property
    def champion(self) -> ExperimentEntry | None:
        return self.experiments[self.lineage[-1]] if self.lineage else None

    @property
    def baseline(self) -> ExperimentEntry | None:
        return next((entry for entry in self.experiments.values() if entry.experiment.is_baseline), None)

    def open_experiments(self) -> Iterator[ExperimentEntry]:
        """Experiments that are undecided or have runs to come, oldest first."""
        return (self.experiments[experiment_id] for experiment_id in self.open)

    def decided(self) -> list[ExperimentEntry]:
        """Experiments with a terminal verdict, in the order in which they got it."""
        return [self.experiments[experiment_id] for experiment_id in self.decision_order]

    @property
    def num_results(self) -> int:
        return sum(len(entry.results) for entry in self.experiments.values())

    # The fold --------------------------------------------------------------------------------

    def apply(self, entry: ev.Entry) -> None:
        """One step of the fold. Raises JournalError, with the state unchanged, for an impossible event."""
        self.check(entry.event)
        handler: Callable[[Any, str], None] = getattr(self, f"_apply_{entry.event.type}")
        handler(entry.event, entry.ts)
        self.version = entry.seq
        if self.sessions:
            # A clock that was set back takes nothing from the time that a session lasted.
            self.sessions[-1].last_ts = max(self.sessions[-1].last_ts, entry.ts)

    def check(self, event: ev.Event) -> None:
        """Raise JournalError when `event` cannot come next."""
        if (self.created is None) != isinstance(event, ev.CampaignCreated):
            raise JournalError("a journal begins with campaign_created, once")
        problem = self._problem(event)
        if problem:
            raise JournalError(f"{event.type}: {problem}")

    def _problem(self, event: ev.Event) -> str | None:
        match event:
            case ev.HypothesisProposed(hypothesis=hypothesis):
                known = hypothesis.hypothesis_id in self.hypotheses
                return f"hypothesis {hypothesis.hypothesis_id} exists already" if known else None
            case ev.HypothesisRefused(hypothesis_id=hypothesis_id):
                return None if hypothesis_id in self.queue else f"hypothesis {hypothesis_id} is not queued"
            case ev.ExperimentCreated(experiment=experiment):
                return self._experiment_problem(experiment)
            case ev.RunStarted(run=run):
                return self._start_problem(run)
            case ev.RunsRequested(experiment_id=experiment_id):
                return None if experiment_id in self.experiments else f"no experiment {experiment_id}"
            case ev.RunLost(run_id=run_id):
                return self._active_problem(run_id)
            case ev.RunFinished(result=result):
                return self._active_problem(result.run_id) or self._result_problem(result)
            case ev.StopRequested(session_id=session_id):
                current = self.sessions and self.sessions[-1].started.session_id == session_id
                return None if current else f"session {session_id} is not the one that runs"
            case ev.DecisionMade(decision=decision):
                entry = self.experiments.get(decision.experiment_id)
                ready = entry is not None and entry.awaits_decision
                return None if ready else f"{decision.experiment_id} does not await a decision"
        return None

    def _experiment_problem(self, experiment: Experiment) -> str | None:
        if experiment.experiment_id in self.experiments:
            return f"experiment {experiment.experiment_id} exists already"
        if experiment.ordinal != len(self.experiments) + 1:
            return f"ordinal {experiment.ordinal} where {len(self.experiments) + 1} comes next"
        if experiment.hypothesis.hypothesis_id not in self.queue:
            return f"hypothesis {experiment.hypothesis.hypothesis_id} is not queued"
        return None

    def _start_problem(self, run: Run) -> str | None:
        entry = self.experiments.get(run.experiment_id)
        if entry is None:
            return f"no experiment {run.experiment_id}"
        if run.run_id in self.runs:
            return f"run {run.run_id} exists already"
        return (
            None
            if run.seed in entry.pending_seeds
            else f"{run.experiment_id} awaits no run of seed {run.seed}"
        )

    def _active_problem(self, run_id: str) -> str | None:
        experiment_id = self.runs.get(run_id)
        if experiment_id is None or run_id not in self.experiments[experiment_id].active:
            return f"run {run_id} is not in flight"
        return None

    def _result_problem(self, result: RunResult) -> str | None:
        run = self.in_flight[result.run_id]
        belongs = (result.experiment_id, result.seed) == (run.experiment_id, run.seed)
        return None if belongs else f"the result names another experiment or seed than run {run.run_id}"

    def _apply_campaign_created(self, event: ev.CampaignCreated, ts: str) -> None:
        self.created = event

    def _apply_session_started(self, event: ev.SessionStarted, ts: str) -> None:
        self.sessions.append(Session(event, started_at=ts, last_ts=ts))
        # Whoever takes a campaign up again wants it to go on.
        self.ended, self.paused, self.stop = None, False, None
        self.worker_faults, self.drained = {}, {}

    def _apply_session_ended(self, event: ev.SessionEnded, ts: str) -> None:
        for session in self.sessions:
            if session.started.session_id == event.session_id:
                session.end_reason = event.reason

    def _apply_hypothesis_proposed(self, event: ev.HypothesisProposed, ts: str) -> None:
        self.hypotheses[event.hypothesis.hypothesis_id] = event.hypothesis
        self.queue[event.hypothesis.hypothesis_id] = event.hypothesis

    def _apply_hypothesis_refused(self, event: ev.HypothesisRefused, ts: str) -> None:
        del self.queue[event.hypothesis_id]
        self.refused[event.hypothesis_id] = event.reason

    def _apply_experiment_created(self, event: ev.ExperimentCreated, ts: str) -> None:
        experiment = event.experiment
        del self.queue[experiment.hypothesis.hypothesis_id]
        self.experiments[experiment.experiment_id] = ExperimentEntry(experiment, list(experiment.seeds))
        self.open[experiment.experiment_id] = None

    def _apply_run_started(self, event: ev.RunStarted, ts: str) -> None:
        run = event.run
        entry = self.experiments[run.experiment_id]
        entry.active[run.run_id] = self.in_flight[run.run_id] = run
        entry.attempts[run.seed] = entry.attempts.get(run.seed, 0) + 1
        entry.first_started_at = entry.first_started_at or run.started_at
        self.runs[run.run_id] = run.experiment_id

    def _apply_run_lost(self, event: ev.RunLost, ts: str) -> None:
        entry = self.experiments[self.runs[event.run_id]]
        run = entry.active.pop(event.run_id)
        del self.in_flight[event.run_id]
        entry.num_faults[run.seed] = entry.num_faults.get(run.seed, 0) + event.at_fault
        if event.at_fault:
            self.worker_faults[run.worker_id] = self.worker_faults.get(run.worker_id, 0) + 1

    def _apply_runs_requested(self, event: ev.RunsRequested, ts: str) -> None:
        entry = self.experiments[event.experiment_id]
        entry.seeds.extend(seed for seed in event.seeds if seed not in entry.seeds)
        self.open[event.experiment_id] = None

    def _apply_run_finished(self, event: ev.RunFinished, ts: str) -> None:
        result = event.result
        entry = self.experiments[result.experiment_id]
        del entry.active[result.run_id], self.in_flight[result.run_id]
        entry.results.append(result)
        if result.is_measured:
            self.worker_faults.pop(result.worker_id, None)
        self._close_if_settled(entry)
        self.charged_s += result.charged_s
        self.worker_s += result.total_s

    def _apply_decision_made(self, event: ev.DecisionMade, ts: str) -> None:
        decision = event.decision
        entry = self.experiments[decision.experiment_id]
        entry.decisions.append(decision)
        entry.seeds.extend(seed for seed in decision.next_seeds if seed not in entry.seeds)
        if decision.verdict.is_terminal:
            self.decision_order.append(decision.experiment_id)
        if decision.verdict is Verdict.KEEP:
            self.lineage.append(decision.experiment_id)
        self._close_if_settled(entry)

    def _close_if_settled(self, entry: ExperimentEntry) -> None:
        if entry.verdict is not None and not entry.active and not entry.pending_seeds:
            self.open.pop(entry.experiment_id, None)

    def _apply_finding_recorded(self, event: ev.FindingRecorded, ts: str) -> None:
        self.findings[event.finding.finding_id] = event.finding

    def _apply_tool_changed(self, event: ev.ToolChanged, ts: str) -> None:
        self.tools[event.tool.tool_id] = event.tool

    def _apply_note_written(self, event: ev.NoteWritten, ts: str) -> None:
        self.notes.append((ts, event))

    def _apply_pause_changed(self, event: ev.PauseChanged, ts: str) -> None:
        self.paused = event.paused

    def _apply_stop_requested(self, event: ev.StopRequested, ts: str) -> None:
        if self.stop is None or event.now:
            self.stop = event

    def _apply_worker_drained(self, event: ev.WorkerDrained, ts: str) -> None:
        self.drained[event.worker_id] = event.reason

    def _apply_campaign_ended(self, event: ev.CampaignEnded, ts: str) -> None:
        self.ended = event.reason


def replay(entries: Iterable[ev.Entry]) -> CampaignState:
    """The state after all entries, in order."""
    state = CampaignState()
    for entry in entries:
        state.apply(entry)
    return state
