"""Changes constants at random: the control that any other researcher must beat, and food for simulations.

A proposal costs the same however long the campaign is: numbers are drawn from a continuous range, so that a
program that was tried practically never comes again and the past need not be looked through.
Only constants that are floats and not zero are changed: an integer is mostly a shape, which must fit others.
"""

from __future__ import annotations

import hashlib
import math
import random

from autohyp.records import Brief, ConstantsEdit, Hypothesis, PastExperiment, Prediction
from autohyp.source import fingerprint, read_constants

__all__ = ["RandomResearcher"]

LOG_SD = 0.5
"""Spread of the factors: two thirds of them lie between 0.6 and 1.65."""

MAX_CONSTANTS = 3


class RandomResearcher:
    """Multiplies one to three constants of the champion by random factors."""

    name = "random"

    def observe(self, experiment: PastExperiment) -> None:
        """Learns nothing."""

    def propose(self, brief: Brief, n: int) -> list[Hypothesis]:
        """See `Researcher.propose`."""
        constants = read_constants(brief.champion_source)
        floats = {name: value for name, value in constants.items() if isinstance(value, float) and value}
        rng = self._rng(brief)
        return [self._hypothesis(floats, rng) for _ in range(n)] if floats else []

    def _rng(self, brief: Brief) -> random.Random:
        """The same for the same brief; what has grown since the last one is told by lengths and last ids."""
        past = brief.history[-1].experiment_id if brief.history else ""
        parts = [brief.tag, fingerprint(brief.champion_source), str(len(brief.history)), past]
        parts += [f"{len(brief.refused)}", *(hypothesis.hypothesis_id for hypothesis in brief.queued)]
        return random.Random(hashlib.sha256("\n".join(parts).encode()).digest())

    def _hypothesis(self, floats: dict[str, float], rng: random.Random) -> Hypothesis:
        chosen = rng.sample(sorted(floats), rng.randint(1, min(MAX_CONSTANTS, len(floats))))
        edit = {name: float(f"{floats[name] * math.exp(rng.gauss(0, LOG_SD)):.6g}") for name in chosen}
        words = ", ".join(f"{name} {floats[name]:g} → {value:g}" for name, value in edit.items())
        return Hypothesis(
            hypothesis_id=f"random-{rng.getrandbits(64):016x}",
            title=words,
            rationale="Chance: whoever claims to choose well must do better than this.",
            prediction=Prediction(delta_bpb=0.0),
            edit=ConstantsEdit(overrides=dict(edit)),
            kind="random",
            researcher=self.name,
        )
