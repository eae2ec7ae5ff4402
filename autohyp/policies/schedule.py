"""Which run a free worker takes next.

Runs that others wait for come first: the baseline's (they are the noise floor), then the champion's (every
comparison rests on its mean), then replicates, then experiments not begun; among equals the older one. None
means that a new hypothesis should be tried.
"""

from __future__ import annotations

from dataclasses import dataclass

from autohyp.config import DecisionConfig
from autohyp.journal.state import CampaignState, ExperimentEntry
from autohyp.policies.decide import seeds_from

__all__ = ["NextRun", "champion_runs_wanted", "next_run", "queue_target"]


@dataclass(frozen=True)
class NextRun:
    """A run to start: the seed of an experiment, and which attempt at it this is."""

    experiment_id: str
    seed: int
    attempt: int


def next_run(state: CampaignState, excluded: frozenset[tuple[str, int]] = frozenset()) -> NextRun | None:
    """The most urgent run that waits for a worker; `excluded` holds (experiment_id, seed) already handed
    out."""
    best: tuple[int, ExperimentEntry, int] | None = None
    for entry in state.open_experiments():
        seed = next((s for s in entry.pending_seeds if (entry.experiment_id, s) not in excluded), None)
        if seed is not None and (best is None or _rank(state, entry) < best[0]):
            best = (_rank(state, entry), entry, seed)
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


def champion_runs_wanted(state: CampaignState, policy: DecisionConfig, first_seed: int) -> tuple[int, ...]:
    """Seeds that the champion should still be run with, so that its mean is no lucky draw."""
    champion = state.champion
    if champion is None:
        return ()
    return seeds_from(first_seed, max(0, policy.champion_runs - len(champion.seeds)), champion.seeds)


def queue_target(num_workers: int) -> int:
    """How many hypotheses to keep ready: one a worker ahead, so that nobody waits for a researcher."""
    return num_workers + 1
