"""Decisions against numbers worked out by hand."""

from __future__ import annotations

import math
import random
from statistics import NormalDist

import pytest

from autohyp.config import DecisionConfig
from autohyp.policies.decide import Evidence, Standing, decide, gain_between, pooled_noise, seeds_from
from autohyp.records import Decision, NoiseFloor, RunStatus, Verdict
from autohyp.testing.fakes import make_result, make_run

POLICY = DecisionConfig()
NOISE = NoiseFloor(sd_bpb=0.001, degrees_of_freedom=2)
WELL_KNOWN = NoiseFloor(sd_bpb=0.001, degrees_of_freedom=60)
EVEN = Standing("exp-0001", dict.fromkeys(range(8), 1.8))
CHAMPION = Standing("exp-0001", {42: 1.800, 43: 1.801, 44: 1.799})


def judge(
    scores: dict[int, float],
    *,
    champion: Standing | None = CHAMPION,
    noise: NoiseFloor | None = NOISE,
    line_delta: int = 0,
    policy: DecisionConfig = POLICY,
    number: int = 1,
    kept: tuple[int, ...] = (),
) -> Decision:
    results = [make_result(make_run("exp-0002", seed), score) for seed, score in scores.items()]
    return decide(Evidence("exp-0002", results, champion, noise, line_delta, 42, number, kept), policy)


# Noise ---------------------------------------------------------------------------------------


def test_noise_is_pooled_within_experiments() -> None:
    # {1, 2, 3}: squares 2 over 2 degrees; {5, 7}: squares 2 over 1; single runs tell nothing.
    noise = pooled_noise([{1: 1.0, 2: 2.0, 3: 3.0}, {1: 5.0, 2: 7.0}, {1: 100.0}, {}])
    assert noise is not None
    assert noise.sd_bpb == pytest.approx(math.sqrt(4 / 3))
    assert noise.degrees_of_freedom == 3


def test_without_repeated_runs_there_is_no_noise_floor() -> None:
    assert pooled_noise([]) is None
    assert pooled_noise([{1: 1.0}, {1: 2.0}]) is None


def test_the_pooled_noise_finds_the_true_deviation() -> None:
    draw = random.Random(0)
    noise = pooled_noise([{seed: draw.gauss(1.8, 0.002) for seed in range(3)} for _ in range(500)])
    assert noise is not None
    assert noise.sd_bpb == pytest.approx(0.002, rel=0.05)
    assert noise.degrees_of_freedom == 1000


def test_a_gain_has_the_error_of_both_means() -> None:
    gain, error = gain_between(CHAMPION, Standing("exp-0002", {42: 1.79, 43: 1.78}), NOISE)
    assert gain == pytest.approx(0.015)
    assert error == pytest.approx(0.001 * math.sqrt(1 / 3 + 1 / 2))


# The threshold -------------------------------------------------------------------------------

# One-sided quantiles of Student's t from published tables (Fisher & Yates).
T_TABLE = {(1, 0.01): 31.821, (2, 0.01): 6.965, (2, 0.005): 9.925, (10, 0.01): 2.764, (1000, 0.01): 2.330}
FIRST_SHARE = 0.5 * 0.0722 * math.log(2)
"""Of the rate, for the first comparison."""


@pytest.mark.parametrize(("degrees", "level"), T_TABLE)
def test_the_threshold_is_the_t_quantile_times_the_error(degrees: int, level: float) -> None:
    noise = NoiseFloor(sd_bpb=0.001, degrees_of_freedom=degrees)
    policy = DecisionConfig(false_keep_rate=level / FIRST_SHARE, max_runs=1)
    decision = judge({42: 1.75}, noise=noise, policy=policy)
    assert decision.level == pytest.approx(level)
    # One run against three: 0.001 * sqrt(1 + 1/3) = 0.0011547
    assert decision.gain_sd_bpb == pytest.approx(0.0011547, rel=1e-4)
    assert decision.threshold_bpb == pytest.approx(T_TABLE[degrees, level] * 0.0011547, rel=3e-4)


