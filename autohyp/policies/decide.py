"""What becomes of an experiment once its runs are in: keep, discard, replicate, crash or invalid.

A change is believed when its gain over the champion stands out of the noise between equal runs. The noise
is measured: the variance within every experiment that has several runs, pooled, so the baseline's
replicates give the first figure and each later replicate sharpens it. With few degrees of freedom that
figure is itself uncertain, which Student's t accounts for (W. S. Gosset, "The probable error of a mean",
Biometrika 1908). How far it must stand out accounts for all comparisons of the campaign and all looks at one
experiment (`autohyp.policies.levels`). A gain within the noise is run again with the seeds that the champion
has had, until it stands out or will hardly do so any more; at a draw the shorter source wins.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

from scipy.special import stdtrit  # scipy.stats has it too, and takes a second longer to import

from autohyp.config import DecisionConfig
from autohyp.journal.tally import NoiseTally
from autohyp.policies.levels import level_at_look, level_of_comparison
from autohyp.records import Decision, NoiseFloor, RunResult, RunStatus, Verdict

__all__ = ["Evidence", "Standing", "decide", "gain_between", "pooled_noise", "quantile", "seeds_from"]

PRIOR_GAIN_NOISE_MULTIPLE = 5.0
"""Default spread of true effects, in noise deviations: wide, so that the data soon outweighs it."""


@dataclass(frozen=True)
class Standing:
    """An experiment's scores: val_bpb by seed."""

    experiment_id: str
    scores: Mapping[int, float]

    @property
    def mean_bpb(self) -> float:
        return fmean(self.scores.values())


@dataclass(frozen=True)
class Evidence:
    """All that a decision on one experiment rests on; `champion` is None for the baseline.

    `number` is the experiment's place among the campaign's comparisons, from 1, `kept` the places of those
    that were kept.
    """

    experiment_id: str
    results: Sequence[RunResult]
    champion: Standing | None
    noise: NoiseFloor | None
    line_delta: int
    first_seed: int
    number: int = 1
    kept: Sequence[int] = ()


def pooled_noise(score_sets: Iterable[Mapping[int, float]]) -> NoiseFloor | None:
    """Pool the variance within each set of runs of one source; None while no source has two runs."""
    tally = NoiseTally()
    for scores in score_sets:
        before: dict[int, float] = {}
        for seed, score in scores.items():
            tally.add(before, score)
            before[seed] = score
    return tally.floor


def gain_between(before: Standing, after: Standing, noise: NoiseFloor) -> tuple[float, float]:
    """How much lower `after` is than `before`, and the standard error of that, both in bpb."""
    gain = before.mean_bpb - after.mean_bpb
    return gain, noise.sd_bpb * math.sqrt(1 / len(before.scores) + 1 / len(after.scores))


def seeds_from(first_seed: int, count: int, taken: Iterable[int] = ()) -> tuple[int, ...]:
    """The next `count` seeds of the campaign's sequence that are not taken: the same for all experiments."""
    used = set(taken)
    seeds: list[int] = []
    seed = first_seed
    while len(seeds) < count:
        if seed not in used:
            seeds.append(seed)
        seed += 1
    return tuple(seeds)


def decide(evidence: Evidence, policy: DecisionConfig) -> Decision:
    """The decision on an experiment whose runs so far are all in."""
    failed = next((result for result in evidence.results if not result.is_measured), None)
    if failed is not None:
        return _failure(evidence, failed)
    scores = {result.seed: result.val_bpb for result in evidence.results if result.val_bpb is not None}
    standing = Standing(evidence.experiment_id, scores)
    if evidence.champion is None:
        return _baseline(standing, evidence, policy)
    if evidence.noise is None:
        raise ValueError("a challenger cannot be judged before the noise floor is known")
    return _challenger(standing, evidence.champion, evidence.noise, evidence, policy)


def _failure(evidence: Evidence, failed: RunResult) -> Decision:
    verdict = Verdict.INVALID if failed.status is RunStatus.INVALID else Verdict.CRASH
    return Decision(
        experiment_id=evidence.experiment_id,
        verdict=verdict,
        reason=failed.reason or f"the run {failed.status.value} without a reason",
        champion_id=evidence.champion.experiment_id if evidence.champion else None,
        num_runs=len(evidence.results),
    )


def _baseline(standing: Standing, evidence: Evidence, policy: DecisionConfig) -> Decision:
    missing = policy.baseline_runs - len(standing.scores)
    if missing > 0:
        verdict, reason = Verdict.REPLICATE, "the baseline is repeated to measure the noise"
    else:
        noise = pooled_noise([standing.scores])
        spread = f"; runs of it differ by {noise.sd_bpb:.5f} (standard deviation)" if noise else ""
        verdict, reason = Verdict.KEEP, f"the untouched target: val_bpb {standing.mean_bpb:.5f}{spread}"
    return Decision(
        experiment_id=evidence.experiment_id,
        verdict=verdict,
        reason=reason,
        mean_bpb=standing.mean_bpb,
        num_runs=len(standing.scores),
        noise=evidence.noise,
        next_seeds=seeds_from(evidence.first_seed, max(0, missing), standing.scores),
    )


