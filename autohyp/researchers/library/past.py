"""The campaign so far, as points and measurements of the effect model.

Which structural changes an experiment holds follows from its ancestry: those of its parent, and its own.
Own ones are the library's rewrites, told by the hypothesis id, and any other edit of code, which counts as
a change of its own named after its experiment.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from autohyp.records import BASELINE_KIND, Brief, ConstantsEdit, ConstantValue, PastExperiment, Verdict
from autohyp.researchers.library.effects import Measured, Point
from autohyp.researchers.library.space import Space
from autohyp.researchers.library.structural import REWRITES
from autohyp.source import read_constants

__all__ = ["WITHOUT", "Past", "hypothesis_key"]

WITHOUT = "without-"
"""Prefix of the key of an ablation of a structural change."""
LIBRARY_ID = re.compile(r"lib-(.+)-[0-9a-f]{8}")
MISFIT = 0.08
"""What the model may be off by, as a share of a measurement's distance from the best one."""
CLEAR_LOSS_NOISE = 3.0
CRASH_COST = 0.02
"""What a crash counts as, as a share of val_bpb on the GPU profile: surely worse, by an unknown amount."""


def hypothesis_key(hypothesis_id: str) -> str:
    """The catalogue key or move that the library put into a hypothesis id; empty for other ids."""
    match = LIBRARY_ID.fullmatch(hypothesis_id)
    return match[1] if match else ""


@dataclass(frozen=True)
class Past:
    """History indexed: experiments by id, the baseline's constants, and the champion's ancestry."""

    experiments: Mapping[str, PastExperiment]
    reference: Mapping[str, ConstantValue]
    reference_bpb: float
    champion_id: str | None
    lineage: tuple[str, ...]

    @classmethod
    def of(cls, brief: Brief, default_bpb: float) -> Past:
        """Index a brief; `default_bpb` stands for val_bpb while nothing is measured."""
        experiments = {experiment.experiment_id: experiment for experiment in brief.history}
        baseline = next((e for e in brief.history if e.hypothesis.kind == BASELINE_KIND), None)
        reference = baseline.constants if baseline else read_constants(brief.champion_source)
        lineage: list[str] = []
        current = brief.champion_id
        while current is not None and current in experiments and current not in lineage:
            lineage.append(current)
            current = experiments[current].parent_experiment_id
        bpb = brief.baseline_bpb or brief.champion_bpb or default_bpb
        return cls(experiments, reference, bpb, brief.champion_id, tuple(reversed(lineage)))

    def changes(self, experiment: PastExperiment) -> dict[str, ConstantValue]:
        """The constants that an experiment set otherwise than its parent."""
        parent = self.experiments.get(experiment.parent_experiment_id or "")
        before = parent.constants if parent else self.reference
        return {n: value for n, value in experiment.constants.items() if n in before and before[n] != value}

    def own_switches(self, experiment: PastExperiment) -> frozenset[str]:
        """The structural changes that an experiment brought itself."""
        hypothesis = experiment.hypothesis
        if hypothesis.edit is None or isinstance(hypothesis.edit, ConstantsEdit):
            return frozenset()
        key = hypothesis_key(hypothesis.hypothesis_id)
        if key in REWRITES:
            return frozenset({key})
        if key.startswith(WITHOUT):
            return frozenset()
        parts = [self.experiments[e] for e in hypothesis.builds_on if e in self.experiments]
        if key and parts:
            return frozenset[str]().union(*(self.own_switches(part) for part in parts))
        return frozenset({experiment.experiment_id})

    def switches(self, experiment_id: str | None) -> frozenset[str]:
        """All structural changes that an experiment holds, its ancestors' included."""
        path: list[PastExperiment] = []
        while experiment_id in self.experiments and len(path) <= len(self.experiments):
            experiment = self.experiments[str(experiment_id)]
            path.append(experiment)
            experiment_id = experiment.parent_experiment_id
        held: frozenset[str] = frozenset()
        for experiment in reversed(path):
            removed = hypothesis_key(experiment.hypothesis.hypothesis_id)
            if removed.startswith(WITHOUT):
                held -= {removed.removeprefix(WITHOUT)}
            held |= self.own_switches(experiment)
        return held

    def point(self, experiment: PastExperiment, space: Space) -> Point:
        return Point(space.coordinates(experiment.constants), self.switches(experiment.experiment_id))

    def measured(self, space: Space, noise_share: float, profile_scale: float) -> list[Measured]:
        """Every experiment with a mean, and every crash as a loss; as shares of the reference's val_bpb.

        The further from the best, the less a value has to say about the neighbourhood of the best, so its
        standard deviation grows with the distance.
        """
        means = [e.mean_bpb for e in self.experiments.values() if e.mean_bpb is not None]
        best = min(means, default=self.reference_bpb) / self.reference_bpb - 1
        found = []
        for experiment in self.experiments.values():
            point = self.point(experiment, space)
            if experiment.mean_bpb is not None:
                runs = 2 if experiment.verdict is Verdict.KEEP else 1
                value = experiment.mean_bpb / self.reference_bpb - 1
                sd = math.hypot(noise_share / math.sqrt(runs), MISFIT * (value - best))
                found.append(Measured(point, value, sd))
            elif experiment.verdict is Verdict.CRASH:
                parent = self.experiments.get(experiment.parent_experiment_id or "")
                before = (parent.mean_bpb if parent else None) or self.reference_bpb
                cost = CRASH_COST * profile_scale
                found.append(Measured(point, before / self.reference_bpb - 1 + cost, cost / 2))
        return found

    def suspects(self, noise_share: float) -> frozenset[str]:
        """Constants that took part in a clear loss of several at once and were never measured alone."""
        suspected: set[str] = set()
        cleared: set[str] = set()
        for experiment in self.experiments.values():
            changed = set(self.changes(experiment)) - {"DEVICE_BATCH_SIZE"}
            if experiment.gain_bpb is None:
                continue
            if len(changed) == 1:
                cleared |= changed
            elif experiment.gain_bpb < -CLEAR_LOSS_NOISE * noise_share * self.reference_bpb:
                suspected |= changed
        return frozenset(suspected - cleared)

    def unusable_switches(self) -> frozenset[str]:
        """Structural changes that crashed or were invalid."""
        failed = (e for e in self.experiments.values() if e.verdict in {Verdict.CRASH, Verdict.INVALID})
        return frozenset[str]().union(*(self.own_switches(experiment) for experiment in failed))
