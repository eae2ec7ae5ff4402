"""What to do with a run that ended without a result."""

from __future__ import annotations

from enum import Enum

from autohyp.journal import ExperimentEntry

__all__ = ["MAX_FAULTS_PER_RUN", "LossAction", "on_lost_run"]

MAX_FAULTS_PER_RUN = 1
"""How often a run may take its worker with it before it counts as a crash."""


class LossAction(Enum):
    """Try the run again, or record it as a crash."""

    REQUEUE = "requeue"
    CRASH = "crash"


def on_lost_run(entry: ExperimentEntry, seed: int, *, at_fault: bool) -> LossAction:
    """Requeue once; a run that loses its worker a second time is taken for the cause. Stops never count."""
    if at_fault and entry.num_faults.get(seed, 0) >= MAX_FAULTS_PER_RUN:
        return LossAction.CRASH
    return LossAction.REQUEUE
