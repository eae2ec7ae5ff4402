"""Several changes at once: second chances and combinations of near-misses, bundles of probable gains, leaps.

Combinations rest on this campaign's measurements, bundles on what the effect model believes, leaps on chance.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence

from autohyp.records import ConstantsEdit, ConstantValue, DiffEdit, PastExperiment, Verdict
from autohyp.researchers.library.moves import (
    Candidate,
    Patch,
    Situation,
    SourceChange,
    arrow,
    constants_candidate,
    slug,
    touched_by,
)
from autohyp.researchers.library.past import Past
from autohyp.researchers.library.space import merged
from autohyp.researchers.library.structural import REWRITES

__all__ = ["bundles", "combinations", "leaps"]

MAX_NEAR_MISSES = 6
ONE_OF_A_KIND = frozenset({"batch", "size"})
"""Kinds of which a bundle holds one change at most: two of them do not add up."""
MAX_BUNDLE = 4
"""More changes at once than this would take too many ablations to explain."""


# ---------------------------------------------------------------------------------------------
# What was measured before, again


def _near_misses(situation: Situation) -> list[PastExperiment]:
    """Measured gains that did not become part of the champion, most certain first."""
    past = situation.past
    found = [
        experiment
        for experiment in past.experiments.values()
        if experiment.experiment_id not in past.lineage
        and experiment.verdict in {Verdict.DISCARD, Verdict.KEEP}
        and (experiment.gain_bpb or 0) > 0
    ]
    certain = {e.experiment_id: (e.gain_bpb or 0) / (e.gain_sd_bpb or 1.0) for e in found}
    found.sort(key=lambda experiment: (-certain[experiment.experiment_id], experiment.experiment_id))
    return found[:MAX_NEAR_MISSES]


def _code_change(experiment: PastExperiment, past: Past) -> SourceChange | None:
    """How an experiment's change of code is made again on another source; None if that cannot be."""
    own = past.own_switches(experiment)
    if len(own) == 1 and next(iter(own)) in REWRITES:
        return REWRITES[next(iter(own))]
    edit = experiment.hypothesis.edit
    if isinstance(edit, DiffEdit):
        return Patch(edit.patch)
    return None


def combinations(situation: Situation) -> Iterator[Candidate]:
    """Near-misses on the new champion, alone and together."""
    misses = _near_misses(situation)
    yield from (candidate for miss in misses if (candidate := _together(situation, (miss,))))
    for size in (2, 3):
        for group in itertools.combinations(misses[: 6 if size == 2 else 4], size):
            if candidate := _together(situation, group):
                yield candidate


def _together(situation: Situation, group: Sequence[PastExperiment]) -> Candidate | None:
    """One candidate of several experiments' changes, or None if they are at odds or already in."""
    past = situation.past
    parts = [(past.changes(experiment), past.own_switches(experiment), experiment) for experiment in group]
    named = [frozenset(changes) | switches for changes, switches, _ in parts]
    if any(first & second for first, second in itertools.combinations(named, 2)):
        return None
    rewrites: list[SourceChange] = []
    switches: frozenset[str] = frozenset()
    overrides: dict[str, ConstantValue] = {}
    for changes, own, experiment in parts:
        new_code = own - situation.point.switches
        if isinstance(experiment.hypothesis.edit, ConstantsEdit):
            changes = situation.settled(changes)
        elif (rewrite := _code_change(experiment, past)) and new_code:
            rewrites.append(rewrite)
            switches |= new_code
            changes = {}
        else:
            return None
        overrides.update(changes)
    if not overrides and not rewrites:
        return None
    titles = " + ".join(experiment.hypothesis.title for experiment in group)
    gains = ", ".join(f"{e.experiment_id} {e.gain_bpb or 0:+.5f}" for e in group)
    again = len(group) == 1
    return Candidate(
        key=slug(("again-" if again else "combine-") + "-".join(_short(e.experiment_id) for e in group)),
        title=f"Again on the new champion: {titles}" if again else f"Together: {titles}",
        rationale=f"Measured as probable gains that did not become the champion ({gains} bpb); "
        + (
            "the champion has moved since."
            if again
            else "they touch different things, so they should add up."
        ),
        kind=group[0].hypothesis.kind if again else "combination",
        source="measured in this campaign",
        point=situation.at(overrides, situation.point.switches | switches),
        touches=touched_by(overrides) | switches if overrides else switches,
        overrides=overrides,
        rewrites=tuple(rewrites),
        builds_on=tuple(experiment.experiment_id for experiment in group),
    )


def _short(experiment_id: str) -> str:
    """`0007` of `exp-0007-halve-batch`."""
    parts = experiment_id.split("-")
    return parts[1] if len(parts) > 1 else experiment_id


# ---------------------------------------------------------------------------------------------
# Several at once


def bundles(situation: Situation, ranked: Iterable[Candidate]) -> Iterator[Candidate]:
    """The best changes of constants that touch different things, two to `MAX_BUNDLE` at once.

    `ranked` are probable gains, best first. Learning rates and batch act together, but only as strongly as
    the effect model's joint term says.
    """
    chosen: list[Candidate] = []
    for candidate in ranked:
        if candidate.rewrites or candidate.builds_on or candidate.kind == "ablation":
            continue
        if any(_at_odds(candidate, other) for other in chosen):
            continue
        chosen.append(candidate)
        if len(chosen) >= 2:
            yield _bundle(situation, chosen)
        if len(chosen) == MAX_BUNDLE:
            return


def _at_odds(first: Candidate, second: Candidate) -> bool:
    """Whether two changes touch the same thing, or are two changes of the model's size or of the batch."""
    alone = first.kind == second.kind and first.kind in ONE_OF_A_KIND
    return alone or bool(first.touches & second.touches)


def _bundle(situation: Situation, parts: Sequence[Candidate]) -> Candidate:
    overrides = situation.settled(merged(*(part.overrides for part in parts)))
    titles = "; ".join(part.title for part in parts)
    return constants_candidate(
        situation,
        f"bundle-{len(parts)}",
        titles,
        "Each is a probable gain and they touch different things; one run measures the sum, ablations "
        f"find out what each is worth. {' '.join(part.rationale for part in parts)}",
        "combination",
        overrides,
        source="; ".join(dict.fromkeys(part.source for part in parts)),
        builds_on=tuple(dict.fromkeys(e for part in parts for e in part.builds_on)),
    )


def leaps(situation: Situation, rng: random.Random, count: int, reach_steps: float) -> Iterator[Candidate]:
    """Random moves of two to four constants at once, for when everything near was tried."""
    dimensions = [d for d in situation.space.dimensions if d.read(situation.constants) is not None]
    for _ in range(count if dimensions else 0):
        chosen = rng.sample(dimensions, min(len(dimensions), rng.randint(2, 4)))
        overrides: dict[str, ConstantValue] = {}
        for dimension in chosen:
            value = dimension.read(situation.constants)
            if value is None:
                continue
            moved = dimension.moved(value, rng.gauss(0, reach_steps)) if not dimension.choices else None
            target = rng.choice(dimension.choices) if dimension.choices else moved
            if target is not None:
                overrides[dimension.name] = dimension.written(target, {**situation.constants, **overrides})
        overrides = situation.settled(overrides)
        if overrides:
            title = ", ".join(
                arrow(n, situation.constants[n], value) for n, value in sorted(overrides.items())
            )
            yield constants_candidate(
                situation,
                f"leap-{len(overrides)}",
                title,
                "Everything near the champion was tried; several constants at once may lead out.",
                "leap",
                overrides,
                source="random",
            )
