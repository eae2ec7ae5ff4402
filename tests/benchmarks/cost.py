"""What one more experiment costs when 1,000, 10,000 or 100,000 are known: it must be the same.

The real observer, ledger, journal and git repository in one process, without Ray; training takes no time.
What goes to the ledger and back is encoded and decoded as between processes. Counted is the processor time of
this process and of git; the disk's time is not. The scribe's part is measured in `views`.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autohyp.agents.base import News, RunEnded, RunOrder
from autohyp.agents.books import Books
from autohyp.agents.ledger import Ledger
from autohyp.agents.observer import Observer
from autohyp.config import CampaignConfig
from autohyp.execution.simulation import SimulatedRun, result_of
from autohyp.execution.workspace import Commit, Workspace
from autohyp.journal import Draft, Entry
from autohyp.journal.events import RunFinished
from autohyp.paths import CampaignPaths
from autohyp.records import Hardware, WorkerLive
from autohyp.researchers import RandomResearcher
from autohyp.testing.fakes import STAND_IN_SOURCE

from .figures import Figure

__all__ = ["measure_cost"]

NUM_WORKERS = 20
WARM_UP = 100
MEASURED = 300


def measure_cost(paths: CampaignPaths, num_experiments: int) -> list[Figure]:
    """Go on with a generated campaign, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        cost = pool.apply(_go_on, (paths,))
    known = f"{num_experiments:,} known"
    parts = f"observer {cost.observer_ms:.2f}, ledger {cost.ledger_ms:.2f}, git {cost.git_ms:.2f} ms"
    return [
        Figure(f"processor time of one more experiment, {known}", cost.total_ms, "ms", note=parts),
        Figure(f"a role's first copy of the state, {known}", cost.first_copy_s, "s"),
    ]


@dataclass(frozen=True)
class _Cost:
    """Milliseconds an experiment."""

    observer_ms: float
    ledger_ms: float
    git_ms: float
    first_copy_s: float

    @property
    def total_ms(self) -> float:
        return self.observer_ms + self.ledger_ms + self.git_ms


def _go_on(paths: CampaignPaths) -> _Cost:
    ledger = _LocalLedger(paths)
    config = _configuration()
    workspace = _repository(paths, list(ledger.state.experiments))
    fleet = _InstantFleet(ledger, config.run.budget_s or 0.0)
    observer = Observer(config, Books(ledger), fleet, workspace, [RandomResearcher()], sequence_len=0)
    gc.collect()
    gc.freeze()  # as the actors do
    known = len(ledger.state.experiments)
    _play(observer, lambda: len(ledger.state.experiments) >= known + WARM_UP)
    begin, known = os.times(), len(ledger.state.experiments)
    ledger.used_s = 0.0
    _play(observer, lambda: len(ledger.state.experiments) >= known + MEASURED)
    end, num = os.times(), len(ledger.state.experiments) - known
    own_s = end.user + end.system - begin.user - begin.system
    git_s = end.children_user + end.children_system - begin.children_user - begin.children_system
    workspace.close()
    ledger.close()
    per_ms = 1000 / num
    return _Cost(
        observer_ms=(own_s - ledger.used_s) * per_ms,
        ledger_ms=ledger.used_s * per_ms,
        git_ms=git_s * per_ms,
        first_copy_s=ledger.first_copy_s,
    )


def _play(observer: Observer, is_over: Callable[[], bool]) -> None:
    while not is_over():
        observer.step(0)
        if observer.finished is not None:
            raise RuntimeError(f"the campaign ended: {observer.finished}")


def _configuration() -> CampaignConfig:
    config = CampaignConfig.model_validate(
        {
            "profile": "cpu",
            "researchers": ["random"],
            "simulation": {"trainer": "autohyp.testing.objectives:bowl"},
            "workers": {"count": NUM_WORKERS},
        }
    )
    return config.resolved(Hardware(cpus=NUM_WORKERS, memory_gb=1.0))


