"""The ledger: the campaign's state and the one way to change it.

Guarantees: a change is recorded in the journal before it is acknowledged; the same key is recorded once
however often it is sent; an event that cannot follow what is recorded is refused and leaves no trace.
Several callers' changes are committed with one fsync (`commit`). What is handed out (`news`) is only ever
durable.

Memory is bounded: keys are remembered for the last KEYS_KEPT changes, since a call is sent again within
seconds or never (and an event says by itself when it was there before: a run ends once); the last
ENTRIES_KEPT entries are kept for readers, and one that is further behind takes the whole state.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from autohyp.errors import JournalError, JournalWriteError
from autohyp.journal import CampaignState, Draft, Entry, JournalWriter, collector_paused
from autohyp.journal.events import NoteWritten, WireEntry
from autohyp.journal.file import JournalReader
from autohyp.journal.segments import START
from autohyp.journal.snapshot import SnapshotWriter, load_snapshot
from autohyp.paths import CampaignPaths
from autohyp.records import WorkerLive, utc_now
from autohyp.views.workers import write_worker

log = logging.getLogger(__name__)

__all__ = ["Ledger", "RecentKeys", "Request"]

KEYS_KEPT = 50_000
ENTRIES_KEPT = 10_000
MIN_SHOW_S = 0.9
SHOWN_PER_S = 20.0
"""Workers' files written a second, at most but for changes of a small fleet."""
SNAPSHOT_ENTRIES = 20_000
"""Changes between two snapshots: so many are replayed, some 2 s, after a crash."""


@dataclass
class Request:
    """One caller's drafts; `error` is set when they were not all recorded."""

    drafts: Sequence[Draft]
    error: JournalError | None = None


class RecentKeys:
    """The keys of the latest changes: a set that forgets the oldest."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._keys = dict.fromkeys(keys)

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def add(self, key: str) -> None:
        """Remember this one."""
        self._keys[key] = None
        if len(self._keys) > KEYS_KEPT:
            del self._keys[next(iter(self._keys))]

    def all(self) -> list[str]:
        """The keys, oldest first."""
        return list(self._keys)


class Ledger:
    """Replays the journal when made, then commits changes to it; not thread-safe."""

    def __init__(self, paths: CampaignPaths, clock: Callable[[], float] = time.monotonic) -> None:
        self._paths = paths
        self._clock = clock
        self._recent: deque[WireEntry] = deque(maxlen=ENTRIES_KEPT)
        self.live: dict[str, WorkerLive] = {}
        self._shown_at_s: dict[str, float] = {}
        self._fatal: JournalError | None = None
        self._open()
        self.torn_tail = self._writer.torn_tail
        self._tell_torn_tail()

    def _open(self) -> None:
        """Take the journal for this process, and the state from it."""
        journal = self._paths.journal
        snapshot = load_snapshot(journal)
        self.state = snapshot.state if snapshot else CampaignState()
        self._saved_version = self.state.version
        self._snapshots = SnapshotWriter(self._paths.journal, snapshot.records if snapshot else None)
        self._keys = RecentKeys(snapshot.keys if snapshot else ())
        self._recent.clear()
        start = snapshot.position if snapshot else START
        hasher = snapshot.hasher if snapshot and snapshot.hasher else hashlib.sha256()
        with collector_paused():
            if journal.exists():
                # Taken in one by one: all entries of a long journal at once would fill the memory.
                reader = JournalReader(journal, start, hasher)
                for entry in reader.read():
                    self._take(entry)
                start = reader.position
            self._writer = JournalWriter(journal, start=start, hasher=hasher)
            try:
                for entry in self._writer.entries:  # of a writer that ended meanwhile
                    self._take(entry)
            except JournalError:
                self._writer.close()
                raise
        self._writer.entries = []
        self._is_sound = True

    def _take(self, entry: Entry) -> None:
        touched = self.state.apply(entry)
        self._keys.add(entry.key)
        if touched is not None:
            self._snapshots.note(touched)

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
        try:
            if self._fatal is not None:
                raise self._fatal
            self._check_sound()
            ts = utc_now()
            accepted = self._apply(requests, ts)
            if not accepted:
                return
            self._writer.append(accepted, ts)
        except JournalWriteError as error:
            self._refuse(requests, error)
            if self._is_sound:
                self._take_back()
            return
        except (JournalError, OSError) as error:
            # What reached the disk is not known, and reading it now would not tell.
            self._fatal = JournalError(str(error))
            self._refuse(requests, self._fatal)
            return
        seq = self.state.version - len(accepted)
        self._recent.extend((seq + i, ts, *draft.wire()) for i, draft in enumerate(accepted, start=1))
        if self.state.version - self._saved_version >= SNAPSHOT_ENTRIES:
            self._save()

    def _refuse(self, requests: Sequence[Request], error: JournalError) -> None:
        for request in requests:
            request.error = request.error or error

    def _save(self) -> None:
        """Take a snapshot; without one the next start only takes longer."""
        self._saved_version = self.state.version
        try:
            self._snapshots.write(self.state, self._writer.position, self._writer.digest(), self._keys.all())
        except OSError as error:
            log.warning("no snapshot could be written: %s", error)

    def _apply(self, requests: Sequence[Request], ts: str) -> list[Draft]:
        """What passes, applied; a request ends at its first draft that does not."""
        accepted: list[Draft] = []
        for request in requests:
            try:
                for draft in request.drafts:
                    if draft.key not in self._keys:
                        self._take(Entry(self.state.version + 1, ts, draft.key, draft.event))
                        accepted.append(draft)
            except JournalError as error:
                request.error = error
        return accepted

    def news(self, since: int) -> list[WireEntry] | None:
        """Durable entries after that version; None when they are no longer kept: take the whole `state`.

        Raises JournalError after the disk failed: the state is then not known; JournalWriteError while it
        cannot be read again after a refused write.
        """
        if self._fatal is not None:
            raise self._fatal
        self._check_sound()
        num_new = self.state.version - since
        if not 0 <= num_new <= len(self._recent):
            return None
        return list(islice(self._recent, len(self._recent) - num_new, None))

    def heartbeat(self, live: WorkerLive) -> None:
        """Remember and show what a worker does now; a full disk does not matter here.

        A large fleet's files are written less often: creating files keeps the journal's fsync waiting.
        """
        before = self.live.get(live.worker_id)
        self.live[live.worker_id] = live
        now_s = self._clock()
        interval_s = max(MIN_SHOW_S, len(self.live) / SHOWN_PER_S)
        is_news = before is None or (before.state != live.state and interval_s == MIN_SHOW_S)
        if is_news or now_s - self._shown_at_s.get(live.worker_id, -math.inf) >= interval_s:
            self._shown_at_s[live.worker_id] = now_s
            with suppress(OSError):
                write_worker(self._paths, live)

    def close(self) -> None:
        """Release the journal for another writer."""
        if self._is_sound and self._fatal is None and self.state.version > self._saved_version:
            self._save()
        self._writer.close()

    def _take_back(self) -> None:
        """The disk refused: go back to what it holds; where that fails too, the next call tries again."""
        self._is_sound = False
        self._writer.close()
        with suppress(JournalWriteError):
            self._check_sound()

    def _check_sound(self) -> None:
        """Read the journal again where that failed before. Raises JournalWriteError while it still does."""
        if self._is_sound:
            return
        try:
            self._open()
        except (JournalError, OSError) as error:
            raise JournalWriteError(f"the journal cannot be opened again: {error}") from None
