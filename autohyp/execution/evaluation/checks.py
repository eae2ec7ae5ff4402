"""Whether a model's answers can be believed: every refusal is decided here.

Limits. Honest answers about the same row differ a little, since a batch of another size or another
kernel rounds otherwise. What the training process says about its dtype is no evidence, so the
limits are those of bf16 (measured there: 0.006 nats a token on average) with three nets: no single
loss may differ by more than MAX_LOSS_DIFFERENCE, the mean difference is small, and claims may not
be *lower* than what the logits say beyond the noise that was seen, which leaves a model with fp32
noise no room at all. `report` says which class of noise was seen.

Not covered: see `plan`. A process that remembers all it was sent can still shave off some per cent unseen.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from autohyp.execution.evaluation.plan import ClaimStep, OpenStep, Plan, ProbeStep, Splice
from autohyp.execution.evaluation.scoring import EvaluationData
from autohyp.execution.protocol import ViolationError

__all__ = ["Checks", "log_softmax", "rank_sum_p_value"]

Floats = npt.NDArray[np.float32]

MAX_LOSS_DIFFERENCE = 0.25  # nats, any one loss
MEAN_LOSS_DIFFERENCE = 0.03  # nats, mean of absolute values
MAX_LOG_RATIO = 0.5  # nats, any one token of a whole distribution
RMS_LOG_RATIO = 0.1  # nats, over a whole distribution
FLOAT32_DIFFERENCE = 1e-3  # nats; all differences within: the noise of fp32
BIAS_FLOOR = 5e-4  # nats a token: 0.0002 bpb
BIAS_DEVIATIONS = 6.0
BIAS_MIN_LOSSES = 16  # fewer do not show how large the noise is
LOWEST_LOG_PROBABILITY = -20.0  # below, distributions are not compared
NEGATIVE_TOLERANCE = 1e-3  # nats
RANK_P_VALUE = 1e-6  # how often the rank test refuses an honest model
SAMPLED_CLAIMS = 200_000


def log_softmax(logits: Floats) -> Floats:
    """Normalised log-probabilities along the last axis; -inf stays -inf."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    sums = np.exp(shifted).sum(axis=-1, keepdims=True, dtype=np.float64)
    result: Floats = shifted - np.log(sums).astype(np.float32)
    return result


def rank_sum_p_value(ranks: npt.NDArray[np.float64]) -> float:
    """The probability that as many uniform ranks in 0..1 have at least this sum: no model assumption in it.

    Exact (Irwin-Hall) up to 12 ranks; above, a normal tail, which is heavier than the true one.
    """
    n = len(ranks)
    missing = n - float(ranks.sum())
    if n == 0:
        return 1.0
    if n > 12:
        deviation = (float(ranks.mean()) - 0.5) * math.sqrt(12 * n)
        return 0.5 * math.erfc(deviation / math.sqrt(2))
    terms = ((-1) ** k * math.comb(n, k) * (missing - k) ** n for k in range(min(n, math.floor(missing)) + 1))
    return min(1.0, max(0.0, math.fsum(terms) / math.factorial(n)))


