"""What a campaign has learnt so far, said in sentences that carry their numbers."""

from __future__ import annotations

from autohyp.journal import CampaignState, ExperimentEntry
from autohyp.journal.tally import KindTally
from autohyp.policies.decide import Standing, gain_between
from autohyp.records import Finding, NoiseFloor

__all__ = ["finding_about", "gain_over_parent"]

CLEAR_ERRORS = 2.0
"""A gain of so many standard errors over its own parent is worth telling, whatever became of it."""


def gain_over_parent(
    state: CampaignState, entry: ExperimentEntry, noise: NoiseFloor | None
) -> tuple[float, float] | None:
    """The measured gain over the experiment's own parent and its standard error, bpb; None if not measured.

    The champion may have moved since; the parent is what the change was made to.
    """
    parent = state.experiments.get(entry.experiment.parent_experiment_id or "")
    if parent is None or noise is None or not entry.scores or not parent.scores:
        return None
    return gain_between(
        Standing(parent.experiment_id, parent.scores), Standing(entry.experiment_id, entry.scores), noise
    )


def finding_about(state: CampaignState, kind: str) -> Finding | None:
    """What is known of one kind of change; None while nothing of it was measured."""
    tally, noise = state.kinds.get(kind), state.noise
    if tally is None or noise is None or not tally.num_measured:
        return None
    best = state.experiments[tally.best_id].experiment.hypothesis
    error = noise.sd_bpb * tally.best_spread
    helps = tally.num_kept > 0 or tally.best_gain_bpb > CLEAR_ERRORS * error
    if tally.num_kept:
        title = f"{kind}: {best.title} gained {tally.best_gain_bpb:.4f} bpb"
    elif helps:
        title = f"{kind}: {best.title} helps its parent, but is no better than the champion"
    else:
        title = f"{kind}: nothing tried so far helps"
    return Finding(
        finding_id=f"kind-{kind.replace(' ', '-')}",
        title=title,
        evidence=(
            f"{tally.num_measured} measured, {tally.num_kept} kept, {tally.num_failed} failed; "
            f"best {tally.best_gain_bpb:+.4f} ± {error:.4f} bpb ({tally.best_id}), "
            f"mean {tally.total_gain_bpb / tally.num_measured:+.4f} (positive is better)"
        ),
        confidence=_confidence(tally, noise, helps=helps),
        mechanism=best.rationale,
        implication="go further in this direction" if helps else "look elsewhere first",
    )


def _confidence(tally: KindTally, noise: NoiseFloor, *, helps: bool) -> float:
    """Rough: how far the best (or the least) effect stands out of its error, as a probability."""
    slope = tally.steepest if helps else tally.flattest
    margin = slope / noise.sd_bpb if noise.sd_bpb else 9.0
    return round(min(0.99, 0.5 + margin / 8), 2)
