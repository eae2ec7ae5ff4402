"""The library researcher: known hypotheses, updated by what this campaign measures. Needs no model and no
network.

A proposal round collects the moves (`moves`), asks the effect model (`effects`) what each would change
against the champion, ranks by expected improvement beyond the noise, and takes the best that applies, can
run and was never tried. What is queued, in flight or already chosen counts as known in advance (its
uncertainty is taken out, its mean stays), and touching the same thing again costs rank, so several workers
get different work. When nothing near is left, random moves of several constants reach further and further:
a campaign never stops for want of ideas.

Stateless: everything follows from the brief, so a restart changes nothing.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from scipy.special import ndtr

from autohyp.errors import EditError
from autohyp.records import Brief, ConstantsEdit, Hypothesis, PastExperiment, Prediction, Verdict
from autohyp.researchers.base import known_fingerprints, seeded_rng
from autohyp.researchers.library import combining, moves
from autohyp.researchers.library.effects import Array, Belief, EffectModel, Point, expected_improvement
from autohyp.researchers.library.moves import Candidate, Situation
from autohyp.researchers.library.past import hypothesis_key
from autohyp.researchers.library.structural import REWRITES
from autohyp.shapes import shape_problems
from autohyp.source import fingerprint

__all__ = ["LibraryResearcher"]

PROFILE_SCALE = {"cpu": 5.0, "gpu": 1.0}
"""How large effects are compared with the GPU profile's, before this campaign has measured any."""
DEFAULT_NOISE_SHARE = {"cpu": 0.004, "gpu": 0.0005}
PROBABLE_GAIN_Z = 0.25
"""A part of a bundle must be a gain by this many of its standard deviations: with a probability of 0.6."""
SAME_THING_AGAIN = 0.25
"""What the rank of a candidate is multiplied by for each thing that a pending one touches too."""
SIMPLER_BONUS_NOISE = 0.25
"""What simpler code is worth, in noise deviations, times the probability that it loses nothing."""
MARGIN_NOISE = 2.0
"""A gain counts from this many noise deviations on: smaller ones are hardly ever kept."""
MAX_PENDING_KNOWN = 64
"""So many pending hypotheses are taken into account; beyond that, only by what they touch."""
LEAPS_PER_ROUND = 64
LEAP_ROUNDS = 24


class LibraryResearcher:
    """Proposes from the catalogue and from what the campaign has measured. See the module's description."""

    def __init__(self, name: str = "library") -> None:
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    def observe(self, experiment: PastExperiment) -> None:
        """Nothing to do: the next brief's history holds it."""

    def propose(self, brief: Brief, n: int) -> list[Hypothesis]:
        """At most `n` new hypotheses for the brief's champion, best first; [] only if train.py has no
        constants.
        """
        return _Round(brief, self._name).propose(n) if n > 0 else []