def test_a_gain_beyond_the_threshold_is_kept_and_one_just_below_is_run_again() -> None:
    threshold = judge({42: 1.79}, noise=WELL_KNOWN).threshold_bpb
    assert threshold is not None
    assert judge({42: 1.8 - 1.001 * threshold}, noise=WELL_KNOWN).verdict is Verdict.KEEP
    assert judge({42: 1.8 - 0.999 * threshold}, noise=WELL_KNOWN).verdict is Verdict.REPLICATE


def test_each_look_and_each_comparison_spends_a_part_of_the_rate() -> None:
    """Two looks of two: a quarter of the level, then the rest; normal quantiles, for the noise is known."""
    known = NoiseFloor(sd_bpb=0.001, degrees_of_freedom=10**9)
    policy = DecisionConfig(false_keep_rate=0.1, max_runs=2)
    level = 0.1 * FIRST_SHARE
    for scores, share in (({42: 1.79}, 1 / 4), ({42: 1.79, 43: 1.79}, 3 / 4)):
        decision = judge(scores, noise=known, policy=policy)
        assert decision.gain_sd_bpb is not None
        expected = -NormalDist().inv_cdf(level * share) * decision.gain_sd_bpb
        assert decision.threshold_bpb == pytest.approx(expected, rel=1e-4)
    late = judge({42: 1.79}, noise=known, policy=policy, number=100)
    after_a_keep = judge({42: 1.79}, noise=known, policy=policy, number=100, kept=(99,))
    assert late.level is not None
    assert after_a_keep.level is not None
    assert late.level < after_a_keep.level < level * 1.1


def test_the_decision_carries_its_numbers() -> None:
    decision = judge({42: 1.78, 43: 1.782}, noise=WELL_KNOWN)
    assert decision.verdict is Verdict.KEEP
    assert decision.champion_id == "exp-0001"
    assert (decision.num_runs, decision.champion_num_runs) == (2, 3)
    assert decision.mean_bpb == pytest.approx(1.781)
    assert decision.champion_mean_bpb == pytest.approx(1.8)
    assert decision.gain_bpb == pytest.approx(0.019)
    assert decision.noise == WELL_KNOWN
    assert decision.next_seeds == ()
    assert "0.01900 ± 0.00091 bpb better than the champion over 2 runs" in decision.reason


def test_the_probability_is_the_posterior_under_the_default_prior() -> None:
    # Prior N(0, (5 * 0.001)^2), error^2 = 4/3 * 1e-6: shrinkage 25 / (25 + 4/3) = 0.949367;
    # z = 0.001 * sqrt(0.949367) / 0.00115470 = 0.84382; normal cdf 0.80060
    assert judge({42: 1.799}).probability_better == pytest.approx(0.80061, abs=2e-4)
    assert judge({42: 1.8}).probability_better == pytest.approx(0.5, abs=1e-6)
    sceptic = DecisionConfig(prior_gain_sd_bpb=1e-6)
    assert judge({42: 1.799}, policy=sceptic).probability_better == pytest.approx(0.5, abs=0.001)


# Branches ------------------------------------------------------------------------------------


def test_what_is_worse_is_discarded_at_once() -> None:
    decision = judge({42: 1.801})
    assert decision.verdict is Verdict.DISCARD
    assert decision.gain_bpb == pytest.approx(-0.001)
    assert "worse than the champion over 1 run" in decision.reason


def test_no_gain_at_all_is_discarded() -> None:
    champion = Standing("exp-0001", {42: 1.5, 43: 1.5})
    assert judge({42: 1.5}, champion=champion).verdict is Verdict.DISCARD


def test_replicates_use_the_champions_seeds_first_and_then_new_ones() -> None:
    scores = {42: 1.79}
    for expected in (43, 44, 45):
        decision = judge(scores, policy=DecisionConfig(max_runs=9))
        assert decision.verdict is Verdict.REPLICATE
        assert decision.next_seeds == (expected,)
        scores[expected] = 1.79


