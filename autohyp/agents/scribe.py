"""The scribe: keeps the campaign's readable files up to date while it runs.

It writes from the replayed state alone and only what changed, in a thread of its own, so that nothing ever
waits for a file or a picture. Experiments and tables follow at once; what tells of the whole campaign (the
picture, the brief, beliefs, the fleet) now and then. `autohyp sync` makes all of it again at any time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection

from autohyp.journal import CampaignState
from autohyp.paths import CampaignPaths
from autohyp.views.sync import FolderSync

__all__ = ["Scribe"]

log = logging.getLogger(__name__)

SHARED_INTERVAL_S = 30.0


class Scribe:
    """Call `write` with newer and newer states; the last says that it is."""

    def __init__(self, paths: CampaignPaths, clock: Callable[[], float] = time.monotonic) -> None:
        # One process: this one has threads, which no fork survives.
        self._folder = FolderSync(paths, processes=1)
        self._clock = clock
        self._version = 0
        self._shared_version = 0
        self._shared_at = -SHARED_INTERVAL_S
        self._missed: set[str] | None = set()

    def write(
        self, state: CampaignState, touched: Collection[str] | None = None, is_last: bool = False
    ) -> None:
        """Bring the files to this state; `touched` are the experiments changed since the last call, None for
        any. A file that cannot be written is reported and left for the next time."""
        self._missed = None if touched is None or self._missed is None else self._missed | set(touched)
        try:
            self._write(state, is_last)
        except OSError as error:
            log.warning("cannot write the campaign's files: %s", error)

    def _write(self, state: CampaignState, is_last: bool) -> None:
        if state.version != self._version:
            self._folder.experiments(state, self._missed)
            self._version, self._missed = state.version, set()
        now = self._clock()
        is_due = is_last or now - self._shared_at >= SHARED_INTERVAL_S
        if is_due and state.version != self._shared_version:
            self._folder.shared(state)
            self._shared_version, self._shared_at = state.version, now
