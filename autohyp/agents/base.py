"""What the roles say to one another: the ledger's and the fleet's interfaces, and a worker's order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from autohyp.journal import CampaignState, Draft, Entry
from autohyp.records import ConstantValue, Run, Tool, WorkerLive

__all__ = ["Fleet", "LedgerClient", "News", "RunEnded", "RunOrder"]


@dataclass(frozen=True)
class News:
    """What a reader's copy lacks: a whole state to begin with, if not None, and the entries after it."""

    entries: Sequence[Entry] = ()
    state: CampaignState | None = None


class LedgerClient(Protocol):
    """The campaign's one writer, as its other roles see it."""

    def append(self, drafts: Sequence[Draft], since: int | None = None) -> News:
        """Record the drafts in order and return once they are durable; keys already recorded are skipped.

        With `since` the answer holds what was recorded after that version, these drafts included. Raises
        JournalError at the first draft that cannot follow what is recorded; those before it are kept.
        """

    def news(self, since: int) -> News:
        """What was durably recorded after that version; a reader far behind gets a whole state of its own."""

    def tools(self) -> list[Tool]:
        """The campaign's tools, without the rest of the state."""

    def heartbeat(self, *lives: WorkerLive) -> None:
        """Tell what workers are doing now; not journaled, never blocks."""


@dataclass(frozen=True)
class RunOrder:
    """A run for a worker: the commit to check out, and words for the views.

    `constants` are those of the commit's train.py, all that a simulated worker looks at. A campaign decides
    by `val`; `holdout` is text that no decision has seen. `base_commit` is the kept experiment that the run's
    builds on, or the baseline itself: its compiled kernels may be lent. `base_peak_mb` is the memory that it
    was measured to take on a GPU of this kind, 0 where that is not known.
    """

    run: Run
    commit: str
    title: str
    hypothesis_id: str
    constants: Mapping[str, ConstantValue] = field(default_factory=dict)
    split: Literal["val", "holdout"] = "val"
    base_commit: str = ""
    base_peak_mb: float = 0.0


@dataclass(frozen=True)
class RunEnded:
    """A worker came to the end of an order, with its result in the ledger unless `error` says otherwise."""

    worker_id: str
    run_id: str
    error: str | None = None


class Fleet(Protocol):
    """The workers, as the observer sees them; the fleet keeps their number right by itself."""

    def idle(self) -> list[WorkerLive]:
        """Workers that could take an order now."""

    def busy(self) -> dict[str, str]:
        """run_id by worker_id, for workers with an order."""

    def num_workers(self) -> int:
        """Workers that exist, idle or busy."""

    def assign(self, worker_id: str, order: RunOrder) -> None:
        """Hand an order over and return at once."""

    def wait(self, timeout_s: float) -> list[RunEnded]:
        """Orders that ended, waiting up to `timeout_s` for the first one."""

    def cancel_all(self) -> None:
        """Tell every worker to give up its run."""

    def drain(self, worker_id: str) -> None:
        """Give this worker no further order, in this session, and let it go; one that is gone is no error."""
