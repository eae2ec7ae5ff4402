"""A campaign without Ray, git, GPU, threads or waiting: what tests of the roles are built from.

The ledger is the real state fold without a disk, the workspace keeps sources in a dictionary, the fleet's
orders end when the test says so, with the result that a scripted objective gives for constants and seed.
`SimulatedCampaign` puts them together. All is deterministic, the noise too.
Not covered: time, and several threads.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autohyp.agents.base import News, RunEnded, RunOrder
from autohyp.agents.books import Books
from autohyp.agents.campaign import BASELINE_HYPOTHESIS_ID
from autohyp.agents.observer import Observer
from autohyp.config import CampaignConfig
from autohyp.errors import WorkspaceError
from autohyp.execution.workspace import CHAMPION_BRANCH, Commit, Workspace
from autohyp.journal import CampaignState, Draft, Entry, replay
from autohyp.journal import events as ev
from autohyp.records import (
    BASELINE_KIND,
    Brief,
    ConstantsEdit,
    ConstantValue,
    Experiment,
    Hardware,
    Hypothesis,
    PastExperiment,
    Run,
    RunResult,
    RunStatus,
    Tool,
    WorkerLive,
)
from autohyp.researchers.base import Researcher
from autohyp.source import unified_diff

__all__ = [
    "STAND_IN_SOURCE",
    "FakeFleet",
    "InMemoryLedger",
    "InMemoryWorkspace",
    "ProcessDiedError",
    "ScriptedObjective",
    "ScriptedResearcher",
    "SimulatedCampaign",
    "baseline_hypothesis",
    "make_experiment",
    "make_hypothesis",
    "make_result",
    "make_run",
]

STAND_IN_SOURCE = '''"""Stands in for train.py: constants, and the calls that preflight looks for."""
import prepare

DEPTH = 4  # layers
MATRIX_LR = 0.04
WEIGHT_DECAY = 0.2
WINDOW_PATTERN = "SSSL"
WARMUP_RATIO = 0.0
WARMDOWN_RATIO = 0.5


def spare() -> None:
    """Nobody calls this."""


print(prepare.SEED)
print(prepare.evaluate_bpb(None, 1))
'''


class ProcessDiedError(BaseException):
    """Raised where a process is killed in the script; nothing catches it but the test."""


# ---------------------------------------------------------------------------------------------
# Records


def make_hypothesis(
    hypothesis_id: str = "hyp-1", overrides: Mapping[str, ConstantValue] | None = None, priority: float = 0.0
) -> Hypothesis:
    """A hypothesis that sets constants, MATRIX_LR unless told otherwise."""
    return Hypothesis(
        hypothesis_id=hypothesis_id,
        title=f"Try {hypothesis_id}",
        rationale="a mechanism",
        edit=ConstantsEdit(overrides=dict(overrides or {"MATRIX_LR": 0.08})),
        kind="learning rate",
        researcher="scripted",
        priority=priority,
        created_at="2026-01-01T00:00:00.000Z",
    )


def make_experiment(
    ordinal: int = 1,
    hypothesis: Hypothesis | None = None,
    seeds: tuple[int, ...] = (42,),
    parent_experiment_id: str | None = None,
    line_delta: int = 0,
) -> Experiment:
    """An experiment with made-up commits; `hypothesis` None makes it the baseline."""
    chosen = hypothesis or baseline_hypothesis()
    return Experiment(
        experiment_id=f"exp-{ordinal:04d}",
        ordinal=ordinal,
        hypothesis=chosen,
        parent_experiment_id=parent_experiment_id,
        commit=f"{ordinal:040x}",
        parent_commit=None,
        fingerprint=f"{ordinal:064x}",
        constants={"MATRIX_LR": 0.04},
        diff="",
        diff_stat="",
        diff_hash=f"{ordinal:012x}",
        line_delta=line_delta,
        seeds=seeds,
        created_at="2026-01-01T00:00:00.000Z",
    )


def baseline_hypothesis() -> Hypothesis:
    """The one that changes nothing."""
    proposed = make_hypothesis(BASELINE_HYPOTHESIS_ID)
    return proposed.model_copy(update={"title": "baseline", "edit": None, "kind": BASELINE_KIND})


def make_run(experiment_id: str = "exp-0001", seed: int = 42, attempt: int = 1) -> Run:
    """A run as the observer names it."""
    return Run(
        run_id=f"{experiment_id}.s{seed}.a{attempt}",
        experiment_id=experiment_id,
        seed=seed,
        attempt=attempt,
        worker_id="worker-0",
        started_at="2026-01-01T00:00:00.000Z",
    )


def make_result(
    run: Run,
    val_bpb: float | None = 1.0,
    status: RunStatus = RunStatus.COMPLETED,
    reason: str = "",
    total_s: float = 34.0,
) -> RunResult:
    """What a worker records for `run`: measured, or failed without a number."""
    return RunResult(
        **run.model_dump(exclude={"started_at"}),
        status=status,
        reason=reason,
        val_bpb=val_bpb if status is RunStatus.COMPLETED else None,
        budget_s=30.0,
        charged_s=30.0,
        total_s=total_s,
        num_steps=100,
        sandbox="none",
        finished_at="2026-01-01T00:01:00.000Z",
    )


# ---------------------------------------------------------------------------------------------
# Ledger and workspace


class InMemoryLedger:
    """A `LedgerClient` over the real state fold; what is appended counts as durable at once.

    `before_append` and `after_append` are called with the number of appends so far: a test raises
    `ProcessDiedError` there, or lets another role act in between. `die_at` and `die_after` do the former.
    """

    def __init__(self, drafts: Sequence[Draft] = ()) -> None:
        self.entries: list[Entry] = []
        self.live: dict[str, WorkerLive] = {}
        self.num_appends = 0
        self.before_append: Callable[[int], None] = lambda number: None
        self.after_append: Callable[[int], None] = lambda number: None
        self._state = CampaignState()
        self._keys: set[str] = set()
        for draft in drafts:
            self._take(draft)

    def append(self, drafts: Sequence[Draft], since: int | None = None) -> News:
        """See `LedgerClient.append`."""
        self.num_appends += 1
        number = self.num_appends
        self.before_append(number)
        for draft in drafts:
            if draft.key not in self._keys:
                self._take(draft)
        self.after_append(number)
        return self.news(since) if since is not None else News()

    def _take(self, draft: Draft) -> None:
        seq = len(self.entries) + 1
        ts = f"2026-01-01T00:{seq // 60 % 60:02d}:{seq % 60:02d}.000Z"
        entry = Entry(seq, ts, draft.key, draft.event, "")
        self._state.apply(entry)
        self._keys.add(draft.key)
        self.entries.append(entry)

    def news(self, since: int) -> News:
        """See `LedgerClient.news`."""
        return News(self.entries[since:])

    def tools(self) -> list[Tool]:
        """See `LedgerClient.tools`."""
        return list(self._state.tools.values())

    def state(self) -> CampaignState:
        """The state now: a fold of the caller's own."""
        return replay(self.entries)

    def heartbeat(self, *lives: WorkerLive) -> None:
        """See `LedgerClient.heartbeat`."""
        self.live |= {live.worker_id: live for live in lives}

    def die_at(self, number: int, *, recorded: bool) -> None:
        """Kill the caller at its append of this number: after the drafts are recorded, or before."""

        def die(reached: int) -> None:
            if reached == number:
                raise ProcessDiedError(f"append {number}")

        if recorded:
            self.after_append = die
        else:
            self.before_append = die


