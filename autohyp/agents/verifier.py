"""Whether a result holds: the experiment made again from its commit, on seeds that it never had, and judged
by text that no decision has seen.

What is compared: the journal's account with the repository (the commit is the recorded change of the recorded
parent); fresh runs with the recorded ones; and the gain over the baseline on validation text with that on
the hold-out split, for a champion is chosen by its validation score and that score is therefore flattered.
Intervals are of Student's t, from the campaign's own noise, which is taken to be the same on both splits.
Nothing is recorded. Not covered: numbers of another GPU type, which are shown and not compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Literal

from autohyp.agents.base import News, RunOrder
from autohyp.errors import CampaignError, EditError, WorkspaceError
from autohyp.execution.workspace import Workspace
from autohyp.journal import CampaignState, Draft, ExperimentEntry
from autohyp.policies.decide import Standing, gain_between, quantile, seeds_from
from autohyp.records import NoiseFloor, Run, RunResult, Tool, WorkerLive
from autohyp.source import apply_patch, fingerprint

__all__ = ["WORKER_ID", "Estimate", "Mute", "Verification", "Verifier", "check_commit"]

CONFIDENCE = 0.95
WORKER_ID = "verify"

Split = Literal["val", "holdout"]
Measure = Callable[[RunOrder], RunResult]


@dataclass(frozen=True)
class Estimate:
    """A difference in bpb with its confidence interval of 95 %."""

    value_bpb: float
    low_bpb: float
    high_bpb: float

    @classmethod
    def between(cls, before: Standing, after: Standing, noise: NoiseFloor) -> Estimate:
        """How much lower `after` is than `before`."""
        gain, error = gain_between(before, after, noise)
        margin = quantile(0.5 + CONFIDENCE / 2, noise.degrees_of_freedom) * error
        return cls(gain, gain - margin, gain + margin)

    @property
    def includes_zero(self) -> bool:
        return self.low_bpb <= 0 <= self.high_bpb

    def __str__(self) -> str:
        return f"{self.value_bpb:+.5f} bpb (95 %: {self.low_bpb:+.5f} to {self.high_bpb:+.5f})"


@dataclass(frozen=True)
class Verification:
    """What was found. `improvement` is how much better the fresh runs are than the recorded ones, None when
    they do not compare; the gains are over the baseline, None for the baseline itself."""

    experiment_id: str
    recorded_bpb: float
    fresh_bpb: float
    seeds: tuple[int, ...]
    improvement: Estimate | None
    holdout_bpb: float | None = None
    val_gain: Estimate | None = None
    holdout_gain: Estimate | None = None

    @property
    def problems(self) -> list[str]:
        """Why the record should not be believed; empty when it holds."""
        found = []
        if self.improvement is not None and self.improvement.high_bpb < 0:
            found.append(f"fresh runs are worse than the recorded ones: {self.improvement}")
        gain, claimed = self.holdout_gain, self.val_gain
        if claimed is not None and gain is not None and claimed.value_bpb > 0:
            if gain.value_bpb <= 0:
                found.append(f"it gains nothing on the hold-out split: {gain}")
            elif gain.high_bpb < claimed.low_bpb:
                found.append(
                    f"it gains less on the hold-out split, {gain}, than on validation text, {claimed}"
                )
        return found

    @property
    def shrinkage(self) -> float | None:
        """The share of the gain on validation text that the hold-out split does not show."""
        if self.val_gain is None or self.holdout_gain is None or self.val_gain.value_bpb <= 0:
            return None
        return 1 - self.holdout_gain.value_bpb / self.val_gain.value_bpb

    def document(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self) | {"shrinkage": self.shrinkage, "problems": self.problems}


class Mute:
    """A `LedgerClient` for a worker whose runs are nobody's record."""

    def append(self, drafts: Sequence[Draft], since: int | None = None) -> News:
        """Refuse: whoever verifies changes nothing."""
        raise CampaignError("a verification records nothing")

    def news(self, since: int) -> News:
        """There is none."""
        return News()

    def tools(self) -> list[Tool]:
        """There are none."""
        return []

    def heartbeat(self, *lives: WorkerLive) -> None:
        """Nobody listens."""


