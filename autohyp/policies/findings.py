"""What a campaign has learnt so far, said in sentences that carry their numbers."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean

from autohyp.journal.state import CampaignState, ExperimentEntry
from autohyp.policies.decide import Standing, gain_between
from autohyp.records import Finding, NoiseFloor, Verdict

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


def finding_about(state: CampaignState, kind: str, noise: NoiseFloor | None) -> Finding | None:
    """What is known of one kind of change; None while nothing of it was measured."""
    entries = [e for e in state.decided() if e.experiment.hypothesis.kind == kind]
    gains = [
        (entry, gain) for entry in entries if (gain := gain_over_parent(state, entry, noise)) is not None
    ]
    failed = [e for e in entries if e.verdict in (Verdict.CRASH, Verdict.INVALID)]
    if not gains:
        return None
    best, (best_gain, error) = max(gains, key=lambda pair: pair[1][0])
    kept = [e for e in entries if e.verdict is Verdict.KEEP]
    spread = fmean(gain for _, (gain, _) in gains)
    stands_out = best_gain > CLEAR_ERRORS * error
    if kept:
        title = f"{kind}: {best.experiment.hypothesis.title} gained {best_gain:.4f} bpb"
    elif stands_out:
        title = (
            f"{kind}: {best.experiment.hypothesis.title} helps its parent, but is no better than the champion"
        )
    else:
        title = f"{kind}: nothing tried so far helps"
    return Finding(
        finding_id=f"kind-{kind.replace(' ', '-')}",
        title=title,
        evidence=(
            f"{len(gains)} measured, {len(kept)} kept, {len(failed)} failed; "
            f"best {best_gain:+.4f} ± {error:.4f} bpb ({best.experiment_id}), "
            f"mean {spread:+.4f} (positive is better)"
        ),
        confidence=_confidence([g for _, g in gains], helps=bool(kept) or stands_out),
        mechanism=best.experiment.hypothesis.rationale,
        implication="go further in this direction" if kept or stands_out else "look elsewhere first",
    )


def _confidence(gains: Iterable[tuple[float, float]], *, helps: bool) -> float:
    """Rough: how far the best (or worst) effect stands out of its error, as a probability."""
    margins = [abs(gain) / error if error else 9.0 for gain, error in gains]
    strongest = max(margins) if helps else min(margins)
    return round(min(0.99, 0.5 + strongest / 8), 2)