class InMemoryWorkspace(Workspace):
    """A `Workspace` whose commits are entries of a dictionary; `champion_log` holds all it was set to."""

    def __init__(self, source: str = STAND_IN_SOURCE) -> None:
        self._sources: dict[str, str] = {}
        self._refs: dict[str, str] = {}
        self.champion_log: list[str] = []
        self.set_champion(self._store("", source))

    def _store(self, parent: str, source: str) -> str:
        commit = hashlib.sha1(f"{parent}\n{source}".encode()).hexdigest()
        self._sources[commit] = source
        return commit

    @property
    def champion_commit(self) -> str:
        return self._refs[CHAMPION_BRANCH]

    def commit_experiment(
        self,
        experiment_id: str,
        parent: str,
        source: str,
        message: str,
        created_at: str | None = None,
        *,
        in_background: bool = False,
    ) -> Commit:
        """See `Workspace.commit_experiment`."""
        parent = self._refs.get(parent, parent)
        commit = self._store(f"{parent} {experiment_id}", source)
        self._refs[f"experiments/{experiment_id}"] = commit
        diff = unified_diff(self._sources[parent], source)
        return Commit(commit, parent, diff, "1 file changed" if diff else "")

    def settle(self) -> None:
        """Nothing is written later."""

    def restore(self, experiment_ids: Iterable[str], experiment: Callable[[str], Experiment]) -> list[str]:
        """Nothing is ever lost."""
        return []

    def set_champion(self, commit: str) -> None:
        """See `Workspace.set_champion`."""
        if self._refs.get(CHAMPION_BRANCH) != commit:
            self.champion_log.append(commit)
        self._refs[CHAMPION_BRANCH] = commit

    def read(self, commit: str, name: str = "train.py") -> str:
        """See `Workspace.read`; there is nothing but train.py."""
        try:
            return self._sources[self._refs.get(commit, commit)]
        except KeyError:
            raise WorkspaceError(f"no commit {commit}") from None

    def close(self) -> None:
        """Nothing to release."""


