"""The library researcher: catalogue, effect model, moves, and that it finds what chance does not."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest

from autohyp.config import CPU_CONSTANTS
from autohyp.errors import EditError
from autohyp.records import Brief, ConstantsEdit, DiffEdit, Hypothesis, PastExperiment, Verdict
from autohyp.researchers import RandomResearcher
from autohyp.researchers.library import CATALOGUE, LibraryResearcher
from autohyp.researchers.library.effects import EffectModel, Measured, Point, Published, expected_improvement
from autohyp.researchers.library.moves import Candidate, Situation, ablations, catalogue_moves
from autohyp.researchers.library.past import hypothesis_key
from autohyp.researchers.library.space import DIMENSIONS, Space, settle
from autohyp.researchers.library.structural import REWRITES
from autohyp.shapes import shape_problems
from autohyp.source import apply_edit, fingerprint, line_count, read_constants, set_constants
from autohyp.testing.researcher_contract import PaperCampaign, Target, past_experiment
from autohyp.testing.search_game import TOY_SOURCE, Bowl, SearchGame

TRAIN = Path(__file__).parents[2].joinpath("train_template", "train.py").read_text(encoding="utf-8")
CPU_TRAIN = set_constants(TRAIN, CPU_CONSTANTS)
SPACE = Space.of(read_constants(TRAIN))
START = Point(SPACE.coordinates(read_constants(TRAIN)))


def _at(**overrides: float) -> Point:
    return Point(SPACE.coordinates({**read_constants(TRAIN), **overrides}))


# -- catalogue ---------------------------------------------------------------------------------


def test_the_catalogue_is_large_and_complete() -> None:
    assert len(CATALOGUE) >= 40
    assert len({entry.key for entry in CATALOGUE}) == len(CATALOGUE)
    assert len({entry.title for entry in CATALOGUE}) == len(CATALOGUE)
    assert {entry.key for entry in CATALOGUE if entry.rewrite} == set(REWRITES)
    for entry in CATALOGUE:
        assert (entry.change is None) != (entry.rewrite is None)
        assert re.fullmatch(r"[a-z0-9-]+", entry.key)
        assert all((entry.title, entry.mechanism, entry.kind, entry.effect.source))
        assert entry.effect.sd > 0


@pytest.mark.parametrize(("source", "length"), [(TRAIN, 2048), (CPU_TRAIN, 256)], ids=["gpu", "cpu"])
@pytest.mark.parametrize("entry", [e for e in CATALOGUE if e.change], ids=lambda entry: entry.key)
def test_constants_entries_make_sense_on_both_profiles(entry, source: str, length: int) -> None:  # type: ignore[no-untyped-def]
    constants = read_constants(source)
    targets = entry.change(constants)
    assert any(constants[name] != value for name, value in targets.items())
    settled = settle(constants, targets, constants, length)
    changed = set_constants(source, settled)
    assert shape_problems(read_constants(changed), length) == []


@pytest.mark.parametrize("key", REWRITES)
def test_rewrites_fit_the_template_once(key: str) -> None:
    rewritten = REWRITES[key](TRAIN)
    assert fingerprint(rewritten) != fingerprint(TRAIN)
    assert abs(line_count(rewritten) - line_count(TRAIN)) <= 4
    with pytest.raises(EditError, match="the code to change is not there"):
        REWRITES[key]("x = 1\n")


def test_a_rewrite_refuses_an_ambiguous_place() -> None:
    with pytest.raises(EditError, match="is there 2 times"):
        REWRITES["z-loss"](TRAIN + TRAIN)


# -- dimensions --------------------------------------------------------------------------------


@pytest.mark.parametrize("dimension", DIMENSIONS, ids=lambda dimension: dimension.label)
def test_neighbours_are_near_and_in_range(dimension) -> None:  # type: ignore[no-untyped-def]
    value = dimension.read(read_constants(TRAIN))
    assert value is not None
    targets = dimension.neighbours(value)
    assert targets
    assert value not in targets
    if dimension.scale != "pattern":
        assert all(dimension.low <= target <= dimension.high for target in targets)
        near = [abs(dimension.coordinate(t) - dimension.coordinate(value)) for t in targets]
        assert max(near) <= 2.01


def test_an_unknown_positive_real_is_searched_too() -> None:
    space = Space.of({"MY_KNOB": 0.3, "COUNT": 3, "NAME": "x"})
    assert [dimension.name for dimension in space.dimensions] == ["MY_KNOB"]


def test_rows_follow_the_batch_and_the_size() -> None:
    constants = read_constants(TRAIN)
    assert settle(constants, {"TOTAL_BATCH_SIZE": 2**17}, constants, 2048)["DEVICE_BATCH_SIZE"] == 64
    assert settle(constants, {"ASPECT_RATIO": 128}, constants, 2048)["DEVICE_BATCH_SIZE"] == 64
    assert "DEVICE_BATCH_SIZE" not in settle(constants, {"MATRIX_LR": 0.1}, constants, 2048)


# -- effects -----------------------------------------------------------------------------------


def _mean(model: EffectModel, point: Point) -> float:
    return float(model.differences(START, [point]).mean[0])


def test_a_published_effect_is_believed_until_measured() -> None:
    published = [Published(START, _at(MATRIX_LR=0.06), -0.004, 0.001, "learning rate")]
    before = EffectModel(SPACE, START, published, [])
    assert _mean(before, _at(MATRIX_LR=0.06)) < -0.002
    measured = [Measured(START, 0.0, 0.0001), Measured(_at(MATRIX_LR=0.06), 0.003, 0.0001)]
    after = EffectModel(SPACE, START, published, measured)
    assert _mean(after, _at(MATRIX_LR=0.06)) == pytest.approx(0.003, abs=0.001)


def test_a_gain_makes_the_next_step_likely_and_a_loss_its_opposite() -> None:
    further, opposite = _at(MATRIX_LR=0.075), _at(MATRIX_LR=0.03)
    nothing = EffectModel(SPACE, START, [], [Measured(START, 0.0, 0.0003)])
    gain = EffectModel(
        SPACE, START, [], [Measured(START, 0.0, 0.0003), Measured(_at(MATRIX_LR=0.06), -0.004, 0.0003)]
    )
    loss = EffectModel(
        SPACE, START, [], [Measured(START, 0.0, 0.0003), Measured(_at(MATRIX_LR=0.06), 0.006, 0.0003)]
    )
    assert _mean(gain, further) < _mean(gain, _at(MATRIX_LR=0.06)) + 0.001 < _mean(nothing, further)
    assert _mean(loss, opposite) < _mean(nothing, opposite)


def test_a_kind_that_disappoints_is_trusted_less() -> None:
    published = [
        Published(START, _at(MATRIX_LR=0.06), -0.004, 0.003, "learning rate"),
        Published(START, _at(SCALAR_LR=0.75), -0.004, 0.003, "learning rate"),
        Published(START, _at(X0_INIT=0.15), -0.004, 0.003, "initialisation"),
    ]
    measured = [Measured(START, 0.0, 0.0003), Measured(_at(MATRIX_LR=0.06), 0.006, 0.0003)]
    before, after = EffectModel(SPACE, START, published, []), EffectModel(SPACE, START, published, measured)
    same_kind = _mean(after, _at(SCALAR_LR=0.75)) - _mean(before, _at(SCALAR_LR=0.75))
    other_kind = _mean(after, _at(X0_INIT=0.15)) - _mean(before, _at(X0_INIT=0.15))
    assert same_kind > other_kind + 1e-5


def test_independent_gains_add_up() -> None:
    one, other, both = _at(MATRIX_LR=0.06), _at(X0_INIT=0.05), _at(MATRIX_LR=0.06, X0_INIT=0.05)
    measured = [Measured(START, 0.0, 0.0003), Measured(one, -0.003, 0.0003), Measured(other, -0.002, 0.0003)]
    assert _mean(EffectModel(SPACE, START, [], measured), both) == pytest.approx(-0.005, abs=0.0012)


def test_knowing_a_point_takes_its_uncertainty_out() -> None:
    model = EffectModel(SPACE, START, [], [Measured(START, 0.0, 0.0003)])
    belief = model.differences(START, [_at(MATRIX_LR=0.06), _at(MATRIX_LR=0.055), _at(X0_INIT=0.05)])
    before = belief.sd
    belief.know(0, 0.0001)
    assert belief.sd[0] < 0.1 * before[0]
    assert belief.sd[1] < 0.5 * before[1]
    assert belief.sd[2] == pytest.approx(before[2], rel=0.1)


def test_know_agrees_with_conditioning_on_a_measurement() -> None:
    """The shortcut for pending points against the model refitted with them as data."""
    points = [_at(MATRIX_LR=0.06), _at(MATRIX_LR=0.05), _at(X0_INIT=0.05)]
    start = [Measured(START, 0.0, 1e-5)]
    belief = EffectModel(SPACE, START, [], start).differences(START, points)
    expected = float(belief.mean[0])
    belief.know(0, 0.0005)
    refitted = EffectModel(SPACE, START, [], [*start, Measured(points[0], expected, 0.0005)])
    np.testing.assert_allclose(belief.sd, refitted.differences(START, points).sd, rtol=0.02)
    np.testing.assert_allclose(belief.mean, refitted.differences(START, points).mean, atol=2e-6)


def test_expected_improvement() -> None:
    mean, sd = np.array([-0.01, 0.0, 0.01]), np.full(3, 0.001)
    improvement = expected_improvement(mean, sd, 0.0)
    assert improvement == pytest.approx([0.01, 0.001 * 0.39894, 0.0], abs=1e-6)


def test_scale_follows_what_is_measured() -> None:
    rates = {name: value for name, value in read_constants(TRAIN).items() if name.endswith("_LR")}

    def scale(effect: float) -> float:
        points = [_at(**{name: float(value) * 1.5}) for name, value in rates.items()]  # type: ignore[arg-type]
        more = [_at(**{name: float(value) / 1.5}) for name, value in rates.items()]  # type: ignore[arg-type]
        signed = [effect * (-1) ** index for index in range(8)]
        data = [Measured(p, e, 0.0002) for p, e in zip([*points, *more], signed, strict=True)]
        return EffectModel(SPACE, START, [], [Measured(START, 0.0, 0.0002), *data]).scale

    assert scale(0.0001) < 1 < scale(0.006)


# -- moves -------------------------------------------------------------------------------------


def _moves(campaign: PaperCampaign) -> dict[str, Candidate]:
    """Every catalogue entry and ablation that the champion allows, by key."""
    situation = Situation.of(campaign.brief())
    return {candidate.key: candidate for candidate in [*catalogue_moves(situation), *ablations(situation)]}


def _hypothesis(campaign: PaperCampaign, key: str) -> Hypothesis:
    candidate = _moves(campaign)[key]
    edit, result = candidate.edit(campaign.champion_source)
    return Hypothesis(
        hypothesis_id=f"lib-{key}-{fingerprint(result)[:8]}",
        title=candidate.title,
        rationale=candidate.rationale,
        edit=edit,
        kind=candidate.kind,
        researcher="library",
        builds_on=candidate.builds_on,
    )


def _decide(campaign: PaperCampaign, key: str, gain_bpb: float) -> PastExperiment:
    """Run a proposal with a given gain; a gain above the noise makes it the champion."""
    hypothesis = _hypothesis(campaign, key)
    source = apply_edit(campaign.champion_source, hypothesis.edit)
    experiment = past_experiment(len(campaign.history) + 1, hypothesis, source, campaign.champion, gain_bpb)
    campaign.history.append(experiment)
    if experiment.verdict is Verdict.KEEP:
        campaign.champion, campaign.champion_source = experiment, source
    return experiment


def test_a_win_is_followed_further_and_can_be_taken_back() -> None:
    campaign = PaperCampaign(Target(TOY_SOURCE))
    _decide(campaign, "matrix-lr-up", 0.01)
    proposed = LibraryResearcher().propose(campaign.brief(), 60)
    by_title = {h.title: h for h in proposed}
    assert "go further" in by_title["MATRIX_LR 0.06 to 0.09"].rationale
    assert by_title["MATRIX_LR 0.06 to 0.09"].priority > by_title["SCALAR_LR 0.5 to 0.75"].priority
    assert "Take back MATRIX_LR 0.04 to 0.06" not in by_title, "that is the baseline's program"


def test_a_near_miss_comes_back_on_a_new_champion() -> None:
    campaign = PaperCampaign(Target(TOY_SOURCE))
    miss = _decide(campaign, "quieter-x0", 0.002)
    other = _decide(campaign, "smaller-init", 0.002)
    assert miss.verdict is other.verdict is Verdict.DISCARD
    _decide(campaign, "matrix-lr-up", 0.01)
    proposed = LibraryResearcher().propose(campaign.brief(), 60)
    together = [h for h in proposed if set(h.builds_on) == {miss.experiment_id, other.experiment_id}]
    assert len(together) == 1
    assert isinstance(together[0].edit, ConstantsEdit)
    assert together[0].edit.overrides == {"X0_INIT": 0.05, "INIT_SCALE": 0.7}


def test_structural_changes_combine_and_come_back_out() -> None:
    campaign = PaperCampaign(Target(TRAIN))
    first = _decide(campaign, "sharper-queries", 0.01)
    second = _decide(campaign, "smeared-input", 0.01)
    assert "1.2 * normalise" in campaign.champion_source
    assert "sharper-queries" not in _moves(campaign)
    ablation = _hypothesis(campaign, "without-sharper-queries")
    assert ablation.builds_on == (first.experiment_id,)
    assert isinstance(ablation.edit, DiffEdit)
    assert apply_edit(campaign.champion_source, ablation.edit) == REWRITES["smeared-input"](TRAIN)
    assert second.parent_experiment_id == first.experiment_id


def test_a_crashed_rewrite_is_not_proposed_again() -> None:
    campaign = PaperCampaign(Target(TRAIN))
    crash = _decide(campaign, "gated-heads", 0.0)
    campaign.history[-1] = crash.model_copy(
        update={"verdict": Verdict.CRASH, "mean_bpb": None, "gain_bpb": None}
    )
    _decide(campaign, "matrix-lr-up", 0.01)
    proposed = LibraryResearcher().propose(campaign.brief(), 40)
    assert not any(hypothesis_key(h.hypothesis_id) == "gated-heads" for h in proposed)
    brief = campaign.brief().model_copy(
        update={"history": tuple(campaign.history[:1] + campaign.history[2:])}
    )
    proposed = LibraryResearcher().propose(brief, 40)
    assert any(hypothesis_key(h.hypothesis_id) == "gated-heads" for h in proposed), "it would have been"


def test_several_workers_get_different_work() -> None:
    proposed = LibraryResearcher().propose(PaperCampaign(Target(TRAIN)).brief(), 6)
    touched = [set(h.edit.overrides) if isinstance(h.edit, ConstantsEdit) else {h.title} for h in proposed]
    repeats = sum(len(names) for names in touched) - len(set().union(*touched))
    assert repeats <= 3, touched


def test_predictions_are_in_bpb_and_the_best_comes_first() -> None:
    proposed = LibraryResearcher().propose(PaperCampaign(Target(TRAIN)).brief(), 5)
    assert proposed[0].prediction is not None
    assert -0.05 < proposed[0].prediction.delta_bpb < -0.005
    assert proposed[0].priority == max(h.priority for h in proposed)


def test_before_anything_is_measured() -> None:
    brief = Brief(
        tag="new",
        objective="",
        constraints=(),
        profile="cpu",
        champion_id=None,
        champion_source=CPU_TRAIN,
        champion_bpb=None,
        baseline_bpb=None,
        noise=None,
    )
    assert len(LibraryResearcher().propose(brief, 2)) == 2


# -- finding -----------------------------------------------------------------------------------


def test_it_finds_what_chance_does_not() -> None:
    """Bowls whose bottom has nothing to do with the catalogue: 30 runs each, share of the way left to go."""

    def left(make: type[LibraryResearcher] | type[RandomResearcher], seed: int) -> float:
        bowl = Bowl.drawn(seed)
        start = bowl.value(read_constants(TOY_SOURCE))
        return (SearchGame(make(), bowl, seed).play(30)[-1] - bowl.floor_bpb) / (start - bowl.floor_bpb)

    seeds = range(5)
    library = [left(LibraryResearcher, seed) for seed in seeds]
    chance = [left(RandomResearcher, seed) for seed in seeds]
    assert fmean(library) < 0.7 * fmean(chance)
    assert sum(a < b for a, b in zip(library, chance, strict=True)) >= 4
