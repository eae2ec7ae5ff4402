"""A role's own copy of the campaign's state, kept up to date by the entries that others recorded.

A copy is fetched whole once; from then on it costs what has happened since. The changes that a role makes
in one turn are applied to its copy at once and go to the ledger together (`record`, `flush`), so that a
turn with a hundred decisions waits for one fsync. Nothing that the world sees may be done before `flush`
returned.
"""

from __future__ import annotations

from collections.abc import Mapping

from autohyp.agents.base import LedgerClient, News
from autohyp.errors import JournalError
from autohyp.journal import CampaignState, Draft, Entry
from autohyp.journal.events import Event
from autohyp.records import utc_now

__all__ = ["Books"]


class Books:
    """One role's copy of the state and its changes of this turn; for one thread."""

    def __init__(self, ledger: LedgerClient) -> None:
        self._ledger = ledger
        self._turn: list[Draft] = []
        self._touched: set[str] | None = None
        self.state = CampaignState()
        self.refresh()

    def refresh(self) -> CampaignState:
        """Take in what was recorded since the last time."""
        self._take(self._ledger.news(self.state.version), own={})
        return self.state

    def record(self, key: str, event: Event) -> None:
        """Change the copy now and the journal with the next `flush`.

        Raises JournalError when the event cannot follow; the copy is then unchanged.
        """
        # The ledger will number it: until then the copy stands where the journal is known to.
        self._note(Entry(self.state.version, utc_now(), key, event))
        self._turn.append(Draft(key, event))

    def flush(self) -> None:
        """Make this turn's changes durable, and take in what others recorded meanwhile.

        Raises JournalError when the ledger refuses one; the copy is then fetched anew, the refused change and
        those after it are dropped.
        """
        turn, self._turn = self._turn, []
        if not turn:
            return
        try:
            news = self._ledger.append(turn, since=self.state.version)
        except JournalError:
            self._begin_anew()
            raise
        self._take(news, own={draft.key: draft.event for draft in turn})

    def take_touched(self) -> set[str] | None:
        """Ids of the experiments that changed since the last call; None when any may have."""
        touched, self._touched = self._touched, set()
        return touched

    def _take(self, news: News, own: Mapping[str, Event]) -> None:
        """What this role recorded itself is in its copy already, in its own order."""
        if news.state is not None:
            self.state, self._touched = news.state, None
        for entry in news.entries:
            if entry.key not in own:
                self._note(entry)
            elif entry.event is own[entry.key] or entry.event == own[entry.key]:
                self.state.version = entry.seq
            else:  # somebody else had recorded this fact first, in other words
                self._begin_anew()
                return

    def _begin_anew(self) -> None:
        self.state, self._touched = CampaignState(), None
        self.refresh()

    def _note(self, entry: Entry) -> None:
        touched = self.state.apply(entry)
        if touched is not None and self._touched is not None:
            self._touched.add(touched)
