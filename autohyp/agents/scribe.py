"""The scribe: keeps the campaign's readable files up to date while it runs.

It writes from the replayed state alone and only what changed, in a thread of its own, so that nothing ever
waits for a file or a picture. What it wrote can be made again at any time (`autohyp sync`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from autohyp.journal import CampaignState
from autohyp.paths import CampaignPaths
from autohyp.views.sync import TableWriter, sync_experiment, sync_picture

__all__ = ["Scribe"]

log = logging.getLogger(__name__)

PICTURE_INTERVAL_S = 30.0


class Scribe:
    """Call `write` with newer and newer states."""

    def __init__(self, paths: CampaignPaths, clock: Callable[[], float] = time.monotonic) -> None:
        self._paths = paths
        self._clock = clock
        self._tables = TableWriter(paths)
        self._written: dict[str, tuple[int, int, bool]] = {}
        self._num_decided = -1
        self._num_drawn = -1
        self._drawn_at = -PICTURE_INTERVAL_S

    def write(self, state: CampaignState) -> None:
        """Bring the files to this state; a file that cannot be written is reported and left for the next
        time."""
        try:
            self._write(state)
        except OSError as error:
            log.warning("cannot write the campaign's files: %s", error)

    def _write(self, state: CampaignState) -> None:
        for experiment_id, entry in state.experiments.items():
            mark = (len(entry.results), len(entry.decisions), bool(entry.active))
            if self._written.get(experiment_id) != mark:
                sync_experiment(self._paths, state, experiment_id)
                self._written[experiment_id] = mark
        decided = len(state.decision_order)
        if decided != self._num_decided:
            self._tables.sync(state)
            self._num_decided = decided
        now = self._clock()
        if decided != self._num_drawn and now - self._drawn_at >= PICTURE_INTERVAL_S:
            sync_picture(self._paths, state)
            self._num_drawn, self._drawn_at = decided, now
