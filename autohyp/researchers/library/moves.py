"""The moves from a champion: catalogue entries, neighbours, second chances, combinations, ablations,
bundles, leaps.

Every function gives candidates, unranked; whether one applies to the source, or was tried before, shows
when it is made into an edit.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from autohyp.records import (
    Brief,
    ConstantsEdit,
    ConstantValue,
    DiffEdit,
    Edit,
    PastExperiment,
    Scalar,
    Verdict,
)
from autohyp.researchers.library.catalogue import CATALOGUE, Effect, KnownHypothesis
from autohyp.researchers.library.effects import Point, Published
from autohyp.researchers.library.past import WITHOUT, Past
from autohyp.researchers.library.space import Dimension, Space, merged, settle, spelled
from autohyp.researchers.library.structural import REWRITES
from autohyp.shapes import SEQUENCE_LEN
from autohyp.source import apply_patch, read_constants, reverse_patch, set_constants, unified_diff

__all__ = [
    "Candidate",
    "Situation",
    "ablations",
    "bundles",
    "catalogue_moves",
    "combinations",
    "leaps",
    "neighbours",
    "published_effects",
]

SourceChange = Callable[[str], str]
DEFAULT_BPB = {"cpu": 2.2, "gpu": 1.0}
"""val_bpb that shares are taken of while nothing is measured."""
CPU_UNCERTAINTY = 4.0
"""A model of a million parameters and two hundred steps is not a GPU's: carry over with this much more
doubt.
"""
MAX_NEAR_MISSES = 6
ONE_OF_A_KIND = frozenset({"batch", "size"})
MAX_BUNDLE = 4
"""More changes at once than this would take too many ablations to explain."""


@dataclass(frozen=True)
class _Patch:
    """A diff as a change of source."""

    patch: str

    def __call__(self, source: str) -> str:
        return apply_patch(source, self.patch)


@dataclass(frozen=True)
class Candidate:
    """A possible hypothesis; `touches` names the constants and structural changes it is about."""

    key: str
    title: str
    rationale: str
    kind: str
    source: str
    point: Point
    touches: frozenset[str]
    overrides: Mapping[str, ConstantValue]
    rewrites: tuple[SourceChange, ...] = ()
    builds_on: tuple[str, ...] = ()
    simplifies: bool = False

    def edit(self, source: str) -> tuple[Edit, str]:
        """The edit for `source` and its result. Raises EditError where it does not apply."""
        result = set_constants(source, self.overrides) if self.overrides else source
        for rewrite in self.rewrites:
            result = rewrite(result)
        if not self.rewrites:
            return ConstantsEdit(overrides=dict(self.overrides)), result
        return DiffEdit(patch=unified_diff(source, result)), result


@dataclass(frozen=True)
class Situation:
    """Where the campaign stands: the champion's constants and point, and the past."""

    constants: Mapping[str, ConstantValue]
    point: Point
    space: Space
    past: Past
    sequence_len: int
    is_cpu: bool

    @classmethod
    def of(cls, brief: Brief) -> Situation:
        """The situation that a brief tells."""
        profile = brief.profile if brief.profile in SEQUENCE_LEN else "gpu"
        past = Past.of(brief, DEFAULT_BPB[profile])
        constants = read_constants(brief.champion_source)
        space = Space.of(constants)
        point = Point(space.coordinates(constants), past.switches(brief.champion_id))
        return cls(constants, point, space, past, SEQUENCE_LEN[profile], profile == "cpu")

    def settled(self, overrides: Mapping[str, ConstantValue]) -> dict[str, ConstantValue]:
        """`overrides` without what the champion has already, and with rows that fit."""
        new = {
            n: value for n, value in overrides.items() if n in self.constants and self.constants[n] != value
        }
        return settle(self.constants, new, self.past.reference, self.sequence_len) if new else {}

    def at(self, overrides: Mapping[str, ConstantValue], switches: frozenset[str] | None = None) -> Point:
        """The point of the champion with `overrides`."""
        coordinates = self.space.coordinates({**self.constants, **overrides})
        return Point(coordinates, self.point.switches if switches is None else switches)


def _touched(overrides: Mapping[str, ConstantValue]) -> frozenset[str]:
    return frozenset(overrides) - {"DEVICE_BATCH_SIZE"} or frozenset(overrides)


def _arrow(name: str, before: ConstantValue, after: ConstantValue) -> str:
    return f"{name} {spelled(before)} to {spelled(after)}"