# ---------------------------------------------------------------------------------------------
# Training


@dataclass(frozen=True)
class ScriptedObjective:
    """What a run of some constants would give: `base_bpb` plus the effect of every (name, value) that is set.

    Effects are in bpb, negative is better; `failures` name how a run with that (name, value) ends instead.
    """

    effects: Mapping[tuple[str, ConstantValue], float] = field(default_factory=dict)
    failures: Mapping[tuple[str, ConstantValue], RunStatus] = field(default_factory=dict)
    base_bpb: float = 1.8
    noise_sd_bpb: float = 0.001

    def result(self, run: Run, constants: Mapping[str, ConstantValue]) -> RunResult:
        """The result of a run; equal constants and seeds give equal noise."""
        for item in constants.items():
            if item in self.failures:
                status = self.failures[item]
                reason = f"{item[0]}={item[1]!r} ended {status.value}"
                return make_result(run, status=status, reason=reason, total_s=2.0)
        draw = random.Random(f"{sorted(constants.items(), key=str)} {run.seed}").gauss(0, self.noise_sd_bpb)
        effect = sum(self.effects.get(item, 0.0) for item in constants.items())
        return make_result(run, self.base_bpb + effect + draw)


class FakeFleet:
    """A `Fleet` whose orders wait until the test calls `finish` or `lose`.

    It outlives observers, as detached actors do; `assigned` holds all orders ever given.
    """

    def __init__(self, ledger: InMemoryLedger, objective: ScriptedObjective, num_workers: int = 1) -> None:
        self._ledger = ledger
        self._objective = objective
        self._orders: dict[str, RunOrder | None] = {f"worker-{n}": None for n in range(num_workers)}
        self._ended: list[RunEnded] = []
        self.assigned: list[RunOrder] = []

    def idle(self) -> list[WorkerLive]:
        """See `Fleet.idle`."""
        return [WorkerLive(worker_id=name) for name, order in self._orders.items() if order is None]

    def busy(self) -> dict[str, str]:
        """See `Fleet.busy`."""
        return {name: order.run.run_id for name, order in self._orders.items() if order is not None}

    def num_workers(self) -> int:
        """See `Fleet.num_workers`."""
        return len(self._orders)

    def assign(self, worker_id: str, order: RunOrder) -> None:
        """See `Fleet.assign`; a busy worker takes no second order."""
        assert self._orders[worker_id] is None, f"{worker_id} is busy"
        self._orders[worker_id] = order
        self.assigned.append(order)

    def wait(self, timeout_s: float) -> list[RunEnded]:
        """See `Fleet.wait`; never waits."""
        ended, self._ended = self._ended, []
        return ended

    def cancel_all(self) -> None:
        """Every worker gives up and records that, as `Worker` does."""
        for worker_id, run_id in self.busy().items():
            lost = ev.RunLost(run_id=run_id, reason="it was interrupted", at_fault=False)
            self._ledger.append([Draft(f"lost:{run_id}", lost)])
            self._end(worker_id)

    def drain(self, worker_id: str) -> None:
        """See `Fleet.drain`."""
        if self._orders.get(worker_id) is not None:
            self._end(worker_id, "its worker was let go")
        self._orders.pop(worker_id, None)

    def finish(self, run_id: str) -> None:
        """The run ends and its worker records the scripted result."""
        worker_id, order = self._order(run_id)
        constants = self._ledger.state().experiments[order.run.experiment_id].experiment.constants
        result = self._objective.result(order.run, constants)
        self._ledger.append([Draft(f"finish:{run_id}", ev.RunFinished(result=result))])
        self._end(worker_id)

    def finish_all(self) -> None:
        """Every run in progress ends, in the order of the workers."""
        for run_id in list(self.busy().values()):
            self.finish(run_id)

    def lose(self, run_id: str, reason: str = "its worker died") -> None:
        """The worker dies, leaving no result, and is there again at once."""
        self._end(self._order(run_id)[0], reason)

    def _order(self, run_id: str) -> tuple[str, RunOrder]:
        return next((name, o) for name, o in self._orders.items() if o is not None and o.run.run_id == run_id)

    def _end(self, worker_id: str, error: str | None = None) -> None:
        order, self._orders[worker_id] = self._orders[worker_id], None
        if order is not None:
            self._ended.append(RunEnded(worker_id, order.run.run_id, error))