def check_commit(state: CampaignState, workspace: Workspace, entry: ExperimentEntry) -> None:
    """Raise CampaignError unless the repository holds what the journal says of the experiment."""
    experiment = entry.experiment
    try:
        source = workspace.read(experiment.commit)
        before = workspace.read(experiment.parent_commit or experiment.commit)
        made = apply_patch(before, experiment.diff) if experiment.diff else before
        same_program = fingerprint(source) == experiment.fingerprint
        prepared = workspace.read(experiment.commit, "prepare.py")
    except (WorkspaceError, EditError) as error:
        raise CampaignError(f"{experiment.experiment_id}: its commit cannot be checked: {error}") from None
    if made != source or not same_program:
        raise CampaignError(
            f"{experiment.experiment_id}: commit {experiment.commit[:12]} is not what the journal tells"
        )
    known = state.created.target_sha256.get("prepare.py") if state.created else None
    if hashlib.sha256(prepared.encode()).hexdigest() != known:
        raise CampaignError(f"{experiment.experiment_id}: its prepare.py is not the campaign's")


class Verifier:
    """Carries out the runs of one verification; `measure` trains and measures an order."""

    def __init__(self, state: CampaignState, first_seed: int, gpu_name: str, measure: Measure) -> None:
        self._state = state
        self._first_seed = first_seed
        self._gpu_name = gpu_name
        self._measure = measure

    def orders(self, entry: ExperimentEntry, num_seeds: int, *, holdout: bool) -> list[RunOrder]:
        """The runs: fresh seeds on validation text, then on the hold-out split, there of the baseline too."""
        baseline = self._state.baseline
        known = [each for each in (entry, baseline) if each is not None]
        taken = {result.seed for each in known for result in each.results}
        seeds = seeds_from(self._first_seed, num_seeds, taken)
        made = [_order(entry, seed, "val") for seed in seeds]
        if holdout:
            pair = [entry] if baseline is None or entry is baseline else [entry, baseline]
            made += [_order(each, seed, "holdout") for seed in seeds for each in pair]
        return made

    def verify(self, entry: ExperimentEntry, orders: Iterable[RunOrder]) -> Verification:
        """Carry the orders out, one after the other. Raises CampaignError when one gives no number."""
        scores: dict[tuple[str, Split], dict[int, float]] = {}
        for order in orders:
            result = self._measure(order)
            if result.val_bpb is None:
                raise CampaignError(
                    f"{order.run.experiment_id} seed {order.run.seed} gave no number: {result.reason}"
                )
            scores.setdefault((order.run.experiment_id, order.split), {})[order.run.seed] = result.val_bpb
        return self._compare(entry, scores)

    def _compare(
        self, entry: ExperimentEntry, scores: dict[tuple[str, Split], dict[int, float]]
    ) -> Verification:
        name, baseline, noise = entry.experiment_id, self._state.baseline, self._state.noise
        fresh, recorded = Standing(name, scores[name, "val"]), Standing(name, entry.scores)
        held = scores.get((name, "holdout"))
        compares = noise is not None and all(r.gpu_name == self._gpu_name for r in entry.measured)
        val_gain = holdout_gain = None
        if noise is not None and baseline is not None and baseline.experiment_id != name:
            val_gain = Estimate.between(Standing("", baseline.scores), recorded, noise)
            base_held = scores.get((baseline.experiment_id, "holdout"))
            if held and base_held:
                holdout_gain = Estimate.between(Standing("", base_held), Standing(name, held), noise)
        return Verification(
            experiment_id=name,
            recorded_bpb=recorded.mean_bpb,
            fresh_bpb=fresh.mean_bpb,
            seeds=tuple(fresh.scores),
            improvement=Estimate.between(recorded, fresh, noise) if noise is not None and compares else None,
            holdout_bpb=fmean(held.values()) if held else None,
            val_gain=val_gain,
            holdout_gain=holdout_gain,
        )


def _order(entry: ExperimentEntry, seed: int, split: Split) -> RunOrder:
    experiment = entry.experiment
    run = Run(
        run_id=f"{experiment.experiment_id}.verify-{split}.s{seed}",
        experiment_id=experiment.experiment_id,
        seed=seed,
        attempt=1,
        worker_id=WORKER_ID,
    )
    hypothesis = experiment.hypothesis
    return RunOrder(
        run, experiment.commit, hypothesis.title, hypothesis.hypothesis_id, experiment.constants, split
    )
