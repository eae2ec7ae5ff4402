"""The observer: owns the queue, dispatch and decisions.

One `step` is a turn: it looks at the newest durable state, asks the policies, and carries out what they
return: settle what ended, decide what is measured, hand free workers their next run, keep hypotheses ready.
The turn's changes go to the ledger together, and only when they are durable is a worker told or the
champion's branch moved. It keeps nothing that the ledger does not hold, so a new observer goes on where the
last one died. Every change carries a key made of the fact itself, so a change sent twice is recorded once.
What a turn costs does not grow with the campaign.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence

from autohyp.agents.base import Fleet, RunOrder
from autohyp.agents.books import Books
from autohyp.agents.briefing import Briefing, past_experiment
from autohyp.agents.campaign import BASELINE_HYPOTHESIS_ID
from autohyp.agents.tool_builder import judge_tool, tools_to_request
from autohyp.config import CampaignConfig
from autohyp.errors import EditError, JournalError
from autohyp.execution.preflight import PreflightLimits, check
from autohyp.execution.workspace import Workspace, commit_message
from autohyp.journal import CampaignState, ExperimentEntry
from autohyp.journal import events as ev
from autohyp.policies.decide import Evidence, Standing, decide
from autohyp.policies.failure import LossAction, on_lost_run, with_smaller_batch
from autohyp.policies.findings import finding_about
from autohyp.policies.schedule import NextRun, champion_runs_wanted, next_run, num_wanted
from autohyp.policies.stopping import Allowance, allowance, expected_run_s, session_s
from autohyp.records import (
    BASELINE_KIND,
    Experiment,
    Hypothesis,
    Run,
    RunResult,
    RunStatus,
    ToolStatus,
    Verdict,
)
from autohyp.researchers.base import Researcher
from autohyp.source import apply_edit, fingerprint, line_count, read_constants

__all__ = ["Observer"]

log = logging.getLogger(__name__)

MAX_NOTE_CHARS = 300
RESEARCHER_REST_S = 10.0
"""How long a researcher that failed or had nothing to say is left alone."""


class Observer:
    """Runs a campaign by repeated `step`s until `finished` gives a reason."""

    def __init__(
        self,
        config: CampaignConfig,
        books: Books,
        fleet: Fleet,
        workspace: Workspace,
        researchers: Sequence[Researcher],
        sequence_len: int,
        clock: Callable[[], float] = time.monotonic,
        has_room: Callable[[], bool] = lambda: True,
    ) -> None:
        self._config = config
        self._books = books
        self._briefing = Briefing(config)
        self._fleet = fleet
        self._workspace = workspace
        self._researchers = list(researchers)
        self._preflight_limits = PreflightLimits(sequence_len=sequence_len)
        self._clock = clock
        # An observer that was restarted goes on in its session: what that lasted so far, the journal knows.
        self._started_at = clock() - sum(map(session_s, self._books.state.sessions[-1:]))
        self._has_room = has_room
        self._when_durable: list[Callable[[], None]] = []
        self._asks_again_at: dict[str, float] = {}
        self._obeyed: ev.StopRequested | None = None
        self._let_go: set[str] = set()
        self._comparisons_kept: list[int] = []
        self.finished: str | None = None
        self._restore_commits()
        self._settle_orphans()
        self._catch_up()
        self._end_turn()

    @property
    def _state(self) -> CampaignState:
        return self._books.state

    def step(self, timeout_s: float) -> None:
        """One turn, waiting up to `timeout_s` for a worker to end its run."""
        ended = self._fleet.wait(timeout_s)
        self._books.refresh()
        self._settle({end.run_id: end.error for end in ended if end.error is not None}, at_fault=True)
        self._obey()
        self._decide_all()
        self._look_after_tools()
        self._dispatch()
        if self._permission().may_begin:
            self._refill()
            self._dispatch()
        self._finish_if_done(self._permission())
        self._end_turn()

    def _end_turn(self) -> None:
        """Make the turn's changes durable, then do what they mean for the world outside."""
        effects, self._when_durable = self._when_durable, []
        try:
            self._books.flush()
        except JournalError:
            # A worker was quicker with another account of the same. Look again: what was recorded stays, a
            # run that was begun but never handed out is put back.
            log.warning("the ledger knew better", exc_info=True)
            self.finished = None
            self._settle_orphans()
            self._books.flush()
            return
        # Commits are written while the ledger works; nobody is sent to one that is not there.
        self._workspace.settle()
        for effect in effects:
            effect()

    def _obey(self) -> None:
        """Give up what runs when somebody wants that; let go of workers that fail again and again."""
        stop = self._state.stop
        if stop is not None and stop.now and self._obeyed is None:
            self._obeyed = stop
            self._fleet.cancel_all()
        for worker_id, num_faults in self._state.worker_faults.items():
            if num_faults >= self._config.workers.max_faults and worker_id not in self._state.drained:
                reason = f"it failed {num_faults} times in a row"
                self._record(
                    f"drain:{self._session_id()}:{worker_id}",
                    ev.WorkerDrained(worker_id=worker_id, reason=reason),
                )
        for worker_id in self._state.drained.keys() - self._let_go:
            self._let_go.add(worker_id)
            self._fleet.drain(worker_id)

    def _session_id(self) -> str:
        sessions = self._state.sessions
        return sessions[-1].started.session_id if sessions else ""

    def _restore_commits(self) -> None:
        """Make the commits that the journal tells of and an observer had no time to write."""
        experiments = {e.experiment_id: e.experiment for e in self._state.open_experiments()}
        self._workspace.restore(experiments, experiments.__getitem__)

    # What ended ------------------------------------------------------------------------------

    def _settle_orphans(self) -> None:
        """Runs that the journal has in flight but no worker has: their session or observer died."""
        held = set(self._fleet.busy().values())
        orphans = {run_id: "it was interrupted" for run_id in self._state.in_flight if run_id not in held}
        self._settle(orphans, at_fault=False)

    def _settle(self, lost: Mapping[str, str], *, at_fault: bool) -> None:
        """Record runs that ended without a result, with the reason of each.

        At once and one by one: a worker may record the end itself meanwhile, and what is durable first
        counts.
        """
        for run_id, reason in lost.items():
            run = self._state.in_flight.get(run_id)
            if run is None:
                continue
            self._record_loss(run, reason, at_fault=at_fault)
            try:
                self._books.flush()
            except JournalError:
                if run_id in self._state.in_flight:
                    raise

    def _record_loss(self, run: Run, reason: str, *, at_fault: bool) -> None:
        entry = self._state.experiments[run.experiment_id]
        if on_lost_run(entry, run.seed, at_fault=at_fault) is LossAction.REQUEUE:
            self._record(
                f"lost:{run.run_id}", ev.RunLost(run_id=run.run_id, reason=reason, at_fault=at_fault)
            )
        else:
            crash = ev.RunFinished(result=self._crash(run, reason), worker_failed=True)
            self._record(f"finish:{run.run_id}", crash)

    def _crash(self, run: Run, reason: str) -> RunResult:
        return RunResult(
            run_id=run.run_id,
            experiment_id=run.experiment_id,
            seed=run.seed,
            attempt=run.attempt,
            worker_id=run.worker_id,
            node_id=run.node_id,
            gpu_id=run.gpu_id,
            gpu_name=run.gpu_name,
            status=RunStatus.CRASHED,
            reason=f"it lost its worker again: {reason}",
            budget_s=self._config.run.budget_s or 0.0,
            sandbox=self._config.sandbox_name,
        )

    # Decisions -------------------------------------------------------------------------------

    def _decide_all(self) -> None:
        ready = [self._state.experiments[experiment_id] for experiment_id in self._state.ready]
        # The one that looks best goes first: the others are then measured against it.
        ready.sort(key=lambda entry: (not entry.experiment.is_baseline, entry.mean_bpb or float("inf")))
        for entry in ready:
            if entry.experiment.is_baseline or self._state.champion is not None:
                self._decide(entry)

    def _decide(self, entry: ExperimentEntry) -> None:
        champion = None if entry.experiment.is_baseline else self._state.champion
        evidence = Evidence(
            experiment_id=entry.experiment_id,
            results=entry.results,
            champion=Standing(champion.experiment_id, champion.scores) if champion else None,
            noise=self._state.noise,
            line_delta=entry.experiment.line_delta,
            first_seed=self._config.seed,
            number=_comparison(entry),
            kept=self._kept(),
        )
        decision = decide(evidence, self._config.decisions)
        self._record(
            f"decide:{entry.experiment_id}:{len(entry.decisions) + 1}", ev.DecisionMade(decision=decision)
        )
        if decision.verdict is Verdict.KEEP:
            self._crown(entry)
        if decision.verdict is Verdict.REPLICATE and champion is not None:
            self._strengthen_champion(champion, len(entry.seeds))  # those asked for now included
        if decision.verdict.is_terminal:
            self._follow_up(entry)

    def _catch_up(self) -> None:
        """What follows from the last decisions, in case the observer before died between the two."""
        if self._state.champion is not None:
            self._crown(self._state.champion)
        for experiment_id in self._state.decision_order[-1:]:
            self._follow_up(self._state.experiments[experiment_id])

    def _crown(self, entry: ExperimentEntry) -> None:
        commit = entry.experiment.commit
        self._when_durable.append(lambda: self._workspace.set_champion(commit))
        self._strengthen_champion(entry)

    def _kept(self) -> list[int]:
        """The numbers of the comparisons that were kept; the baseline was none."""
        lineage = self._state.lineage
        self._comparisons_kept += [
            _comparison(self._state.experiments[name]) for name in lineage[len(self._comparisons_kept) + 1 :]
        ]
        return self._comparisons_kept

    def _strengthen_champion(self, entry: ExperimentEntry, challenger_runs: int = 0) -> None:
        policy, first_seed = self._config.decisions, self._config.seed
        seeds = champion_runs_wanted(self._state, policy, first_seed, challenger_runs)
        if seeds:
            reason = "a new champion is run again, so that its mean is no lucky draw"
            request = ev.RunsRequested(experiment_id=entry.experiment_id, seeds=seeds, reason=reason)
            self._record(f"request:{entry.experiment_id}:{seeds[-1]}", request)

    def _follow_up(self, entry: ExperimentEntry) -> None:
        self._learn(entry)
        parent_commit = entry.experiment.parent_commit
        if entry.verdict is Verdict.CRASH and parent_commit is not None and not entry.experiment.is_baseline:
            before, source = map(self._workspace.read, (parent_commit, entry.experiment.commit))
            smaller = with_smaller_batch(entry, before, source)
            if smaller is not None and smaller.hypothesis_id not in self._state.hypothesis_ids:
                self._propose(ev.HypothesisProposed(hypothesis=smaller))

    def _learn(self, entry: ExperimentEntry) -> None:
        kind = entry.experiment.hypothesis.kind
        finding = finding_about(self._state, kind) if kind != BASELINE_KIND else None
        if finding is not None and finding != self._state.findings.get(finding.finding_id):
            self._record(f"finding:{entry.experiment_id}", ev.FindingRecorded(finding=finding))
        for researcher in self._researchers:
            try:
                researcher.observe(past_experiment(self._state, entry, self._state.noise))
            except Exception:
                log.exception("researcher %s failed", researcher.name)

    # Dispatch --------------------------------------------------------------------------------

    def _permission(self) -> Allowance:
        if self._state.stop is not None:
            return Allowance(False, False, self._state.stop.reason)
        refusal = self._state.refused.get(BASELINE_HYPOTHESIS_ID)
        if refusal is not None:
            return Allowance(False, False, f"the baseline does not run: {refusal.reason}")
        baseline = self._state.baseline
        if baseline is not None and baseline.verdict in (Verdict.CRASH, Verdict.INVALID):
            return Allowance(False, False, f"the baseline does not run: {baseline.decisions[-1].reason}")
        elapsed_s = self._clock() - self._started_at
        expected_s = expected_run_s(self._state, self._config)
        return allowance(self._state, self._config.limits, elapsed_s, expected_s)

    def _dispatch(self) -> None:
        if self._state.paused or not self._has_room():
            return
        taken = {run.worker_id for run in self._state.in_flight.values()}
        for worker in self._fleet.idle():
            if worker.worker_id in taken:
                continue  # its order goes out when this turn is durable
            permission = self._permission()  # anew for each: every run begun counts towards the limits
            if not permission.may_run:
                return
            chosen = next_run(self._state, worker.worker_id, self._fleet.num_workers()) or (
                self._begin_experiment() if permission.may_begin else None
            )
            if chosen is None:
                continue  # a run that this worker lost waits for another
            self._start(chosen, worker.worker_id, worker.node_id, worker.gpu_id, worker.gpu_name)

    def _start(self, chosen: NextRun, worker_id: str, node_id: str, gpu_id: str, gpu_name: str) -> None:
        experiment = self._state.experiments[chosen.experiment_id].experiment
        run = Run(
            run_id=f"{chosen.experiment_id}.s{chosen.seed}.a{chosen.attempt}",
            experiment_id=chosen.experiment_id,
            seed=chosen.seed,
            attempt=chosen.attempt,
            worker_id=worker_id,
            node_id=node_id,
            gpu_id=gpu_id,
            gpu_name=gpu_name,
        )
        self._record(f"start:{run.run_id}", ev.RunStarted(run=run))
        hypothesis = experiment.hypothesis
        base = self._base(experiment)
        order = RunOrder(
            run,
            experiment.commit,
            hypothesis.title,
            hypothesis.hypothesis_id,
            experiment.constants,
            base_commit=base.experiment.commit,
            base_peak_mb=max((r.peak_memory_mb for r in base.results if r.gpu_name == gpu_name), default=0.0),
        )
        self._when_durable.append(lambda: self._fleet.assign(worker_id, order))

    def _base(self, experiment: Experiment) -> ExperimentEntry:
        """What was believed when the experiment was made; the baseline is believed in any case."""
        return self._state.experiments[experiment.parent_experiment_id or experiment.experiment_id]

    def _begin_experiment(self) -> NextRun | None:
        """Turn the most promising hypothesis that still applies into an experiment."""
        while self._state.queue:
            hypothesis = self._next_hypothesis()
            if hypothesis is None:
                return None
            try:
                experiment = self._commit(hypothesis)
            except EditError as error:
                refusal = ev.HypothesisRefused(hypothesis_id=hypothesis.hypothesis_id, reason=str(error))
                self._record(f"refuse:{hypothesis.hypothesis_id}", refusal)
                continue
            self._record(f"create:{hypothesis.hypothesis_id}", ev.ExperimentCreated(experiment=experiment))
            return NextRun(experiment.experiment_id, experiment.seeds[0], 1)
        return None

    def _next_hypothesis(self) -> Hypothesis | None:
        """The baseline alone before all others; then by priority, the older one first."""
        if self._state.baseline is None:
            return next((h for h in self._state.queue.values() if h.kind == BASELINE_KIND), None)
        return max(self._state.queue.values(), key=lambda h: h.priority)

    def _parent(self) -> ExperimentEntry | None:
        """What a new experiment builds on: the champion, or the baseline while that is being measured."""
        return self._state.champion or self._state.baseline

    def _commit(self, hypothesis: Hypothesis) -> Experiment:
        """Edit, check and commit. Raises EditError with the reason when the hypothesis cannot be tried."""
        parent = self._parent()
        parent_commit = parent.experiment.commit if parent else "champion"
        before = self._workspace.read(parent_commit)
        source = apply_edit(before, hypothesis.edit)
        if parent is not None:
            report = check(source, before, self._state.fingerprints, self._preflight_limits)
            if not report.is_clear:
                raise EditError(report.reason)
        ordinal = len(self._state.experiments) + 1
        experiment_id = f"exp-{ordinal:04d}-{_slug(hypothesis.title)}"
        commit = self._workspace.commit_experiment(
            experiment_id,
            parent_commit,
            source,
            commit_message(hypothesis, experiment_id),
            hypothesis.created_at,
            in_background=True,
        )
        return Experiment(
            experiment_id=experiment_id,
            ordinal=ordinal,
            hypothesis=hypothesis,
            parent_experiment_id=parent.experiment_id if parent else None,
            commit=commit.commit,
            parent_commit=commit.parent_commit,
            fingerprint=fingerprint(source),
            constants=read_constants(source),
            diff=commit.diff,
            diff_stat=commit.diff_stat,
            diff_hash=commit.diff_hash,
            line_delta=line_count(source) - line_count(before),
            seeds=(self._config.seed,),
        )

    # Ideas -----------------------------------------------------------------------------------

    def _refill(self) -> None:
        """Keep hypotheses ready for every worker; a researcher that fails never stops the campaign."""
        parent = self._parent()
        parallel = self._fleet.num_workers()
        missing = num_wanted(parallel, len(self._state.queue))
        if parent is None or not missing:
            return
        source = self._workspace.read(parent.experiment.commit)
        for researcher in self._researchers:
            if self._clock() < self._asks_again_at.get(researcher.name, 0.0):
                continue
            brief = self._briefing.brief(self._state, source, parallel, self._books.take_touched())
            try:
                proposals = [
                    ev.HypothesisProposed(hypothesis=hypothesis)
                    for hypothesis in researcher.propose(brief, missing)[:missing]
                ]
            except Exception as error:
                log.exception("researcher %s failed", researcher.name)
                self._rest(researcher.name, f"failed: {type(error).__name__}: {error}")
                continue
            if not proposals:
                self._rest(researcher.name, "has nothing to propose now")
            for proposal in proposals:
                missing -= self._propose(proposal)
            if missing <= 0:
                return

    def _rest(self, name: str, what: str) -> None:
        """Leave a researcher alone for a while, and say so once, so that a standstill can be explained."""
        self._asks_again_at[name] = self._clock() + RESEARCHER_REST_S
        note = ev.NoteWritten(author="observer", text=f"researcher {name} {what}"[:MAX_NOTE_CHARS])
        if all(known != note for _, known in self._state.notes):
            self._record(f"rest:{name}:{what}", note)

    def _propose(self, proposal: ev.HypothesisProposed) -> bool:
        """Queue a hypothesis; one that repeats an id, or claims to be the baseline, is not taken."""
        hypothesis = proposal.hypothesis
        if hypothesis.hypothesis_id in self._state.hypothesis_ids or hypothesis.kind == BASELINE_KIND:
            log.warning("%s proposed %s again", hypothesis.researcher, hypothesis.hypothesis_id)
            return False
        self._record(f"propose:{hypothesis.hypothesis_id}", proposal)
        return True

    def _look_after_tools(self) -> None:
        """Ask for tools that there is data for; adopt or discard what was published."""
        for tool in tools_to_request(self._state):
            self._record(f"tool:{tool.tool_id}:requested", ev.ToolChanged(tool=tool))
        for tool in list(self._state.tools.values()):
            if tool.status is ToolStatus.PUBLISHED:
                self._record(f"tool:{tool.tool_id}:judged", ev.ToolChanged(tool=judge_tool(tool)))

    # The end ---------------------------------------------------------------------------------

    def _finish_if_done(self, permission: Allowance) -> None:
        if permission.may_begin or self._state.in_flight or self._fleet.busy():
            return
        if permission.may_run and (self._state.paused or self._has_undecided()):
            return
        if permission.ends_campaign:
            self._record(f"end:{self._state.version}", ev.CampaignEnded(reason=permission.reason))
        self.finished = permission.reason

    def _has_undecided(self) -> bool:
        return any(entry.verdict is None for entry in self._state.open_experiments())

    def _record(self, key: str, event: ev.Event) -> None:
        """Into the copy that this turn goes on with, and with the turn's end into the ledger."""
        self._books.record(key, event)


def _comparison(entry: ExperimentEntry) -> int:
    """Its place among the campaign's comparisons, from 1: the first experiment is the baseline."""
    return entry.experiment.ordinal - 1


def _slug(title: str) -> str:
    """A few words of the title, fit for a branch and a folder name."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40].rstrip("-") or "untitled"