class Checks:
    """Collects answers; raises ViolationError, with a reason for people, if they cannot be honest.

    Answers that no honest model gives are refused as they come, contradictions between answers in `finish`.
    """

    def __init__(self, data: EvaluationData, plan: Plan) -> None:
        self._rows = data.rows
        self._plan = plan
        self._stride = max(1, data.rows.shape[0] * data.sequence_len // SAMPLED_CLAIMS)
        self._sample: list[Floats] = []
        self._claims: dict[int, Floats] = {}  # watched row -> losses [T]
        self._decoys: list[tuple[Splice, Floats]] = []
        # Losses recomputed from logits, at these positions before the splice
        self._probed: list[tuple[Splice, npt.NDArray[np.int64], Floats]] = []
        self._probed_first: list[bool] = []  # whether the row was claimed only afterwards
        # (row, key position) -> log-probabilities [vocab]
        self._distributions: dict[tuple[int, int], Floats] = {}
        self._log_ratios: list[tuple[float, float]] = []  # max and rms, of repeated distributions
        self._blind_losses: list[float] = []
        self.report: dict[str, float | str] = {}

    def add_claims(self, step: ClaimStep, losses: Floats) -> Floats:
        """Takes the answer [n_rows, T] to a claim; returns it with rounding below zero removed."""
        if not np.isfinite(losses).all():
            raise ViolationError("the model claimed a loss that is not a finite number")
        if float(losses.min()) < -NEGATIVE_TOLERANCE:
            raise ViolationError(f"the model claimed a negative loss ({float(losses.min()):.4g} nats)")
        losses = np.maximum(losses, 0.0)
        self._sample.append(losses.ravel()[:: self._stride].copy())
        for splice, row_losses in zip(step.rows, losses, strict=True):
            if splice.length <= len(row_losses):
                self._decoys.append((splice, row_losses.copy()))
            elif splice.row in self._plan.watched:
                self._claims[splice.row] = row_losses.copy()
        return losses

    def add_logits(self, step: ProbeStep, logits: Floats) -> None:
        """Takes the answer [n_rows, n_positions, vocab] to a probe."""
        log_probs = _checked_log_softmax(logits)
        for splice, key, row_log_probs in zip(step.rows, step.keys, log_probs, strict=True):
            positions = step.positions[step.positions < splice.length]
            targets = self._rows[splice.row, positions + 1].astype(np.int64)
            losses: Floats = -row_log_probs[np.arange(len(positions)), targets]
            at_key = int(np.searchsorted(step.positions, key))
            if splice.row not in self._claims and splice.row in self._plan.blind:
                self._blind_losses.append(float(losses[at_key]))
            self._probed.append((splice, positions, losses))
            self._probed_first.append(splice.row not in self._claims)
            self._compare_distributions(splice.row, key, row_log_probs[at_key])

    def add_open(self, step: OpenStep, logits: Floats) -> Floats:
        """Takes the answer [n_rows, T, vocab] to an open step; returns the losses [n_rows, T]."""
        targets = self._rows[[splice.row for splice in step.rows], 1:].astype(np.int64)
        log_probs = _checked_log_softmax(logits)
        losses: Floats = -np.take_along_axis(log_probs, targets[..., None], axis=2)[..., 0]
        if not np.isfinite(losses).all():
            raise ViolationError("the model gives a token of the text no probability at all")
        # Not part of the sample: who forges claims from memory is honest here, and would seem less apart.
        self._blind_losses += losses[:, -1].tolist()
        return losses

    def finish(self) -> None:
        """Compares everything with everything, once all answers are in, and fills `report`."""
        whole = self._probe_differences(spliced=False)
        spliced = self._probe_differences(spliced=True)
        decoys = self._decoy_differences()
        self._report(whole, spliced, decoys)
        _refuse_if_apart(whole, "the claimed losses are not those of the model's own logits")
        looks_ahead = "its predictions for a text change with what follows it: the model looks ahead"
        _refuse_if_apart(spliced, looks_ahead)
        _refuse_if_apart(decoys, looks_ahead)
        if any(top > MAX_LOG_RATIO or rms > RMS_LOG_RATIO for top, rms in self._log_ratios):
            raise ViolationError("the model gives the same text other predictions when it is asked again")
        _refuse_if_biased(np.concatenate([whole, spliced]))
        _refuse_if_learning(self._timed_differences(first=True), self._timed_differences(first=False))
        if self.report["blind_rank_p"] < RANK_P_VALUE:  # type: ignore[operator]
            raise ViolationError(
                "the model is far worse on text whose continuation it could not know than on all it claimed"
            )

    def _compare_distributions(self, row: int, key: int, log_probs: Floats) -> None:
        log_probs = np.maximum(log_probs, LOWEST_LOG_PROBABILITY)
        earlier = self._distributions.setdefault((row, key), log_probs)
        if earlier is not log_probs:
            ratio = np.abs(earlier - log_probs)
            self._log_ratios.append((float(ratio.max()), float(np.sqrt(np.mean(ratio * ratio)))))

    def _probe_differences(self, spliced: bool) -> Floats:
        """Claimed less recomputed losses, of the probes that had (not) another suffix."""
        parts = [
            self._claims[splice.row][positions] - losses
            for splice, positions, losses in self._probed
            if (splice.row != splice.donor) is spliced
        ]
        return np.concatenate([np.zeros(0, np.float32), *parts])

    def _timed_differences(self, first: bool) -> Floats:
        """Claimed less recomputed losses, of the probes that came before (or after) the claim."""
        parts = [
            self._claims[splice.row][positions] - losses
            for (splice, positions, losses), was_first in zip(self._probed, self._probed_first, strict=True)
            if was_first is first
        ]
        return np.concatenate([np.zeros(0, np.float32), *parts])

    def _decoy_differences(self) -> Floats:
        """Claimed losses of rows less those of their decoys, where the target is before the splice."""
        parts = [
            self._claims[splice.row][: splice.length - 1] - losses[: splice.length - 1]
            for splice, losses in self._decoys
        ]
        return np.concatenate([np.zeros(0, np.float32), *parts])

    def _blind_rank_p(self) -> float:
        sample = np.sort(np.concatenate(self._sample))
        below = np.searchsorted(sample, self._blind_losses, side="left")
        up_to = np.searchsorted(sample, self._blind_losses, side="right")
        return rank_sum_p_value((below + up_to) / (2 * len(sample)))

    def _report(self, whole: Floats, spliced: Floats, decoys: Floats) -> None:
        everything = np.abs(np.concatenate([whole, spliced, decoys]))
        largest = float(everything.max(initial=0.0))
        self.report = {
            "noise_class": "float32" if largest <= FLOAT32_DIFFERENCE else "bfloat16",
            "max_difference_nats": round(largest, 6),
            "mean_difference_nats": round(float(everything.mean()) if len(everything) else 0.0, 6),
            "checked_losses": len(whole) + len(spliced),
            "decoy_losses": len(decoys),
            "repeated_distributions": len(self._log_ratios),
            "blind_losses": len(self._blind_losses),
            "blind_rank_p": self._blind_rank_p(),
        }


def _checked_log_softmax(logits: Floats) -> Floats:
    highest = logits.max(axis=-1)  # NaN and inf, if there are any; -inf elsewhere only rules a token out
    if not np.isfinite(highest).all():
        raise ViolationError("the model's logits are not finite numbers")
    return log_softmax(logits)


def _refuse_if_apart(differences: Floats, reason: str) -> None:
    if not len(differences):
        return
    sizes = np.abs(differences)
    largest, mean = float(sizes.max()), float(sizes.mean())
    chance = 4 * max(float(sizes.std()), MEAN_LOSS_DIFFERENCE) / math.sqrt(len(sizes))
    if largest > MAX_LOSS_DIFFERENCE or mean > MEAN_LOSS_DIFFERENCE + chance:
        raise ViolationError(f"{reason} (by up to {largest:.3g} nats a token, {mean:.3g} on average)")


def _refuse_if_learning(before: Floats, after: Floats) -> None:
    """By steps too small for one answer: claims are lower than earlier probes and higher than later ones.

    What makes all claims differ from logits alike (another kernel) cancels out.
    """
    if min(len(before), len(after)) < BIAS_MIN_LOSSES:
        return
    variance = sum(float(part.var(dtype=np.float64)) / len(part) for part in (before, after))
    gain = float(after.mean(dtype=np.float64) - before.mean(dtype=np.float64))
    if gain > 2 * BIAS_FLOOR + BIAS_DEVIATIONS * math.sqrt(variance):
        raise ViolationError(f"its later answers are better, by {gain:.3g} nats a token: it goes on learning")


def _refuse_if_biased(differences: Floats) -> None:
    n = len(differences)
    if n < BIAS_MIN_LOSSES:
        return
    bias = float(differences.mean(dtype=np.float64))
    standard_error = float(differences.std(dtype=np.float64)) / math.sqrt(n)
    if bias < -(BIAS_FLOOR + BIAS_DEVIATIONS * standard_error):
        raise ViolationError(
            f"the claimed losses are lower than those of the model's own logits, by {-bias:.3g} nats a token"
        )