def test_after_max_runs_what_is_still_within_the_noise_is_discarded() -> None:
    scores, patient = {42: 1.7995, 43: 1.7995, 44: 1.7995}, DecisionConfig(max_runs=4, min_chance=0)
    assert judge(scores, policy=patient).verdict is Verdict.REPLICATE
    decision = judge(scores | {45: 1.7995}, policy=patient)
    assert decision.verdict is Verdict.DISCARD
    assert "not worth more runs" in decision.reason
    assert judge({42: 1.7995}, policy=DecisionConfig(max_runs=1)).verdict is Verdict.DISCARD


def test_what_will_hardly_stand_out_any_more_gets_no_more_runs() -> None:
    """The chance by simulation: a true gain that the first run speaks for, and seven runs that show it."""
    policy = DecisionConfig(max_runs=8)
    scores, draw = {42: 1.7985}, random.Random(3)
    last = judge(
        dict.fromkeys(range(8), 1.7985),
        champion=EVEN,
        noise=WELL_KNOWN.model_copy(update={"degrees_of_freedom": 67}),
        policy=policy,
    )
    assert last.threshold_bpb is not None
    num_kept = 0
    for _ in range(20_000):
        true = draw.gauss(1.7985, 0.001)
        mean = (1.7985 + sum(draw.gauss(true, 0.001) for _ in range(7))) / 8
        num_kept += 1.8 - mean > last.threshold_bpb
    chance = num_kept / 20_000
    for margin, verdict in ((-0.01, Verdict.REPLICATE), (0.01, Verdict.DISCARD)):
        strict = policy.model_copy(update={"min_chance": chance + margin})
        decision = judge(scores, champion=EVEN, noise=WELL_KNOWN, policy=strict)
        assert decision.verdict is verdict, (chance, decision.reason)
    assert f"to stand out within {policy.max_runs}" in decision.reason


def test_a_gain_too_small_to_matter_is_discarded_though_it_is_real() -> None:
    policy = DecisionConfig(min_gain_bpb=0.02)
    assert judge({42: 1.785}, noise=WELL_KNOWN, policy=policy).verdict is Verdict.DISCARD
    assert judge({42: 1.779}, noise=WELL_KNOWN, policy=policy).verdict is Verdict.KEEP


# A draw: within half a standard error, 0.0011547 / 2 = 0.00057735 for one run


@pytest.mark.parametrize("score", [1.8003, 1.7997])
def test_at_a_draw_the_shorter_source_wins_after_a_second_run(score: float) -> None:
    first = judge({42: score}, line_delta=-3)
    assert first.verdict is Verdict.REPLICATE
    second = judge({42: score, 43: score}, line_delta=-3)
    assert second.verdict is Verdict.KEEP
    assert "with 3 lines less" in second.reason


@pytest.mark.parametrize("line_delta", [0, 5])
def test_at_a_draw_a_source_that_is_not_shorter_does_not_win(line_delta: int) -> None:
    assert judge({42: 1.8003, 43: 1.8003}, line_delta=line_delta).verdict is Verdict.DISCARD


def test_a_shorter_source_that_is_clearly_worse_is_discarded() -> None:
    assert judge({42: 1.801}, line_delta=-100).verdict is Verdict.DISCARD


def test_a_single_allowed_run_decides_a_draw_too() -> None:
    assert judge({42: 1.8003}, line_delta=-1, policy=DecisionConfig(max_runs=1)).verdict is Verdict.KEEP


def test_runs_without_any_noise_are_compared_exactly() -> None:
    exact = NoiseFloor(sd_bpb=0.0, degrees_of_freedom=2)
    champion = Standing("exp-0001", {42: 1.8, 43: 1.8})
    better, worse = (judge({42: s}, champion=champion, noise=exact) for s in (1.79999, 1.80001))
    assert (better.verdict, better.probability_better) == (Verdict.KEEP, 1.0)
    assert (worse.verdict, worse.probability_better) == (Verdict.DISCARD, 0.0)
    assert judge({42: 1.8}, champion=champion, noise=exact).probability_better == 0.5


def test_zero_is_a_score_like_any_other() -> None:
    assert judge({42: 0.0}).verdict is Verdict.KEEP


