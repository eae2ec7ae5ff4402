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
    """A `LedgerClient` over the ledger actor's handle.

    Ray sends a call again when the ledger restarts meanwhile; the drafts' keys make that harmless.
    """

    def __init__(self, actor: ActorHandle) -> None:
        self._actor = actor

    def append(self, drafts: Sequence[Draft]) -> None:
        """See `LedgerClient.append`; Ray raises the ledger's own JournalError here."""
        ray.get(self._actor.append.remote(list(drafts)))

    def state(self) -> CampaignState:
        """The newest durable state, read from the object store: this caller's own copy."""
        [reference] = ray.get(self._actor.state.remote())
        state: CampaignState = ray.get(reference)
        return state

    def heartbeat(self, live: WorkerLive) -> None:
        """Send and forget."""
        self._actor.heartbeat.remote(live)


def last_line(error: RayError) -> str:
    """What matters of Ray's long account: its last line, where the cause stands."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
