"""Which run a free worker takes next.

Runs that others wait for come first: the baseline's (they are the noise floor), then the champion's (every
comparison rests on its mean), then replicates, then experiments not begun; among equals the older one. None
means that a new hypothesis should be tried.
"""

from __future__ import annotations

from dataclasses import dataclass

from autohyp.config import DecisionConfig
from autohyp.journal import CampaignState, ExperimentEntry
from autohyp.policies.decide import seeds_from

__all__ = ["NextRun", "champion_runs_wanted", "next_run", "num_wanted"]


@dataclass(frozen=True)
class NextRun:
    """A run to start: the seed of an experiment, and which attempt at it this is."""

    experiment_id: str
    seed: int
    attempt: int


def next_run(state: CampaignState, worker_id: str, num_workers: int) -> NextRun | None:
    """The most urgent run for this worker, None when there is none.

    A run that was lost with its worker goes to another one: a broken machine must not make two crashes of it.
    """
    best: tuple[int, ExperimentEntry, int] | None = None
    for experiment_id in state.waiting:
        entry = state.experiments[experiment_id]
        if num_workers > 1 and entry.failed_on[-1:] == [worker_id]:
            continue
        if best is None or _rank(state, entry) < best[0]:
            best = (_rank(state, entry), entry, entry.pending_seeds[0])
    if best is None:
        return None
    _, entry, seed = best
    return NextRun(entry.experiment_id, seed, entry.attempts.get(seed, 0) + 1)


def _rank(state: CampaignState, entry: ExperimentEntry) -> int:
    if entry.experiment.is_baseline:
        return 0
    if entry.experiment_id == state.champion_id:
        return 1
    return 2 if entry.results else 3


def champion_runs_wanted(
    state: CampaignState, policy: DecisionConfig, first_seed: int, challenger_runs: int = 0
) -> tuple[int, ...]:
    """Seeds that the champion should still be run with, so that its mean is no lucky draw.

    A challenger that is run again can only stand out as far as the champion is known: that one keeps up
    with its `challenger_runs`, once for all that will challenge it.
    """
    champion = state.champion
    if champion is None:
        return ()
    wanted = max(policy.champion_runs, min(challenger_runs, policy.max_runs))
    return seeds_from(first_seed, max(0, wanted - len(champion.seeds)), champion.seeds)


def num_wanted(num_workers: int, num_queued: int) -> int:
    """How many hypotheses to ask for now, so that nobody waits for a researcher.

    One a worker is kept ahead, and one more; a large fleet asks only when half of that is used up, because a
    researcher looks at the whole past each time it is asked.
    """
    missing = num_workers + 1 - num_queued
    return missing if missing > num_workers // 2 else 0