class ScriptedResearcher:
    """Proposes a list of hypotheses in order, each once; it remembers only what the brief tells."""

    name = "scripted"

    def __init__(self, hypotheses: Sequence[Hypothesis]) -> None:
        self.hypotheses = list(hypotheses)
        self.observed: list[PastExperiment] = []

    def propose(self, brief: Brief, n: int) -> list[Hypothesis]:
        """See `Researcher.propose`."""
        known = {past.hypothesis.title for past in brief.history} | {h.title for h in brief.queued}
        known |= {title for title, _ in brief.refused}
        return [hypothesis for hypothesis in self.hypotheses if hypothesis.title not in known][:n]

    def observe(self, experiment: PastExperiment) -> None:
        """See `Researcher.observe`."""
        self.observed.append(experiment)


# ---------------------------------------------------------------------------------------------
# All together


class SimulatedCampaign:
    """A campaign over the fakes; `play` steps the observer and ends its runs until it has finished."""

    def __init__(
        self,
        objective: ScriptedObjective,
        hypotheses: Sequence[Hypothesis] = (),
        config: CampaignConfig | None = None,
        num_workers: int = 1,
        workspace: Workspace | None = None,
    ) -> None:
        hardware = Hardware(cpus=num_workers, memory_gb=8.0)
        self.config = (config or CampaignConfig(profile="cpu")).resolved(hardware)
        created = ev.CampaignCreated(
            tag="test",
            objective=self.config.objective,
            config=self.config.model_dump(mode="json"),
            target_sha256={},
            data_sha256="",
            created_at="2026-01-01T00:00:00.000Z",
        )
        baseline = ev.HypothesisProposed(hypothesis=baseline_hypothesis())
        self.ledger = InMemoryLedger([Draft("campaign", created), Draft("propose:baseline", baseline)])
        self.fleet = FakeFleet(self.ledger, objective, num_workers)
        self.workspace = workspace or InMemoryWorkspace()
        self.researcher = ScriptedResearcher(hypotheses)
        self.researchers: list[Researcher] = [self.researcher]
        self.clock: Callable[[], float] = lambda: 0.0

    def begin_session(self) -> None:
        """What a driver records first, on `run` and on `resume`."""
        number = len(self.ledger.state().sessions) + 1
        started = ev.SessionStarted(
            session_id=f"session-{number}",
            host="host",
            hardware=Hardware(cpus=1, memory_gb=8.0),
            sandbox="none",
            versions={},
        )
        self.ledger.append([Draft(f"session:{number}", started)])

    def stop(self, reason: str, *, now: bool) -> None:
        """Somebody asks the session to end."""
        session_id = self.ledger.state().sessions[-1].started.session_id
        request = ev.StopRequested(session_id=session_id, now=now, author="somebody", reason=reason)
        self.ledger.append([Draft(f"stop:{session_id}:{now}:{reason}", request)])

    @classmethod
    def at(
        cls,
        root: Path,
        objective: ScriptedObjective,
        hypotheses: Sequence[Hypothesis],
        config: CampaignConfig,
    ) -> SimulatedCampaign:
        """The same over a real git repository at `root`."""
        files = {"train.py": STAND_IN_SOURCE, "prepare.py": "SEED = 42\n"}
        workspace, _ = Workspace.create(root / "repo.git", files, "The target as it came")
        return cls(objective, hypotheses, config, workspace=workspace)

    def observer(self) -> Observer:
        """A new observer over what there is, as after the death of the one before."""
        return Observer(
            self.config,
            Books(self.ledger),
            self.fleet,
            self.workspace,
            self.researchers,
            256,
            lambda: self.clock(),
        )

    def play(self, max_steps: int = 200, *, renew: bool = False, until: int | None = None) -> Observer:
        """Step until the observer has finished, or `until` experiments are decided.

        With `renew` a new observer takes over before each step.
        """
        observer = self.observer()
        for _ in range(max_steps):
            observer.step(0)
            if observer.finished is not None or (
                until is not None and len(self.ledger.state().decision_order) >= until
            ):
                return observer
            self.fleet.finish_all()
            if renew:
                observer = self.observer()
        raise AssertionError(f"not finished after {max_steps} steps")