class _Round:
    """One call of `propose`."""

    def __init__(self, brief: Brief, name: str) -> None:
        self._brief, self._name = brief, name
        situation = Situation.of(brief)
        self._situation, past, space = situation, situation.past, situation.space
        profile = "cpu" if situation.is_cpu else "gpu"
        noise = brief.noise.sd_bpb / past.reference_bpb if brief.noise else DEFAULT_NOISE_SHARE[profile]
        self._noise = max(noise, 1e-6)
        scale = PROFILE_SCALE[profile]
        self._model = EffectModel(
            space,
            Point(space.coordinates(past.reference)),
            list(moves.published_effects(situation)),
            past.measured(space, self._noise, scale),
            scale,
        )
        self._known = known_fingerprints(brief)
        self._refused = {title for title, _ in brief.refused} | {h.title for h in brief.queued}
        self._unusable = past.unusable_switches()
        self._chosen: list[Hypothesis] = []

    def propose(self, n: int) -> list[Hypothesis]:
        candidates = self._candidates()
        self._choose(candidates, n)
        rng = seeded_rng(self._brief, self._name)
        for round_number in range(LEAP_ROUNDS):
            if len(self._chosen) >= n:
                break
            self._choose(self._leaps(rng, 1.0 + 0.5 * round_number), n)
        return self._chosen

    # -- candidates ----------------------------------------------------------------------------

    def _candidates(self) -> list[Candidate]:
        situation = self._situation
        single = self._usable(
            [
                *moves.catalogue_moves(situation),
                *moves.neighbours(situation),
                *combining.combinations(situation),
                *moves.ablations(situation),
            ]
        )
        return [*single, *self._usable(combining.bundles(situation, self._probable_gains(single)))]

    def _usable(self, candidates: Iterable[Candidate]) -> list[Candidate]:
        """Without what was refused, failed before, breaks a rule of shapes, or says what one before it
        said.
        """
        constants, length = self._situation.constants, self._situation.sequence_len
        first: dict[tuple[object, ...], Candidate] = {}
        for candidate in candidates:
            first.setdefault(
                (candidate.point, *sorted(candidate.overrides.items()), candidate.rewrites), candidate
            )
        return [
            candidate
            for candidate in first.values()
            if candidate.title not in self._refused
            and not candidate.touches & self._unusable
            and not shape_problems({**constants, **candidate.overrides}, length)
        ]

    def _probable_gains(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Single moves that are probably better and not under suspicion, largest expected gain first."""
        belief = self._believe(candidates)
        surely = -belief.mean / belief.sd
        suspects = self._situation.past.suspects(self._noise)
        probable = [
            index
            for index, candidate in enumerate(candidates)
            if surely[index] >= PROBABLE_GAIN_Z and not candidate.touches & suspects
        ]
        probable.sort(key=lambda index: (belief.mean[index], candidates[index].key))
        return [candidates[index] for index in probable]

    def _leaps(self, rng: random.Random, reach_steps: float) -> list[Candidate]:
        return self._usable(combining.leaps(self._situation, rng, LEAPS_PER_ROUND, reach_steps))

    # -- choice --------------------------------------------------------------------------------

    def _believe(self, candidates: Sequence[Candidate]) -> Belief:
        return self._model.differences(self._situation.point, [candidate.point for candidate in candidates])

    def _pending(self) -> Iterator[tuple[Point, frozenset[str]]]:
        """What is queued, in flight, or chosen in this round: where it lies and what it touches."""
        past, situation = self._situation.past, self._situation
        for experiment in past.experiments.values():
            if experiment.verdict in {None, Verdict.REPLICATE} and experiment.hypothesis.edit is not None:
                changes = past.changes(experiment)
                own = past.own_switches(experiment) & REWRITES.keys()
                yield situation.at(changes, situation.point.switches | own), frozenset(changes) | own
        for hypothesis in (*self._brief.queued, *self._chosen):
            changes = dict(hypothesis.edit.overrides) if isinstance(hypothesis.edit, ConstantsEdit) else {}
            changes = {name: value for name, value in changes.items() if name in situation.constants}
            own = frozenset({hypothesis_key(hypothesis.hypothesis_id)}) & REWRITES.keys()
            yield situation.at(changes, situation.point.switches | own), frozenset(changes) | own

    def _choose(self, candidates: Sequence[Candidate], n: int) -> None:
        """Add the best candidates to the chosen, one after another, each knowing those before it."""
        if not candidates or len(self._chosen) >= n:
            return
        pending = list(self._pending())[-MAX_PENDING_KNOWN:]
        points = [candidate.point for candidate in candidates] + [point for point, _ in pending]
        belief = self._model.differences(self._situation.point, points)
        sd_alone = belief.sd
        rank = np.ones(len(candidates))
        for index, (_, touched) in enumerate(pending, start=len(candidates)):
            belief.know(index, self._noise)
            rank *= _rank_factors(candidates, touched)
        left = set(range(len(candidates)))
        while left and len(self._chosen) < n:
            scores = self._scores(candidates, belief) * rank
            best = max(left, key=lambda index: (scores[index], -index))
            left.discard(best)
            if self._add(
                candidates[best], float(belief.mean[best]), float(sd_alone[best]), float(scores[best])
            ):
                if len(self._chosen) < MAX_PENDING_KNOWN:
                    belief.know(best, self._noise)
                rank *= _rank_factors(candidates, candidates[best].touches)

    def _scores(self, candidates: Sequence[Candidate], belief: Belief) -> Array:
        """Expected improvement beyond the noise, as a share of val_bpb, and a little for simpler code.

        Times the root of its probability: far moves promise much improvement rarely, and a campaign has few
        runs.
        """
        mean, sd = belief.mean[: len(candidates)], belief.sd[: len(candidates)]
        margin = MARGIN_NOISE * self._noise
        scores = expected_improvement(mean, sd, margin) * np.sqrt(ndtr((-mean - margin) / sd))
        simplifies = np.array([candidate.simplifies for candidate in candidates])
        loses_nothing = ndtr((self._noise - mean) / sd)
        return np.asarray(scores + simplifies * SIMPLER_BONUS_NOISE * self._noise * loses_nothing)

    def _add(self, candidate: Candidate, mean: float, sd: float, score: float) -> bool:
        """Make a candidate a hypothesis, unless it does not apply or the program is known."""
        try:
            edit, result = candidate.edit(self._brief.champion_source)
            program = fingerprint(result)
        except EditError:
            return False
        if program in self._known:
            return False
        self._known.add(program)
        bpb = self._situation.past.reference_bpb
        self._chosen.append(
            Hypothesis(
                hypothesis_id=f"lib-{candidate.key[:48]}-{program[:8]}",
                title=candidate.title,
                rationale=candidate.rationale,
                prediction=Prediction(delta_bpb=round(mean * bpb, 6), sd_bpb=max(round(sd * bpb, 6), 1e-6)),
                edit=edit,
                kind=candidate.kind,
                researcher=self._name,
                source=candidate.source,
                builds_on=candidate.builds_on,
                priority=round(score * bpb, 9),
            )
        )
        return True


def _rank_factors(candidates: Sequence[Candidate], touched: frozenset[str]) -> Array:
    """What a pending hypothesis that touches `touched` does to the rank of each candidate."""
    return np.array([SAME_THING_AGAIN ** len(candidate.touches & touched) for candidate in candidates])
