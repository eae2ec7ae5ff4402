"""The independent witnesses of a campaign: a reader of its journal, and a list of what was acknowledged.

`JournalWatch` follows the journal while it grows and remembers the hash of every line: a line seen once
must stay where it is. The list comes from the roles' own processes (`hook/sitecustomize.py`) and from
`notes.py`, a client from outside that sends notes again and again until they are acknowledged.
"""

from __future__ import annotations

import bisect
import json
import time
from collections import Counter
from pathlib import Path

from autohyp.errors import JournalError
from autohyp.journal import CampaignState, read_journal, replay
from autohyp.journal.file import JournalReader

__all__ = ["JournalWatch", "acknowledged_keys"]

PROGRESS = (
    "run_started",
    "run_finished",
    "run_lost",
    "experiment_created",
    "decision_made",
    "campaign_ended",
)


class JournalWatch:
    """Call `poll` often; `state` is what the journal has said so far."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader = JournalReader(path)
        self.state = CampaignState()
        self.hashes: list[str] = []
        self.progress_at: list[float] = [0.0]
        self.problems: list[str] = []

    def poll(self) -> None:
        """Read what is new."""
        if not self._path.exists() or self.problems:
            return
        try:
            for entry in self._reader.read():
                self.state.apply(entry)
                self.hashes.append(entry.hash)
                if entry.event.type in PROGRESS:
                    self.progress_at.append(time.monotonic())
        except JournalError as error:
            self.problems.append(f"the journal could not be followed: {error}")

    def progress_since(self, moment: float) -> float | None:
        """When the campaign first went on after this moment."""
        if self.progress_at[-1] <= moment:
            return None
        first = bisect.bisect_right(self.progress_at, moment)
        return self.progress_at[first]

    def check_kept(self) -> list[str]:
        """Read all of it again: what was seen must still be there, in its place, and fold to a state."""
        self.poll()
        try:
            entries = read_journal(self._path)
            replay(entries)
        except JournalError as error:
            return [*self.problems, f"the journal is not intact: {error}"]
        kept = [entry.hash for entry in entries[: len(self.hashes)]]
        lost = [number for number, (a, b) in enumerate(zip(self.hashes, kept, strict=False), 1) if a != b]
        missing = len(self.hashes) - len(kept)
        changed = [f"line {lost[0]} of the journal changed after it was read"] if lost else []
        return [*self.problems, *changed, *([f"{missing} lines of the journal are gone"] if missing else [])]


def acknowledged_keys(acknowledgements: Path) -> Counter[str]:
    """How often each key was acknowledged; a key may be sent, and acknowledged, again."""
    if not acknowledgements.exists():
        return Counter()
    lines = acknowledgements.read_text(encoding="utf-8").splitlines()
    return Counter(key for line in lines for key in json.loads(line))
