"""One lane: campaigns one after another, each under fire until it has finished, then verified."""

from __future__ import annotations

import random
from pathlib import Path

from .campaign import environment, make_campaign
from .deck import SIMULATED, Deck
from .fight import Abandoned, Fight
from .record import Record

__all__ = ["Lane"]

NODES_SHARE = {SIMULATED: 0.7, "real": 0.3}
KILLS_OF_A_FULL_CAMPAIGN = 40
"""With fewer kills left a campaign is made shorter, down to a half."""


class Lane:
    """`run` returns when the deck is used up and the last campaign is verified."""

    def __init__(
        self, name: str, num_kills: int, seed: int, folder: Path, data: Path, record: Record
    ) -> None:
        self.name = name
        self._rng = random.Random(f"{seed}:{name}")
        self._deck = Deck(name, num_kills, self._rng)
        # Short names: a socket's path may have 107 characters.
        self._folder, self._ray_folder = folder / name[0], folder / f"{name[0]}r"
        self._folder.mkdir()
        self._ray_folder.mkdir()
        self._data = data
        self._record = record

    def run(self) -> None:
        """All campaigns of the lane; one at least, however few the kills."""
        number = 0
        while (number == 0 or len(self._deck)) and not self._record.stop.is_set():
            number += 1
            self._campaign(f"c{number}")

    def _campaign(self, tag: str) -> None:
        is_last = len(self._deck) <= KILLS_OF_A_FULL_CAMPAIGN
        with_nodes = self._rng.random() < NODES_SHARE[self.name] or (is_last and self._deck.wants_nodes)
        scale = min(1.0, max(0.5, len(self._deck) / KILLS_OF_A_FULL_CAMPAIGN))
        base = environment(self._ray_folder)
        campaign = make_campaign(self.name, tag, self._folder, self._data, base, self._rng, scale)
        where = "on several nodes" if with_nodes else "on a cluster of its own"
        self._record.say(f"{self.name} {tag}: {campaign.num_experiments} experiments {where}")
        fight = Fight(self.name, campaign, base, self._deck, self._rng, self._record, with_nodes)
        try:
            fight.run()
        except Abandoned:
            self._record.say(f"{self.name} {tag}: given up")
        finally:
            fight.close()
