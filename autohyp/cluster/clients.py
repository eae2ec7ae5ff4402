"""The ledger as the other actors reach it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray

from autohyp.agents.base import News
from autohyp.errors import JournalError, JournalWriteError
from autohyp.journal import Draft, Entry
from autohyp.journal.events import Event, WireEntry
from autohyp.records import Tool, WorkerLive

__all__ = ["ActorHandle", "ObjectRef", "RayLedger", "WireNews", "last_line"]

log = logging.getLogger(__name__)

ActorHandle = Any
"""A handle to an actor: Ray gives its remote methods no static types."""
ObjectRef = Any
"""A reference to an object in Ray's store."""
WireNews = tuple[list[WireEntry], list[ObjectRef]]
"""Entries, or a reference to a whole state: in a list, because Ray would hand on the object itself
otherwise."""

_Sent = tuple[bytes, Event]
"""An event as JSON, and itself."""
_NOTHING_SENT: Mapping[str, _Sent] = {}

RETRY_S = 2.0
"""How long to wait before asking a ledger again whose disk is full."""


class RayLedger:
    """A `LedgerClient` over the ledger actor's handle.

    Ray sends a call again when the ledger restarts meanwhile; the drafts' keys make that harmless. A full
    disk makes every caller wait until there is room again: the campaign stands still, and nothing is lost.
    """

    def __init__(self, actor: ActorHandle) -> None:
        self._actor = actor

    def append(self, drafts: Sequence[Draft], since: int | None = None) -> News:
        """See `LedgerClient.append`; Ray raises the ledger's own JournalError here."""
        try:
            wire = [draft.wire() for draft in drafts]
        except ValueError as error:
            raise JournalError(f"a change cannot be written as JSON: {error}") from None
        own = {draft.key: (data, draft.event) for draft, (_, _, data) in zip(drafts, wire, strict=True)}
        return self._patiently(lambda: self._actor.append.remote(wire, since), own)

    def news(self, since: int) -> News:
        """See `LedgerClient.news`; a whole state comes through the object store."""
        return self._patiently(lambda: self._actor.news.remote(since))

    def _patiently(self, ask: Callable[[], ObjectRef], own: Mapping[str, _Sent] = _NOTHING_SENT) -> News:
        """The ledger's answer, however long its disk has no room."""
        while True:
            try:
                answer: Any = ray.get(ask())
                return _read(answer, own)
            except JournalWriteError as error:
                log.warning("%s; trying again", last_line(error))
                time.sleep(RETRY_S)

    def tools(self) -> list[Tool]:
        """See `LedgerClient.tools`."""
        tools: list[Tool] = ray.get(self._actor.tools.remote())
        return tools

    def heartbeat(self, *lives: WorkerLive) -> None:
        """Send and forget."""
        self._actor.heartbeat.remote(lives)


def _read(news: WireNews, own: Mapping[str, _Sent]) -> News:
    """What the ledger sent; the caller's `own` events, by key, are not parsed when they come back."""
    entries, references = news
    state: Any = ray.get(references[0]) if references else None
    return News([_entry(wire, own.get(wire[2])) for wire in entries], state)


def _entry(wire: WireEntry, sent: _Sent | None) -> Entry:
    seq, ts, key, _, data = wire
    return Entry(seq, ts, key, sent[1]) if sent is not None and sent[0] == data else Entry.from_wire(wire)


def last_line(error: Exception) -> str:
    """What matters of Ray's long account: its last line, where the cause stands."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
