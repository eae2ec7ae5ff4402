"""The single moves from a champion: catalogue entries, neighbours, ablations.

Every function gives candidates, unranked; whether one applies to the source, or was tried before, shows
when it is made into an edit. `combining` puts several together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from autohyp.records import (
    Brief,
    ConstantsEdit,
    ConstantValue,
    DiffEdit,
    Edit,
    Scalar,
)
from autohyp.researchers.library.catalogue import CATALOGUE, Effect, KnownHypothesis
from autohyp.researchers.library.effects import Point, Published
from autohyp.researchers.library.past import WITHOUT, Past
from autohyp.researchers.library.space import Dimension, Space, settle, spelled
from autohyp.shapes import SEQUENCE_LEN
from autohyp.source import apply_patch, read_constants, reverse_patch, set_constants, unified_diff

__all__ = [
    "Candidate",
    "Patch",
    "Situation",
    "SourceChange",
    "ablations",
    "arrow",
    "catalogue_moves",
    "constants_candidate",
    "neighbours",
    "published_effects",
    "slug",
    "touched_by",
]

SourceChange = Callable[[str], str]
DEFAULT_BPB = {"cpu": 2.2, "gpu": 1.0}
"""val_bpb that shares are taken of while nothing is measured."""
CPU_UNCERTAINTY = 4.0
"""What a GPU measured says less about a model of a million parameters and two hundred steps."""


@dataclass(frozen=True)
class Patch:
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


def touched_by(overrides: Mapping[str, ConstantValue]) -> frozenset[str]:
    return frozenset(overrides) - {"DEVICE_BATCH_SIZE"} or frozenset(overrides)


def arrow(name: str, before: ConstantValue, after: ConstantValue) -> str:
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
            yield constants_candidate(situation, entry.key, entry.title, why, entry.kind, overrides, source)


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
        entry.key,
        entry.title,
        _entry_rationale(situation, entry),
        entry.kind,
        _effect(situation, entry).source,
        situation.at({}, switches),
        frozenset({entry.key}),
        {},
        rewrites,
    )


def constants_candidate(
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
        key,
        title,
        rationale,
        kind,
        source,
        situation.at(overrides),
        touched_by(overrides),
        overrides,
        builds_on=builds_on,
    )


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
                key = slug(f"{dimension.label}-{spelled(target)}".lower().replace("**", "to"))
                yield constants_candidate(
                    situation,
                    key,
                    arrow(dimension.label, value, target),
                    f"{_sentence(dimension.mechanism)} {why}",
                    dimension.kind,
                    overrides,
                    source="neighbourhood of what this campaign measured",
                )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def slug(text: str) -> str:
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
                move = _Tried(
                    experiment.experiment_id,
                    dimension.coordinate(before),
                    dimension.coordinate(after),
                    experiment.gain_bpb,
                )
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
# Ablations


def ablations(situation: Situation) -> Iterator[Candidate]:
    """The champion without one of the changes that were kept."""
    past = situation.past
    for name, value in situation.constants.items():
        before = past.reference.get(name)
        overrides = situation.settled({name: before}) if before is not None and before != value else {}
        if before is not None and name in overrides and name != "DEVICE_BATCH_SIZE":
            yield constants_candidate(
                situation,
                slug(f"revert-{name.lower()}"),
                f"Take back {arrow(name, before, value)}",
                "Was this part of the kept changes worth anything? It may never have been measured alone.",
                "ablation",
                overrides,
                source="the champion's own history",
            )
    for experiment_id in past.lineage:
        experiment = past.experiments[experiment_id]
        edit, own = experiment.hypothesis.edit, past.own_switches(experiment)
        if isinstance(edit, DiffEdit) and len(own) == 1 and own <= situation.point.switches:
            yield Candidate(
                key=WITHOUT + next(iter(own)),
                title=f"Take back: {experiment.hypothesis.title}",
                rationale=f"If nothing is lost without {experiment_id}, the code is simpler.",
                kind="ablation",
                source="the champion's own history",
                point=situation.at({}, situation.point.switches - own),
                touches=own,
                overrides={},
                rewrites=(Patch(reverse_patch(edit.patch)),),
                builds_on=(experiment_id,),
                simplifies=True,
            )
