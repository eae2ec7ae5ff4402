"""Writing a long campaign's folder: all anew, all again, the tables, and one experiment more."""

from __future__ import annotations

import time
from collections.abc import Callable

from autohyp.agents.scribe import Scribe
from autohyp.journal import CampaignState, Entry, read_journal, replay
from autohyp.journal.events import ExperimentCreated, HypothesisProposed
from autohyp.paths import CampaignPaths
from autohyp.views.sync import TableWriter, sync_all

from .figures import Figure

__all__ = ["measure_views"]


def measure_views(paths: CampaignPaths, num_experiments: int) -> list[Figure]:
    """The files' contents are written without fsync: all of them follow from the journal."""
    entries = read_journal(paths.journal)
    last = _last_experiment(entries)
    state = replay(entries[:last])
    tables = TableWriter(paths)
    scale = 100_000 / num_experiments
    scaled = "" if scale == 1 else f" (x {scale:g})"
    first_s = _time(lambda: sync_all(paths, state))
    again_s = _time(lambda: sync_all(paths, state))
    figures = [
        Figure(f"sync_all into an empty folder, {num_experiments:,} experiments", first_s, "s"),
        Figure(f"the same for 100,000{scaled}", scale * first_s, "s", 2),
        Figure(f"sync_all when nothing changed, per 100,000{scaled}", scale * again_s, "s"),
        Figure(f"the two tables anew, per 100,000{scaled}", scale * _time(lambda: tables.sync(state)), "s"),
    ]
    return figures + _one_more(paths, state, entries[last:], num_experiments)


def _one_more(
    paths: CampaignPaths, state: CampaignState, entries: list[Entry], num_experiments: int
) -> list[Figure]:
    """What the running scribe needs after one more experiment; the picture, drawn every 30 s, is left out."""
    scribe = Scribe(paths, clock=lambda: 0.0)
    scribe.write(state)
    for entry in entries:
        state.apply(entry)
    elapsed_s = _time(lambda: scribe.write(state))
    what = f"scribe after one more experiment, {num_experiments:,} known"
    return [Figure(what, 1000 * elapsed_s, "ms", 50, note="grows with the campaign: all lines are compared")]


def _last_experiment(entries: list[Entry]) -> int:
    """Where the last experiment that was carried out begins."""
    created = max(i for i, entry in enumerate(entries) if isinstance(entry.event, ExperimentCreated))
    return max(i for i in range(created) if isinstance(entries[i].event, HypothesisProposed))


def _time(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
