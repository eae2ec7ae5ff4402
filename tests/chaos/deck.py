"""What is to be killed, in an order drawn from the seed: every part in its share, cheap ones often, costly
ones seldom.

A step says what to kill, how long to wait before, and whether to wait for progress first. A quarter of the
steps do not: they hit a campaign that still recovers, or two of its parts at once.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from .processes import Part

__all__ = ["REAL", "SIMULATED", "Deck", "Step"]

SIMULATED, REAL = "simulated", "real"
WEIGHTS: dict[str, dict[str, int]] = {
    SIMULATED: {
        Part.WORKER: 24,
        Part.OBSERVER: 24,
        Part.LEDGER: 26,
        Part.SCRIBE: 6,
        Part.TOOL_BUILDER: 4,
        Part.NODE: 9,
        Part.DRIVER: 3,
        Part.HEAD: 3,
        Part.GCS: 1,
    },
    REAL: {
        Part.TRAINING: 24,
        Part.EVALUATOR: 14,
        Part.SANDBOX: 8,
        Part.WORKER: 14,
        Part.OBSERVER: 13,
        Part.LEDGER: 14,
        Part.SCRIBE: 4,
        Part.TOOL_BUILDER: 2,
        Part.NODE: 2,
        Part.DRIVER: 3,
        Part.HEAD: 2,
        Part.GCS: 1,
    },
}
MAX_DELAY_S = {SIMULATED: 1.0, REAL: 2.5}
BURST_SHARE = 0.25


@dataclass(frozen=True)
class Step:
    """One kill; `is_burst` when it does not wait for the campaign to have gone on since the last."""

    part: str
    delay_s: float
    is_burst: bool


class Deck:
    """The kills of one lane."""

    def __init__(self, lane: str, num_kills: int, rng: random.Random) -> None:
        weights = WEIGHTS[lane]
        shares = {part: weight * num_kills / sum(weights.values()) for part, weight in weights.items()}
        parts = [part for part, share in shares.items() for _ in range(round(share))]
        cheap = sorted(weights, key=weights.__getitem__)[-3:]
        parts += rng.choices(cheap, k=max(0, num_kills - len(parts)))
        rng.shuffle(parts)
        self._steps = [self._step(part, lane, rng) for part in parts[:num_kills]]

    @staticmethod
    def _step(part: str, lane: str, rng: random.Random) -> Step:
        is_burst = rng.random() < BURST_SHARE
        return Step(part, rng.uniform(0, 0.5 if is_burst else MAX_DELAY_S[lane]), is_burst)

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def wants_nodes(self) -> bool:
        """Whether a node is still to be killed, which only a cluster of several nodes has."""
        return any(step.part == Part.NODE for step in self._steps)

    def take(self, *, with_nodes: bool) -> Step | None:
        """The next step that this kind of cluster allows."""
        for number, step in enumerate(self._steps):
            if with_nodes or step.part != Part.NODE:
                return self._steps.pop(number)
        return None

    def put_back(self, step: Step) -> None:
        """It could not be done now; later."""
        self._steps.append(step)
