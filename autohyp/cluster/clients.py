"""The ledger as the other actors reach it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayError

from autohyp.journal import CampaignState, Draft
from autohyp.records import WorkerLive

__all__ = ["ActorHandle", "ObjectRef", "RayLedger", "last_line"]

ActorHandle = Any
"""A handle to an actor: Ray gives its remote methods no static types."""
ObjectRef = Any
"""A reference to an object in Ray's store."""


class RayLedger:
    """A `LedgerClient` over the ledger actor's handle, for one thread.

    Ray sends a call again when the ledger restarts meanwhile; the drafts' keys make that harmless.
    """

    def __init__(self, actor: ActorHandle) -> None:
        self._actor = actor
        self._state: CampaignState | None = None

    def append(self, drafts: Sequence[Draft]) -> None:
        """See `LedgerClient.append`; Ray raises the ledger's own JournalError here."""
        ray.get(self._actor.append.remote(list(drafts)))

    def state(self) -> CampaignState:
        """The newest durable state, read from the object store: this client's own copy.

        It is read anew only when the ledger has recorded what the copy does not hold: a caller that folds the
        events it appends into its copy, as the observer does, has the newest state already.
        """
        version, [reference] = ray.get(self._actor.state.remote())
        if self._state is None or self._state.version != version:
            self._state = ray.get(reference)
        return self._state

    def heartbeat(self, live: WorkerLive) -> None:
        """Send and forget."""
        self._actor.heartbeat.remote(live)


def last_line(error: RayError) -> str:
    """What matters of Ray's long account: its last line, where the cause stands."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
