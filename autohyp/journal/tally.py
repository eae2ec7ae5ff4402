"""Running totals of the fold, so that what is asked after every run does not cost a walk over all
experiments."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from autohyp.records import NoiseFloor, Verdict

__all__ = ["KindTally", "NoiseTally"]


@dataclass
class NoiseTally:
    """The squared deviations of val_bpb within experiments, pooled over all of them.

    One run at a time, by Welford's method (Technometrics 4, 1962): nothing is ever subtracted, so 100,000
    runs lose no precision.
    """

    squares: float = 0.0
    degrees_of_freedom: int = 0

    def add(self, before: Mapping[int, float], score: float) -> None:
        """One more run of an experiment whose scores were `before`, by seed."""
        if before:
            mean = sum(before.values()) / len(before)
            self.squares += (score - mean) ** 2 * len(before) / (len(before) + 1)
            self.degrees_of_freedom += 1

    @property
    def floor(self) -> NoiseFloor | None:
        """The noise between runs of one source; None while no experiment has two."""
        if not self.degrees_of_freedom:
            return None
        sd_bpb = math.sqrt(self.squares / self.degrees_of_freedom)
        return NoiseFloor(sd_bpb=sd_bpb, degrees_of_freedom=self.degrees_of_freedom)


@dataclass
class KindTally:
    """What the decided experiments of one kind of change did to their parents, as they were when decided.

    A gain's error is the noise times its `spread`, sqrt(1/n + 1/m) for n and m runs: the noise is known
    better later, so the tally keeps gain over spread (`steepest`, `flattest`: the largest and smallest size
    of it).
    """

    num_measured: int = 0
    num_kept: int = 0
    num_failed: int = 0
    total_gain_bpb: float = 0.0
    best_id: str = ""
    best_gain_bpb: float = 0.0
    best_spread: float = 1.0
    steepest: float = 0.0
    flattest: float = 0.0

    def add(
        self,
        experiment_id: str,
        verdict: Verdict,
        parent_scores: Mapping[int, float],
        scores: Mapping[int, float],
    ) -> None:
        """One more decided experiment; one without runs that compare counts as kept or failed only."""
        self.num_kept += verdict is Verdict.KEEP
        self.num_failed += verdict in (Verdict.CRASH, Verdict.INVALID)
        if not parent_scores or not scores:
            return
        gain = sum(parent_scores.values()) / len(parent_scores) - sum(scores.values()) / len(scores)
        spread = math.sqrt(1 / len(parent_scores) + 1 / len(scores))
        self.num_measured += 1
        self.total_gain_bpb += gain
        self.steepest = max(self.steepest, abs(gain) / spread)
        self.flattest = min(self.flattest or math.inf, abs(gain) / spread)
        if not self.best_id or gain > self.best_gain_bpb:
            self.best_id, self.best_gain_bpb, self.best_spread = experiment_id, gain, spread
