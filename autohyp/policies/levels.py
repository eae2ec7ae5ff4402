"""How sure a keep must be in a campaign that compares again and again.

A threshold that noise passes once in a hundred comparisons is passed in most campaigns of a hundred. So a
campaign has one budget of doubt, `false_keep_rate`, and every comparison spends a part of it that is fixed
before its result is known: much for the first ones, little for late ones, and new budget for every keep.
That is LORD++ (A. Javanmard & A. Montanari, Annals of Statistics 46, 2018; A. Ramdas et al., NeurIPS 2017):
among all that is kept, the expected share without effect stays below the rate, and where nothing has an
effect, so does the probability of ever keeping anything. How long the campaign goes on need not be known.

One experiment is looked at after each of its runs. Its level is spent over these looks, most of it on the
last (after K. Lan & D. DeMets, Biometrika 70, 1983), so that looking early costs little.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

__all__ = ["level_at_look", "level_of_comparison"]

INITIAL_SHARE = 0.5
"""Of the rate, for the time before the first keep."""

NORMALISER = 0.0722
"""Makes the shares of infinitely many comparisons add up to 1 (Javanmard & Montanari, section 4)."""

LATE_SPENDING = 2.0


def _share(age: int) -> float:
    """What the comparison number `age`, from 1, after a keep or the start gets of a budget."""
    if age < 1:
        return 0.0
    return NORMALISER * math.log(max(age, 2)) / (age * math.exp(math.sqrt(math.log(age))))


def level_of_comparison(number: int, kept: Iterable[int], rate: float) -> float:
    """The one-sided significance level of a campaign's comparison `number`, which counts from 1.

    `kept` are the numbers of the comparisons that were kept, in order; later ones than `number` add nothing.
    """
    total = INITIAL_SHARE * rate * _share(number)
    for position, before in enumerate(kept):
        budget = (1 - INITIAL_SHARE) * rate if position == 0 else rate
        total += budget * _share(number - before)
    return total


def level_at_look(level: float, num_runs: int, max_runs: int) -> float:
    """The part of an experiment's level that is spent on the look after `num_runs` of `max_runs` runs."""
    look = min(num_runs, max_runs)
    share: float = (look / max_runs) ** LATE_SPENDING - ((look - 1) / max_runs) ** LATE_SPENDING
    return level * share
