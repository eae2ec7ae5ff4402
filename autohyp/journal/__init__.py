"""The journal: the one truth of a campaign, and the state that is replayed from it.

`events` says what can happen, `file` keeps it on disk, `state` folds it into what views and policies read.
"""

from autohyp.journal.events import Draft, Entry, Event
from autohyp.journal.experiments import ExperimentEntry
from autohyp.journal.file import JournalWriter, collector_paused, read_journal
from autohyp.journal.state import CampaignState, replay

__all__ = [
    "CampaignState",
    "Draft",
    "Entry",
    "Event",
    "ExperimentEntry",
    "JournalWriter",
    "collector_paused",
    "read_journal",
    "replay",
]