# ---------------------------------------------------------------------------------------------
# The catalogue


def catalogue_moves(situation: Situation) -> Iterator[Candidate]:
    """Every entry that the champion does not hold yet."""
    for entry in CATALOGUE:
        if entry.rewrite is not None:
            if entry.key not in situation.point.switches:
                yield _rewrite_candidate(situation, entry)
            continue
        overrides = situation.settled(_targets(entry, situation.past.reference))
        if overrides:
            why, source = _entry_rationale(situation, entry), _effect(situation, entry).source
            yield _candidate(situation, entry.key, entry.title, why, entry.kind, overrides, source)


def _targets(entry: KnownHypothesis, reference: Mapping[str, ConstantValue]) -> dict[str, ConstantValue]:
    """An entry's values, from the baseline's; {} where the target lacks the constants."""
    try:
        return entry.change(reference) if entry.change else {}
    except (KeyError, TypeError):
        return {}


def _effect(situation: Situation, entry: KnownHypothesis) -> Effect:
    """An entry's effect for the profile; on the CPU what was measured on a GPU is much less certain."""
    if not situation.is_cpu:
        return entry.effect
    return entry.cpu_effect or replace(entry.effect, sd=entry.effect.sd * CPU_UNCERTAINTY)


def _entry_rationale(situation: Situation, entry: KnownHypothesis) -> str:
    effect = _effect(situation, entry)
    return f"{entry.mechanism} Seen elsewhere: {effect.mean:+.2%} of val_bpb ({effect.source})."


def _rewrite_candidate(situation: Situation, entry: KnownHypothesis) -> Candidate:
    switches = situation.point.switches | {entry.key}
    rewrites: tuple[SourceChange, ...] = (entry.rewrite,) if entry.rewrite else ()
    return Candidate(
        entry.key, entry.title, _entry_rationale(situation, entry), entry.kind, _effect(situation, entry).source,
        situation.at({}, switches), frozenset({entry.key}), {}, rewrites,
    )  # fmt: skip


def _candidate(
    situation: Situation,
    key: str,
    title: str,
    rationale: str,
    kind: str,
    overrides: Mapping[str, ConstantValue],
    source: str = "",
    builds_on: tuple[str, ...] = (),
) -> Candidate:
    return Candidate(
        key, title, rationale, kind, source, situation.at(overrides), _touched(overrides), overrides,
        builds_on=builds_on,
    )  # fmt: skip


def published_effects(situation: Situation) -> Iterator[Published]:
    """The catalogue's effects as differences from the campaign's baseline."""
    reference = Point(situation.space.coordinates(situation.past.reference))
    for entry in CATALOGUE:
        if entry.rewrite is not None:
            after = Point(reference.coordinates, frozenset({entry.key}))
        else:
            targets = _targets(entry, situation.past.reference)
            after = Point(situation.space.coordinates({**situation.past.reference, **targets}))
        if after != reference:
            effect = _effect(situation, entry)
            yield Published(reference, after, effect.mean, effect.sd, entry.kind)


# ---------------------------------------------------------------------------------------------
# Neighbours


def neighbours(situation: Situation) -> Iterator[Candidate]:
    """One constant moved by half a step or a step, either way; text by choice."""
    tried = _tried_moves(situation)
    for dimension in situation.space.dimensions:
        value = dimension.read(situation.constants)
        if value is None:
            continue
        for target in dimension.neighbours(value):
            overrides = situation.settled({dimension.name: dimension.written(target, situation.constants)})
            if overrides:
                why = _neighbour_reason(dimension, value, target, tried.get(dimension.label, ()))
                key = _slug(f"{dimension.label}-{spelled(target)}".lower().replace("**", "to"))
                yield _candidate(situation, key, _arrow(dimension.label, value, target),
                                 f"{_sentence(dimension.mechanism)} {why}", dimension.kind, overrides,
                                 source="neighbourhood of what this campaign measured")  # fmt: skip


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _slug(text: str) -> str:
    kept = "".join(letter if letter.isalnum() else "-" for letter in text)
    return "-".join(part for part in kept.split("-") if part)


@dataclass(frozen=True)
class _Tried:
    """A measured move of one dimension: from, to (in steps) and what it gained in bpb."""

    experiment_id: str
    before: float
    after: float
    gain_bpb: float