class _LocalLedger:
    """A `LedgerClient` over a ledger in this process; `used_s` is its processor time with the encoding."""

    def __init__(self, paths: CampaignPaths) -> None:
        self._ledger = Ledger(paths)
        self.used_s = self.first_copy_s = 0.0

    @property
    def state(self) -> Any:
        return self._ledger.state

    def append(self, drafts: Sequence[Draft], since: int | None = None) -> News:
        start = time.process_time()
        self._ledger.append([Draft.from_wire(draft.wire()) for draft in drafts])
        news = News() if since is None else self._news(since)
        self.used_s += time.process_time() - start
        return news

    def news(self, since: int) -> News:
        start = time.process_time()
        news = self._news(since)
        self.used_s += time.process_time() - start
        return news

    def _news(self, since: int) -> News:
        entries = self._ledger.news(since)
        if entries is not None:
            return News([Entry.from_wire(entry) for entry in entries])
        start = time.perf_counter()
        state = pickle.loads(pickle.dumps(self._ledger.state, protocol=pickle.HIGHEST_PROTOCOL))
        self.first_copy_s = time.perf_counter() - start
        return News([], state)

    def heartbeat(self, *lives: WorkerLive) -> None:
        """Nobody looks."""

    def close(self) -> None:
        self._ledger.close()


def _simulated(rng: random.Random) -> SimulatedRun:
    """As in the generated past: about as good as its baseline, with its noise."""
    val_bpb = 1.8531 + rng.gauss(0, 0.0012)
    return SimulatedRun(val_bpb=val_bpb, curve=tuple((share / 8, 5 - share / 4) for share in range(1, 9)))


class _InstantFleet:
    """A `Fleet` whose runs end by the next `wait`."""

    def __init__(self, ledger: _LocalLedger, budget_s: float) -> None:
        self._ledger = ledger
        self._budget_s = budget_s
        self._random = random.Random(0)
        self._orders: dict[str, RunOrder] = {}

    def idle(self) -> list[WorkerLive]:
        names = (f"worker-{number}" for number in range(NUM_WORKERS))
        return [WorkerLive(worker_id=name) for name in names if name not in self._orders]

    def busy(self) -> dict[str, str]:
        return {name: order.run.run_id for name, order in self._orders.items()}

    def num_workers(self) -> int:
        return NUM_WORKERS

    def assign(self, worker_id: str, order: RunOrder) -> None:
        self._orders[worker_id] = order

    def wait(self, timeout_s: float) -> list[RunEnded]:
        drafts = []
        for order in self._orders.values():
            result = result_of(_simulated(self._random), order.run, self._budget_s)
            drafts.append(Draft(f"finish:{order.run.run_id}", RunFinished(result=result)))
        if drafts:
            self._ledger.append(drafts)
        ended = [RunEnded(name, order.run.run_id) for name, order in self._orders.items()]
        self._orders.clear()
        return ended

    def cancel_all(self) -> None:
        """Nothing runs for long."""

    def drain(self, worker_id: str) -> None:
        raise AssertionError(f"{worker_id} never fails")


class _Repository(Workspace):
    """A repository in which the made-up commits of a generated journal all are the first one."""

    def __init__(self, repository: Path) -> None:
        super().__init__(repository)
        self.first, self._made = "", set[str]()

    def read(self, commit: str, name: str = "train.py") -> str:
        return super().read(self._real(commit), name)

    def commit_experiment(
        self, experiment_id: str, parent: str, source: str, message: str, *more: Any, **named: Any
    ) -> Commit:
        parent = self._real(parent)
        commit = super().commit_experiment(experiment_id, parent, source, message, *more, **named)
        self._made.add(commit.commit)
        return commit

    def set_champion(self, commit: str) -> None:
        super().set_champion(self._real(commit))

    def _real(self, commit: str) -> str:
        return commit if commit in self._made or commit == "champion" else self.first


def _repository(paths: CampaignPaths, experiment_ids: Sequence[str]) -> Workspace:
    """One with a branch for every experiment, packed as in a campaign of that length."""
    files = {"train.py": STAND_IN_SOURCE, "prepare.py": ""}
    workspace, first = _Repository.create(paths.repository, files, "The target as it came")
    workspace.close()
    branches = "".join(f"{first} refs/heads/experiments/{name}\n" for name in sorted(experiment_ids))
    packed = f"# pack-refs with: peeled fully-peeled sorted \n{branches}"
    (paths.repository / "packed-refs").write_text(packed, encoding="utf-8")
    workspace = _Repository(paths.repository)
    workspace.first = first
    return workspace
