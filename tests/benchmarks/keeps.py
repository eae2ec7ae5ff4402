"""What the decisions are worth in the long run: how much is kept by luck, how much of what is real is found.

Whole campaigns of the real policies over made-up scores, without training: every experiment is decided before
the next begins, a champion keeps up with its challengers. Effects are in deviations of the noise.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

from autohyp.config import DecisionConfig
from autohyp.journal.tally import NoiseTally
from autohyp.policies.decide import Evidence, Standing, decide, seeds_from
from autohyp.records import Verdict
from autohyp.testing.fakes import make_result, make_run

from .figures import Figure

__all__ = ["measure_keeps"]

FIRST_SEED = 42
NOISE_BPB = 0.002
NUM_EXPERIMENTS = 100
NUM_CAMPAIGNS = 100
GAIN_EVERY = 10
Effect = Callable[[int], float]


@dataclass
class _Outcome:
    false_keeps: int = 0
    true_keeps: int = 0
    gains: int = 0
    runs: int = 0


def measure_keeps(folder: Path) -> list[Figure]:
    """Campaigns in which nothing helps, and some in which one change of ten does."""
    del folder
    draw = random.Random(1)
    idle = [_play(partial(_now_and_then, 0.0), draw) for _ in range(NUM_CAMPAIGNS)]
    figures = [
        Figure(
            f"campaigns of {NUM_EXPERIMENTS} changes without effect that keep any",
            100 * fmean(outcome.false_keeps > 0 for outcome in idle),
            "%",
            100 * DecisionConfig().false_keep_rate,
            note=f"of {NUM_CAMPAIGNS}; {_runs(idle):.2f} runs an experiment",
        )
    ]
    for size in (2, 3, 5):
        outcomes = [_play(partial(_now_and_then, size), draw) for _ in range(NUM_CAMPAIGNS)]
        found = sum(outcome.true_keeps for outcome in outcomes) / sum(outcome.gains for outcome in outcomes)
        share = fmean(
            outcome.false_keeps / max(1, outcome.false_keeps + outcome.true_keeps) for outcome in outcomes
        )
        figures.append(
            Figure(
                f"gains of {size} deviations found, one change of {GAIN_EVERY}",
                100 * found,
                "%",
                note=f"{100 * share:.1f} % of keeps without effect; {_runs(outcomes):.2f} runs an experiment",
            )
        )
    return figures


def _now_and_then(size: float, number: int) -> float:
    return 0.0 if number % GAIN_EVERY else size


def _runs(outcomes: list[_Outcome]) -> float:
    return fmean(outcome.runs for outcome in outcomes) / NUM_EXPERIMENTS


def _play(effect: Effect, draw: random.Random) -> _Outcome:
    """One campaign; a true effect of n deviations lowers the mean by that much, for all that builds on it."""
    policy, tally, outcome = DecisionConfig(), NoiseTally(), _Outcome()

    def run(scores: dict[int, float], seed: int, mean_bpb: float) -> None:
        score = draw.gauss(mean_bpb, NOISE_BPB)
        tally.add(scores, score)
        scores[seed] = score
        outcome.runs += 1

    champion_bpb, champion, kept = 1.0, dict[int, float](), list[int]()
    for seed in seeds_from(FIRST_SEED, policy.baseline_runs):
        run(champion, seed, champion_bpb)
    for number in range(1, NUM_EXPERIMENTS + 1):
        gain = effect(number) * NOISE_BPB
        outcome.gains += gain > 0
        scores: dict[int, float] = {}
        run(scores, FIRST_SEED, champion_bpb - gain)
        while True:
            results = [make_result(make_run("challenger", seed), score) for seed, score in scores.items()]
            decision = decide(
                Evidence(
                    "challenger",
                    results,
                    Standing("champion", champion),
                    tally.floor,
                    0,
                    FIRST_SEED,
                    number,
                    kept,
                ),
                policy,
            )
            if decision.verdict.is_terminal:
                break
            for seed in decision.next_seeds:
                run(scores, seed, champion_bpb - gain)
            while len(champion) < len(scores):
                run(champion, seeds_from(FIRST_SEED, 1, champion)[0], champion_bpb)
        if decision.verdict is Verdict.KEEP:
            kept.append(number)
            outcome.false_keeps += gain == 0
            outcome.true_keeps += gain > 0
            champion, champion_bpb = scores, champion_bpb - gain
            while len(champion) < policy.champion_runs:
                run(champion, seeds_from(FIRST_SEED, 1, champion)[0], champion_bpb)
    return outcome