def _challenger(
    standing: Standing, champion: Standing, noise: NoiseFloor, evidence: Evidence, policy: DecisionConfig
) -> Decision:
    gain, error = gain_between(champion, standing, noise)
    num_runs = len(standing.scores)
    level = level_of_comparison(evidence.number, evidence.kept, policy.false_keep_rate)
    threshold = _threshold(level, num_runs, error, noise.degrees_of_freedom, policy)
    probability = _probability_better(gain, error, noise, policy)
    outlook = _chance_of_keep(gain, error, level, standing, champion, noise, policy)
    verdict, reason = _judge(gain, error, threshold, probability, outlook, num_runs, evidence, policy)
    next_seeds: tuple[int, ...] = ()
    if verdict is Verdict.REPLICATE:
        paired = [seed for seed in sorted(champion.scores) if seed not in standing.scores]
        next_seeds = tuple(paired[:1]) or seeds_from(evidence.first_seed, 1, standing.scores)
    return Decision(
        experiment_id=evidence.experiment_id,
        verdict=verdict,
        reason=reason,
        champion_id=champion.experiment_id,
        mean_bpb=standing.mean_bpb,
        num_runs=num_runs,
        champion_mean_bpb=champion.mean_bpb,
        champion_num_runs=len(champion.scores),
        gain_bpb=gain,
        gain_sd_bpb=error,
        probability_better=probability,
        threshold_bpb=threshold,
        level=level,
        noise=noise,
        next_seeds=next_seeds,
    )


def _threshold(
    level: float, num_runs: int, error: float, degrees_of_freedom: int, policy: DecisionConfig
) -> float:
    """The gain in bpb that noise alone would exceed with the probability that this look may spend."""
    return -quantile(level_at_look(level, num_runs, policy.max_runs), degrees_of_freedom) * error


def _chance_of_keep(
    gain: float,
    error: float,
    level: float,
    standing: Standing,
    champion: Standing,
    noise: NoiseFloor,
    policy: DecisionConfig,
) -> float:
    """The probability that the gain will stand out at the last look, by what is known of it now.

    Until then the error falls to that of `max_runs` runs on both sides, and the estimate makes a normal step
    of variance error^2 - final error^2 (the predictive probability under a flat prior; D. Spiegelhalter et
    al., Controlled Clinical Trials 7, 1986).
    """
    num_more = policy.max_runs - len(standing.scores)
    if num_more <= 0:
        return 0.0
    final_error = noise.sd_bpb * math.sqrt(
        1 / policy.max_runs + 1 / max(len(champion.scores), policy.max_runs)
    )
    needed = _threshold(level, policy.max_runs, final_error, noise.degrees_of_freedom + num_more, policy)
    step = math.sqrt(max(error**2 - final_error**2, 0.0))
    if step == 0:
        return float(gain > needed)
    return NormalDist().cdf((gain - needed) / step)


def quantile(probability: float, degrees_of_freedom: int) -> float:
    """Of Student's t."""
    return float(stdtrit(degrees_of_freedom, probability))


def _probability_better(gain: float, error: float, noise: NoiseFloor, policy: DecisionConfig) -> float:
    """Posterior probability of a true gain above zero, under a normal prior centred on no effect."""
    spread = policy.prior_gain_sd_bpb or PRIOR_GAIN_NOISE_MULTIPLE * noise.sd_bpb
    if error == 0 or spread == 0:
        return 1.0 if gain > 0 else 0.5 if gain == 0 else 0.0
    shrinkage = spread**2 / (spread**2 + error**2)
    return NormalDist().cdf(gain * shrinkage / math.sqrt(shrinkage * error**2))


def _judge(
    gain: float,
    error: float,
    threshold: float,
    probability: float,
    outlook: float,
    num_runs: int,
    evidence: Evidence,
    policy: DecisionConfig,
) -> tuple[Verdict, str]:
    effect = f"{abs(gain):.5f} ± {error:.5f} bpb {'better' if gain >= 0 else 'worse'} than the champion"
    runs = f"over {num_runs} run{'s' if num_runs > 1 else ''}"
    if gain > threshold and gain > policy.min_gain_bpb:
        return Verdict.KEEP, f"{effect} {runs}, beyond the {threshold:.5f} that noise would explain"
    is_tidier = evidence.line_delta < 0 and gain >= -policy.tie_fraction * error
    if is_tidier and num_runs >= min(2, policy.max_runs):
        return (
            Verdict.KEEP,
            f"as good as the champion ({effect}, {runs}) with {-evidence.line_delta} lines less",
        )
    if gain <= policy.min_gain_bpb and not is_tidier:
        return Verdict.DISCARD, f"{effect} {runs}"
    if num_runs >= policy.max_runs:
        return Verdict.DISCARD, f"{effect} {runs}: still within the noise, not worth more runs"
    if outlook < policy.min_chance and not is_tidier:
        chance = f"a chance of {outlook:.0%} to stand out within {policy.max_runs}"
        return Verdict.DISCARD, f"{effect} {runs}: within the noise, and {chance}"
    return Verdict.REPLICATE, (
        f"{effect} {runs}: within the noise (needs {threshold:.5f}, {probability:.0%} likely a gain): again"
    )
