"""The ledger: the campaign's state and the one way to change it.

Guarantees: a change is recorded in the journal before it is acknowledged; the same key is recorded once
however often it is sent; an event that cannot follow what is recorded is refused and leaves no trace.
Several callers' changes are committed with one fsync (`commit`). The state handed out is only ever durable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autohyp.errors import JournalError
from autohyp.journal import CampaignState, Draft, Entry, JournalWriter, replay
from autohyp.journal.events import NoteWritten
from autohyp.journal.file import collector_paused, read_journal
from autohyp.paths import CampaignPaths
from autohyp.records import WorkerLive, utc_now
from autohyp.views.workers import write_worker

__all__ = ["Ledger", "Request"]


@dataclass
class Request:
    """One caller's drafts; `error` is set when they were not all recorded."""

    drafts: Sequence[Draft]
    error: JournalError | None = None


class Ledger:
    """Replays the journal when made, then commits changes to it; not thread-safe."""

    def __init__(self, paths: CampaignPaths) -> None:
        self._paths = paths
        self._writer = JournalWriter(paths.journal)
        self.torn_tail = self._writer.torn_tail
        self.state = CampaignState()
        self._keys: set[str] = set()
        try:
            self._replay(self._writer.entries)
        except JournalError:
            self._writer.close()
            raise
        self._writer.entries = []
        self._tell_torn_tail()
        self.live: dict[str, WorkerLive] = {}

    def _tell_torn_tail(self) -> None:
        """A line cut off by a crash was never acknowledged, but whoever reads the campaign should know."""
        torn = self.torn_tail
        if torn is not None and self.state.created is not None:
            text = (
                f"line {torn.line_number} of the journal was unfinished ({torn.num_bytes} bytes) and cut off"
            )
            self.append([Draft(f"torn:{torn.line_number}", NoteWritten(author="ledger", text=text))])

    def append(self, drafts: Sequence[Draft]) -> None:
        """Commit one caller's drafts; JournalError as `LedgerClient.append` says."""
        request = Request(drafts)
        self.commit([request])
        if request.error is not None:
            raise request.error

    def commit(self, requests: Sequence[Request]) -> None:
        """Check all requests against the state, write what passes with one fsync, then take it on."""
        accepted: list[Draft] = []
        ts = utc_now()
        for request in requests:
            try:
                for draft in request.drafts:
                    if draft.key not in self._keys:
                        self.state.apply(Entry(self.state.version + 1, ts, draft.key, draft.event, ""))
                        self._keys.add(draft.key)
                        accepted.append(draft)
            except JournalError as error:
                request.error = error
        if not accepted:
            return
        try:
            self._writer.append(accepted, ts)
        except JournalError as error:
            self._take_back()
            for request in requests:
                request.error = request.error or error

    def heartbeat(self, live: WorkerLive) -> None:
        """Remember and show what a worker does now; a full disk does not matter here."""
        before = self.live.get(live.worker_id)
        self.live[live.worker_id] = live
        if before is None or before.state != live.state or before.updated_at[:19] != live.updated_at[:19]:
            try:
                write_worker(self._paths, live)
            except OSError:
                return

    def close(self) -> None:
        """Release the journal for another writer."""
        self._writer.close()

    def _replay(self, entries: Sequence[Entry]) -> None:
        with collector_paused():
            self.state = replay(entries)
            self._keys = {entry.key for entry in entries}

    def _take_back(self) -> None:
        """The disk refused: go back to what it holds."""
        self._replay(read_journal(self._paths.journal))