def test_a_challenger_needs_a_noise_floor() -> None:
    with pytest.raises(ValueError, match="before the noise floor is known"):
        judge({42: 1.7}, noise=None)


# The baseline and failures -------------------------------------------------------------------


def test_the_baseline_is_repeated_and_then_kept_whatever_it_scores() -> None:
    first = judge({42: 9.9}, champion=None, noise=None)
    assert (first.verdict, first.next_seeds) == (Verdict.REPLICATE, (43, 44))
    second = judge({42: 9.9, 43: 9.8}, champion=None, noise=None)
    assert (second.verdict, second.next_seeds) == (Verdict.REPLICATE, (44,))
    third = judge({42: 1.0, 43: 2.0, 44: 3.0}, champion=None, noise=None)
    assert (third.verdict, third.next_seeds, third.mean_bpb) == (Verdict.KEEP, (), 2.0)
    assert "val_bpb 2.00000; runs of it differ by 1.00000" in third.reason


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (RunStatus.CRASHED, Verdict.CRASH),
        (RunStatus.TIMED_OUT, Verdict.CRASH),
        (RunStatus.INVALID, Verdict.INVALID),
    ],
)
@pytest.mark.parametrize("champion", [CHAMPION, None])
def test_one_failed_run_decides(status: RunStatus, verdict: Verdict, champion: Standing | None) -> None:
    results = [
        make_result(make_run("exp-0002", 42), 1.0),
        make_result(make_run("exp-0002", 43), status=status, reason="it ate itself"),
    ]
    decision = decide(Evidence("exp-0002", results, champion, NOISE, 0, 42), POLICY)
    assert (decision.verdict, decision.reason, decision.num_runs) == (verdict, "it ate itself", 2)
    assert decision.gain_bpb is None


def test_a_failure_without_a_reason_gets_one() -> None:
    result = make_result(make_run(), status=RunStatus.TIMED_OUT)
    decision = decide(Evidence("exp-0001", [result], None, None, 0, 42), POLICY)
    assert decision.reason == "the run timed_out without a reason"


# Long-run rates ------------------------------------------------------------------------------


def play(effect_bpb: float, draw: random.Random, policy: DecisionConfig) -> tuple[Verdict, int]:
    """A challenger with this true effect from its first run to its end, and how many runs that took.

    The noise is measured on three runs of the champion, which is run as often as its challenger.
    """
    base = {seed: draw.gauss(1.8, 0.001) for seed in (42, 43, 44)}
    scores = {42: draw.gauss(1.8 - effect_bpb, 0.001)}
    while True:
        champion, noise = Standing("exp-0001", base), pooled_noise([base, scores])
        decision = judge(scores, champion=champion, noise=noise, policy=policy)
        if decision.verdict.is_terminal:
            return decision.verdict, len(scores)
        for seed in decision.next_seeds:
            scores[seed] = draw.gauss(1.8 - effect_bpb, 0.001)
            base.setdefault(seed, draw.gauss(1.8, 0.001))


def test_changes_without_effect_are_kept_no_more_often_than_promised_and_real_ones_nearly_always() -> None:
    draw, policy = random.Random(1), DecisionConfig(false_keep_rate=0.4)
    noise = [play(0.0, draw, policy)[0] is Verdict.KEEP for _ in range(3000)]
    promised = 3000 * 0.4 * FIRST_SHARE
    assert sum(noise) <= promised + 3 * promised**0.5
    for effect_bpb, most_runs in ((0.02, 6), (0.004, 12)):
        ends = [play(effect_bpb, draw, DecisionConfig()) for _ in range(100)]
        assert sum(verdict is Verdict.KEEP for verdict, _ in ends) >= 90
        assert sum(runs for _, runs in ends) / 100 < most_runs


# Seeds ---------------------------------------------------------------------------------------


def test_seeds_are_the_same_sequence_for_all() -> None:
    assert seeds_from(42, 3) == (42, 43, 44)
    assert seeds_from(42, 2, taken=(43, 42, 45)) == (44, 46)
    assert seeds_from(42, 0) == ()
