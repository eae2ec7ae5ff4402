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
from autohyp.journal.experiments import ExperimentEntry, Experiments
from autohyp.journal.tally import KindTally, NoiseTally
from autohyp.records import Experiment, Finding, Hypothesis, NoiseFloor, Run, RunResult, Tool, Verdict

__all__ = ["CampaignState", "Refusal", "Session", "replay"]


@dataclass
class Session:
    """One driver's time with the campaign; it lasted at least until `last_ts`, however it ended."""

    started: ev.SessionStarted
    started_at: str
    last_ts: str
    end_reason: str = ""


@dataclass(frozen=True)
class Refusal:
    """A hypothesis that was not worth a run, and why."""

    hypothesis: Hypothesis
    reason: str


@dataclass
class CampaignState:
    """Everything known of a campaign at one point of its journal; `version` is the last entry's seq.

    `queue` holds hypotheses not tried yet, `in_flight` the runs on a worker now, `open` the experiments
    that are undecided or have runs to come, `waiting` those of them with runs to start, `ready` those to
    decide on, `lineage` the champions in order, `fingerprints` the experiment of every source tried. Totals
    (`num_results`, `noise`, `kinds`, ...) are kept as the events come. So what is looked at after every
    event does not grow with the campaign. `paused`, `stop`, `worker_faults` (failures in a row) and
    `drained` (reason by worker) belong to the last session.
    """

    version: int = 0
    created: ev.CampaignCreated | None = None
    sessions: list[Session] = field(default_factory=list)
    hypothesis_ids: set[str] = field(default_factory=set)
    queue: dict[str, Hypothesis] = field(default_factory=dict)
    refused: dict[str, Refusal] = field(default_factory=dict)
    experiments: Experiments = field(default_factory=Experiments)
    fingerprints: dict[str, str] = field(default_factory=dict)
    baseline_id: str | None = None
    in_flight: dict[str, Run] = field(default_factory=dict)
    open: dict[str, None] = field(default_factory=dict)
    waiting: dict[str, None] = field(default_factory=dict)
    ready: dict[str, None] = field(default_factory=dict)
    lineage: list[str] = field(default_factory=list)
    decision_order: list[str] = field(default_factory=list)
    verdicts: dict[Verdict, int] = field(default_factory=dict)
    findings: dict[str, Finding] = field(default_factory=dict)
    tools: dict[str, Tool] = field(default_factory=dict)
    notes: list[tuple[str, ev.NoteWritten]] = field(default_factory=list)
    paused: bool = False
    stop: ev.StopRequested | None = None
    worker_faults: dict[str, int] = field(default_factory=dict)
    drained: dict[str, str] = field(default_factory=dict)
    ended: str | None = None
    num_begun: int = 0
    num_results: int = 0
    num_measured: int = 0
    charged_s: float = 0.0
    worker_s: float = 0.0
    noise_tally: NoiseTally = field(default_factory=NoiseTally)
    kinds: dict[str, KindTally] = field(default_factory=dict)

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
        return self.experiments[self.baseline_id] if self.baseline_id is not None else None

    @property
    def noise(self) -> NoiseFloor | None:
        """The noise between runs of one source, pooled over all experiments with several runs."""
        return self.noise_tally.floor

    def open_experiments(self) -> Iterator[ExperimentEntry]:
        """Experiments that are undecided or have runs to come, oldest first."""
        return (self.experiments[experiment_id] for experiment_id in self.open)

    def decided(self) -> list[ExperimentEntry]:
        """Experiments with a terminal verdict, in the order in which they got it: a walk over all of them."""
        return [self.experiments[experiment_id] for experiment_id in self.decision_order]

    # The fold --------------------------------------------------------------------------------

    def apply(self, entry: ev.Entry) -> str | None:
        """One step of the fold; returns the id of the experiment that it changed, if any.

        Raises JournalError, with the state unchanged, for an impossible event.
        """
        self.check(entry.event)
        handler: Callable[[Any, str], str | None] = getattr(self, f"_apply_{entry.event.type}")
        touched = handler(entry.event, entry.ts)
        self.version = entry.seq
        if self.sessions:
            # A clock that was set back takes nothing from the time that a session lasted.
            self.sessions[-1].last_ts = max(self.sessions[-1].last_ts, entry.ts)
        return touched

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
                known = hypothesis.hypothesis_id in self.hypothesis_ids
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
        if entry.knows_run(run.run_id):
            return f"run {run.run_id} exists already"
        return (
            None
            if run.seed in entry.pending_seeds
            else f"{run.experiment_id} awaits no run of seed {run.seed}"
        )

    def _active_problem(self, run_id: str) -> str | None:
        return None if run_id in self.in_flight else f"run {run_id} is not in flight"

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
        self.hypothesis_ids.add(event.hypothesis.hypothesis_id)
        self.queue[event.hypothesis.hypothesis_id] = event.hypothesis

    def _apply_hypothesis_refused(self, event: ev.HypothesisRefused, ts: str) -> None:
        hypothesis = self.queue.pop(event.hypothesis_id)
        self.refused[event.hypothesis_id] = Refusal(hypothesis, event.reason)

    def _apply_experiment_created(self, event: ev.ExperimentCreated, ts: str) -> str:
        experiment = event.experiment
        name = experiment.experiment_id
        del self.queue[experiment.hypothesis.hypothesis_id]
        entry = ExperimentEntry(experiment, list(experiment.seeds))
        self.experiments.add(entry)
        self.fingerprints.setdefault(experiment.fingerprint, name)
        self._sort(entry)
        if experiment.is_baseline and self.baseline_id is None:
            self.baseline_id = name
        return name

    def _apply_run_started(self, event: ev.RunStarted, ts: str) -> str:
        run = event.run
        entry = self.experiments[run.experiment_id]
        entry.active[run.run_id] = self.in_flight[run.run_id] = run
        entry.attempts[run.seed] = entry.attempts.get(run.seed, 0) + 1
        entry.first_started_at = entry.first_started_at or run.started_at
        self.num_begun += 1
        self._sort(entry)
        return run.experiment_id

    def _apply_run_lost(self, event: ev.RunLost, ts: str) -> str:
        run = self.in_flight.pop(event.run_id)
        entry = self.experiments[run.experiment_id]
        del entry.active[event.run_id]
        entry.lost_run_ids.append(event.run_id)
        entry.num_faults[run.seed] = entry.num_faults.get(run.seed, 0) + event.at_fault
        if event.at_fault:
            entry.failed_on.append(run.worker_id)
            self._blame(run.worker_id)
        self._sort(entry)
        return run.experiment_id

    def _apply_runs_requested(self, event: ev.RunsRequested, ts: str) -> str:
        entry = self.experiments.open(event.experiment_id)
        entry.seeds.extend(seed for seed in event.seeds if seed not in entry.seeds)
        self._sort(entry)
        return event.experiment_id

    def _apply_run_finished(self, event: ev.RunFinished, ts: str) -> str:
        result = event.result
        entry = self.experiments[result.experiment_id]
        del entry.active[result.run_id], self.in_flight[result.run_id]
        if result.val_bpb is not None:
            self.noise_tally.add(entry.scores, result.val_bpb)
        entry.results.append(result)
        self.num_results += 1
        self.num_measured += result.is_measured
        if event.worker_failed:
            self._blame(result.worker_id)
        elif result.is_measured:
            self.worker_faults.pop(result.worker_id, None)
        self.charged_s += result.charged_s
        self.worker_s += result.total_s
        self._sort(entry)
        return result.experiment_id

    def _apply_decision_made(self, event: ev.DecisionMade, ts: str) -> str:
        decision = event.decision
        name = decision.experiment_id
        entry = self.experiments[name]
        entry.decisions.append(decision)
        entry.seeds.extend(seed for seed in decision.next_seeds if seed not in entry.seeds)
        if decision.verdict.is_terminal:
            self.decision_order.append(name)
            self.verdicts[decision.verdict] = self.verdicts.get(decision.verdict, 0) + 1
            entry.decided_ordinal = len(self.decision_order)
            self._count(entry, decision.verdict)
        if decision.verdict is Verdict.KEEP:
            self.lineage.append(name)
        self._sort(entry)
        return name

    def _count(self, entry: ExperimentEntry, verdict: Verdict) -> None:
        parent = self.experiments.get(entry.experiment.parent_experiment_id or "")
        tally = self.kinds.setdefault(entry.experiment.hypothesis.kind, KindTally())
        tally.add(entry.experiment_id, verdict, parent.scores if parent else {}, entry.scores)

    def _blame(self, worker_id: str) -> None:
        self.worker_faults[worker_id] = self.worker_faults.get(worker_id, 0) + 1

    def _sort(self, entry: ExperimentEntry) -> None:
        """Put an experiment that changed where it is looked for."""
        name, is_settled = entry.experiment_id, entry.is_settled
        _put(self.waiting, name, bool(entry.pending_seeds))
        _put(self.ready, name, entry.awaits_decision)
        _put(self.open, name, not is_settled)
        if is_settled:
            self.experiments.settle(name)

    def _apply_finding_recorded(self, event: ev.FindingRecorded, ts: str) -> None:
        self.findings[event.finding.finding_id] = event.finding

    def _apply_tool_changed(self, event: ev.ToolChanged, ts: str) -> None:
        self.tools[event.tool.tool_id] = event.tool

    def _apply_note_written(self, event: ev.NoteWritten, ts: str) -> str | None:
        self.notes.append((ts, event))
        return event.experiment_id

    def _apply_pause_changed(self, event: ev.PauseChanged, ts: str) -> None:
        self.paused = event.paused

    def _apply_stop_requested(self, event: ev.StopRequested, ts: str) -> None:
        if self.stop is None or event.now:
            self.stop = event

    def _apply_worker_drained(self, event: ev.WorkerDrained, ts: str) -> None:
        self.drained[event.worker_id] = event.reason

    def _apply_campaign_ended(self, event: ev.CampaignEnded, ts: str) -> None:
        self.ended = event.reason


def _put(index: dict[str, None], name: str, belongs: bool) -> None:
    if belongs:
        index[name] = None
    else:
        index.pop(name, None)


def replay(entries: Iterable[ev.Entry]) -> CampaignState:
    """The state after all entries, in order."""
    state = CampaignState()
    for entry in entries:
        state.apply(entry)
    return state