def _tried_moves(situation: Situation) -> dict[str, list[_Tried]]:
    """Measured experiments by the one or more dimensions that they moved, oldest first."""
    moves: dict[str, list[_Tried]] = {}
    past = situation.past
    for experiment in past.experiments.values():
        parent = past.experiments.get(experiment.parent_experiment_id or "")
        if parent is None or experiment.gain_bpb is None:
            continue
        for dimension in situation.space.dimensions:
            before, after = dimension.read(parent.constants), dimension.read(experiment.constants)
            if before is not None and after is not None and before != after:
                move = _Tried(experiment.experiment_id, dimension.coordinate(before), dimension.coordinate(after),
                              experiment.gain_bpb)  # fmt: skip
                moves.setdefault(dimension.label, []).append(move)
    return moves


def _neighbour_reason(dimension: Dimension, value: Scalar, target: Scalar, tried: Sequence[_Tried]) -> str:
    """Why this move now, from the last measured move of the same constant."""
    if not tried:
        return "Not measured here yet."
    last = tried[-1]
    here, there = dimension.coordinate(value), dimension.coordinate(target)
    same_way = (there - here) * (last.after - last.before) > 0
    seen = f"{last.experiment_id} gained {last.gain_bpb:+.5f} bpb"
    if last.gain_bpb > 0:
        return f"{seen} this way; go further." if same_way else f"{seen} the other way; go half-way back."
    return f"{seen} this way; go less far." if same_way else f"{seen} the other way; try the opposite."


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
        return _Patch(edit.patch)
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
        key=_slug(("again-" if again else "combine-") + "-".join(_short(e.experiment_id) for e in group)),
        title=f"Again on the new champion: {titles}" if again else f"Together: {titles}",
        rationale=f"Measured as probable gains that did not become the champion ({gains} bpb); "
        + ("the champion has moved since." if again else "they touch different things, so they should add up."),
        kind=group[0].hypothesis.kind if again else "combination",
        source="measured in this campaign",
        point=situation.at(overrides, situation.point.switches | switches),
        touches=_touched(overrides) | switches if overrides else switches,
        overrides=overrides,
        rewrites=tuple(rewrites),
        builds_on=tuple(experiment.experiment_id for experiment in group),
    )  # fmt: skip


def _short(experiment_id: str) -> str:
    """`0007` of `exp-0007-halve-batch`."""
    parts = experiment_id.split("-")
    return parts[1] if len(parts) > 1 else experiment_id


def ablations(situation: Situation) -> Iterator[Candidate]:
    """The champion without one of the changes that were kept."""
    past = situation.past
    for name, value in situation.constants.items():
        before = past.reference.get(name)
        overrides = situation.settled({name: before}) if before is not None and before != value else {}
        if before is not None and name in overrides and name != "DEVICE_BATCH_SIZE":
            yield _candidate(situation, _slug(f"revert-{name.lower()}"), f"Take back {_arrow(name, before, value)}",
                             "Was this part of the kept changes worth anything? It may never have been measured alone.",
                             "ablation", overrides, source="the champion's own history")  # fmt: skip
    for experiment_id in past.lineage:
        experiment = past.experiments[experiment_id]
        edit, own = experiment.hypothesis.edit, past.own_switches(experiment)
        if isinstance(edit, DiffEdit) and len(own) == 1 and own <= situation.point.switches:
            yield Candidate(
                key=WITHOUT + next(iter(own)), title=f"Take back: {experiment.hypothesis.title}",
                rationale=f"If nothing is lost without {experiment_id}, the code is simpler.", kind="ablation",
                source="the champion's own history", point=situation.at({}, situation.point.switches - own),
                touches=own, overrides={}, rewrites=(_Patch(reverse_patch(edit.patch)),),
                builds_on=(experiment_id,), simplifies=True,
            )  # fmt: skip


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
    return _candidate(
        situation, f"bundle-{len(parts)}", titles,
        "Each is a probable gain and they touch different things; one run measures the sum, and ablations find out "
        f"what each is worth. {' '.join(part.rationale for part in parts)}",
        "combination", overrides, source="; ".join(dict.fromkeys(part.source for part in parts)),
        builds_on=tuple(dict.fromkeys(e for part in parts for e in part.builds_on)),
    )  # fmt: skip


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
                _arrow(n, situation.constants[n], value) for n, value in sorted(overrides.items())
            )
            yield _candidate(situation, f"leap-{len(overrides)}", title,
                             "Everything near the champion was tried; several constants at once may lead out.",
                             "leap", overrides, source="random")  # fmt: skip
