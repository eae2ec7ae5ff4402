"""What to do with a run that ended without a result."""

from __future__ import annotations

import math
import re
from enum import Enum

from autohyp.journal import ExperimentEntry
from autohyp.patches import unified_diff
from autohyp.records import ConstantsEdit, DiffEdit, Hypothesis
from autohyp.source import set_constants

__all__ = ["MAX_FAULTS_PER_RUN", "LossAction", "on_lost_run", "with_smaller_batch"]

MAX_FAULTS_PER_RUN = 1
"""How often a run may take its worker with it before it counts as a crash."""
DEVICE_BATCH = "DEVICE_BATCH_SIZE"
_TOLD_ROWS = re.compile(r", \d+ rows a forward pass$")


class LossAction(Enum):
    """Try the run again, or record it as a crash."""

    REQUEUE = "requeue"
    CRASH = "crash"


def on_lost_run(entry: ExperimentEntry, seed: int, *, at_fault: bool) -> LossAction:
    """Requeue once; a run that loses its worker a second time is taken for the cause. Stops never count."""
    if at_fault and entry.num_faults.get(seed, 0) >= MAX_FAULTS_PER_RUN:
        return LossAction.CRASH
    return LossAction.REQUEUE


def with_smaller_batch(entry: ExperimentEntry, before: str, source: str) -> Hypothesis | None:
    """The same idea for an experiment that ran out of memory, with fewer rows a forward pass.

    The optimizer's step sees as many tokens as before. `before` is the train.py that `source` was made from.
    None where memory was not the trouble, or the batch cannot be halved any more.
    """
    batch = entry.experiment.constants.get(DEVICE_BATCH)
    facts = entry.results[-1].integrity if entry.results else {}
    if not facts.get("out_of_memory") or not isinstance(batch, int) or batch % 2:
        return None
    needed_mb, present_mb = (float(facts.get(f"{what}_memory_mb", 0.0)) for what in ("predicted", "gpu"))
    excess = needed_mb / (present_mb or math.inf)
    fewer = {DEVICE_BATCH: batch // math.gcd(batch, 1 << max(1, math.ceil(math.log2(excess or 1))))}
    hypothesis = entry.experiment.hypothesis
    if isinstance(hypothesis.edit, ConstantsEdit):
        edit: ConstantsEdit | DiffEdit = ConstantsEdit(overrides=hypothesis.edit.overrides | fewer)
    else:
        edit = DiffEdit(patch=unified_diff(before, set_constants(source, fewer)))
    return hypothesis.model_copy(
        update={
            "hypothesis_id": f"{hypothesis.hypothesis_id}.rows{fewer[DEVICE_BATCH]}",
            "title": f"{_TOLD_ROWS.sub('', hypothesis.title)}, {fewer[DEVICE_BATCH]} rows a forward pass",
            "edit": edit,
        }
    )
