"""Following a campaign from outside: its state now, and again as the journal grows, without a lock."""

from __future__ import annotations

from pathlib import Path

from autohyp.errors import JournalError
from autohyp.journal.file import JournalReader, collector_paused
from autohyp.journal.segments import START
from autohyp.journal.snapshot import load_snapshot
from autohyp.journal.state import CampaignState

__all__ = ["Follower"]


class Follower:
    """The state of the journal at `path`; begins at its snapshot, which is compared with the journal's end
    only."""

    def __init__(self, path: Path) -> None:
        snapshot = load_snapshot(path, verify=False)
        self._state = snapshot.state if snapshot else CampaignState()
        self._reader = JournalReader(path, snapshot.position if snapshot else START)

    def update(self) -> CampaignState:
        """The state with all that is recorded now; the same object each time.

        Raises JournalError when there is no journal, JournalDamagedError with the line where it stops making
        sense.
        """
        with collector_paused():
            for entry in self._reader.read():
                try:
                    self._state.apply(entry)
                except JournalError as error:
                    raise self._reader.refuse(str(error)) from None
        return self._state
