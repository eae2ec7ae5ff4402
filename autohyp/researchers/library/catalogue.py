"""Known hypotheses over the reference train.py: mechanism, edit, and the effect seen elsewhere, with its
source.

An effect is the change of val_bpb against the reference value, as a share of val_bpb (negative is better),
so that it makes sense on models of other sizes; its standard deviation says how far it may be off here. The
entries' targets are relative to the campaign's own baseline ("half the batch"), so they hold on both
profiles. Hypotheses known to lose are here as well: they tell the model where not to look.

Sources, condensed into the figures below (effects at the time of the change, so rows measured on a later
champion are differences to it):

* mar8: 126 experiments of five minutes on one H100, branch exp/H100/mar8 of
  github.com/karpathy/autoresearch (PR 44); the commit is named. Single runs: their noise is about 0.0005 bpb.
* trials: a Gaussian process fitted to 1,393 distinct configurations of a 14-constant study on one H200, at
  the reference and at half its batch; github.com/ferreirafabio/autoresearch-automl, arXiv 2603.24647.
* cpu: the CPU profile, from a few single runs made while this project was built (models of 0.3 to 0.7
  million parameters, 125 to 420 steps); seeds alone differ by 0.003, so the figures are rough.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from autohyp.records import ConstantValue
from autohyp.researchers.library.structural import REWRITES, Rewrite

__all__ = ["CATALOGUE", "Effect", "KnownHypothesis"]

REFERENCE_BPB = 0.9979
"""val_bpb of the reference configuration where mar8's effects were measured."""

Constants = Mapping[str, ConstantValue]
Change = Callable[[Constants], dict[str, ConstantValue]]


@dataclass(frozen=True)
class Effect:
    """A change of val_bpb as a share of val_bpb; negative is better."""

    mean: float
    sd: float
    source: str


@dataclass(frozen=True)
class KnownHypothesis:
    """A catalogue entry; exactly one of `change` and `rewrite` is there.

    `change` gives the constants' new values from the baseline's and raises KeyError or TypeError where the
    target has no such constant. `cpu_effect` is the effect on the CPU profile where that is known to
    differ.
    """

    key: str
    title: str
    mechanism: str
    kind: str
    effect: Effect
    change: Change | None = None
    rewrite: Rewrite | None = None
    cpu_effect: Effect | None = None


# ---------------------------------------------------------------------------------------------
# Changes, from the baseline's values


def _number(constants: Constants, name: str) -> int | float:
    value = constants[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is no number")
    return value


def _to(**targets: ConstantValue) -> Change:
    """Set constants to given values."""

    def change(constants: Constants) -> dict[str, ConstantValue]:
        return {
            name: value for name, value in targets.items() if name in constants or _number(constants, name)
        }

    return change


def _times(name: str, factor: float) -> Change:
    """Multiply a constant; whole numbers stay whole."""

    def change(constants: Constants) -> dict[str, ConstantValue]:
        value = _number(constants, name)
        scaled = value * factor
        return {name: round(scaled) if isinstance(value, int) else float(f"{scaled:.3g}")}

    return change


def _beta(name: str, index: int, target: float) -> Change:
    """Set one entry of a pair of decay rates."""

    def change(constants: Constants) -> dict[str, ConstantValue]:
        betas = constants[name]
        if not isinstance(betas, tuple):
            raise TypeError(f"{name} is no tuple")
        return {name: (*betas[:index], target, *betas[index + 1 :])}

    return change


def _layers(more: int, *, same_width: bool) -> Change:
    """Add layers, at the same aspect (so wider as well) or at the same width."""

    def change(constants: Constants) -> dict[str, ConstantValue]:
        depth, aspect = int(_number(constants, "DEPTH")), _number(constants, "ASPECT_RATIO")
        if depth + more < 1:
            return {}
        changed: dict[str, ConstantValue] = {"DEPTH": depth + more}
        if same_width:
            changed["ASPECT_RATIO"] = int(depth * aspect // (depth + more))
        return changed

    return change


def _bpb(mean: float, sd: float, source: str) -> Effect:
    """An effect measured in bpb at the reference, as a share of it."""
    return Effect(round(mean / REFERENCE_BPB, 5), round(sd / REFERENCE_BPB, 5), source)


def _constant(
    key: str, title: str, kind: str, change: Change, effect: Effect, mechanism: str, cpu: Effect | None = None
) -> KnownHypothesis:
    return KnownHypothesis(key, title, mechanism, kind, effect, change=change, cpu_effect=cpu)


def _structural(
    key: str, title: str, kind: str, effect: Effect, mechanism: str, cpu: Effect | None = None
) -> KnownHypothesis:
    return KnownHypothesis(key, title, mechanism, kind, effect, rewrite=REWRITES[key], cpu_effect=cpu)


def _cpu(mean: float, sd: float) -> Effect:
    return Effect(mean, sd, "one or two 30-s runs each of the CPU profile")


# ---------------------------------------------------------------------------------------------
# Constants

BATCH = (
    _constant("halve-batch", "Halve the batch", "batch", _times("TOTAL_BATCH_SIZE", 1 / 2),
              _bpb(-0.0110, 0.0020, "mar8 bea057b -0.0119; trials -0.0081 +- 0.0016"),
              "Below the critical batch, twice the steps are worth more than cleaner gradients.",
              _cpu(-0.03, 0.01)),
    _constant("quarter-batch", "Quarter the batch", "batch", _times("TOTAL_BATCH_SIZE", 1 / 4),
              _bpb(-0.0010, 0.0060, "trials +0.0014 +- 0.0066; mar8 e05a87d crashed for its shape"),
              "More steps still, where kernels stay busy with fewer rows.",
              _cpu(-0.044, 0.015)),
    _constant("double-batch", "Double the batch", "batch", _times("TOTAL_BATCH_SIZE", 2),
              _bpb(0.0230, 0.0084, "trials +0.0230 +- 0.0084"),
              "Cleaner gradients and fewer optimizer steps, if steps are not what is short.",
              _cpu(0.03, 0.012)),
)  # fmt: skip
SIZE = (
    _constant("deeper-and-wider", "One layer more at the same aspect", "size", _layers(1, same_width=False),
              _bpb(-0.0040, 0.0020, "mar8 7f2a65c -0.0043; trials at half batch -0.0032 +- 0.0020"),
              "A larger model learns more a token; pays while the steps it costs are not missed.",
              _cpu(-0.002, 0.015)),
    _constant("deeper", "One layer more at the same width", "size", _layers(1, same_width=True),
              _bpb(0.0010, 0.0025, "between mar8 3ec9cfa and trials 10 x 51 +0.0008"),
              "Depth composes features; a narrow stream limits what depth can use."),
    _constant("shallower", "One layer less at the same width", "size", _layers(-1, same_width=True),
              _bpb(0.0020, 0.0014, "trials +0.0010 +- 0.0007, at half batch +0.0027 +- 0.0014"),
              "Fewer layers make faster steps, and steps are what a short budget lacks.",
              _cpu(-0.002, 0.01)),
    _constant("two-layers-less", "Two layers less at the same width", "size", _layers(-2, same_width=True),
              _bpb(0.0085, 0.0030, "trials 6 x 85 +0.0080 +- 0.0041, at half batch +0.0094 +- 0.0020"),
              "Many more steps for a much smaller model.",
              _cpu(-0.01, 0.015)),
    _constant("wider", "A quarter wider", "size", _times("ASPECT_RATIO", 1.25),
              _bpb(-0.0020, 0.0017, "trials at half batch -0.0028 +- 0.0017; mar8 8be9036 -0.0017"),
              "Width makes better use of a matrix unit than depth does.",
              _cpu(0.004, 0.012)),
    _constant("narrower", "A quarter narrower", "size", _times("ASPECT_RATIO", 0.75),
              _bpb(0.0170, 0.0040, "trials +0.0158 +- 0.0020, at half batch +0.0206 +- 0.0051"),
              "A smaller model sees more tokens in the same time.",
              _cpu(0.012, 0.015)),
    _constant("leaner-mlp", "MLP of three widths", "mlp", _to(MLP_RATIO=3),
              _bpb(0.0012, 0.0012, "mar8 c4b0731 at 3.5: +0.0007"),
              "The MLP takes most of a step's time; a leaner one buys steps."),
    _constant("richer-mlp", "MLP of five widths", "mlp", _to(MLP_RATIO=5),
              _bpb(0.0010, 0.0012, "mar8 5a9c951 at 4.5: +0.0007"),
              "The MLP holds most of the knowledge."),
)  # fmt: skip
ATTENTION = (
    _constant("smaller-heads", "Twice as many heads of half the size", "attention", _times("HEAD_DIM", 1 / 2),
              _bpb(0.0073, 0.0030, "trials +0.0075 +- 0.0008, at half batch +0.0072 +- 0.0041"),
              "More heads look at more places at once."),
    _constant("larger-heads", "Half as many heads of twice the size", "attention", _times("HEAD_DIM", 2),
              _bpb(0.0081, 0.0030, "trials +0.0082 +- 0.0007, at half batch +0.0081 +- 0.0043"),
              "Larger heads match more finely and run faster on some kernels."),
    _constant("fewer-long-windows", "Four short windows to a long one", "attention",
              _to(WINDOW_PATTERN="SSSSL"),
              _bpb(-0.0003, 0.0006, "mar8 8363d52 -0.0003"),
              "Fewer layers need the whole context than have it."),
    _constant("only-last-long", "Only the last layer sees the whole context", "attention",
              _to(WINDOW_PATTERN="S"),
              _bpb(-0.0004, 0.0020, "trials -0.0012 +- 0.0016; mar8 ee60bf7 SSSSSL +0.0035"),
              "If one look at everything is enough, the rest is saved time."),
    _constant("all-long", "Every layer sees the whole context", "attention", _to(WINDOW_PATTERN="L"),
              _bpb(0.0022, 0.0012, "trials +0.0029 +- 0.0010, at half batch +0.0014 +- 0.0012"),
              "Nothing is out of reach, for more time a step; cheap where sequences are short."),
    _constant("short-window-quarter", "Short windows of a quarter of the context", "attention",
              _to(SHORT_WINDOW_FRAC=0.25), _bpb(-0.0005, 0.0007, "between the reference and mar8 7da0b67"),
              "What predicts the next token is mostly near; shorter windows cost less."),
    _constant("short-window-eighth", "Short windows of an eighth of the context", "attention",
              _to(SHORT_WINDOW_FRAC=0.125), _bpb(-0.0009, 0.0007, "mar8 7da0b67 -0.0009"),
              "What predicts the next token is mostly near; shorter windows cost less."),
    _constant("rope-base-20x", "Rotary base times 20", "attention", _times("ROPE_BASE", 20),
              _bpb(-0.0012, 0.0007, "mar8 59e9dd9 -0.0012"),
              "Slow rotations carry content over long distances undisturbed."),
    _constant("rope-base-tenth", "Rotary base divided by 10", "attention", _times("ROPE_BASE", 0.1),
              _bpb(0.0010, 0.0015, "opposite of mar8 59e9dd9"),
              "In a short context fast rotations tell positions apart better."),
)  # fmt: skip
RATES = (
    _constant("embedding-lr-up-third", "Embedding rate up by a third", "learning rate",
              _times("EMBEDDING_LR", 4 / 3),
              _bpb(-0.0015, 0.0015, "mar8 7d047e4 -0.0033; trials +0.0005 +- 0.0005"),
              "A token's row gets a gradient only when the token occurs, so it bears large steps.",
              _cpu(0.002, 0.005)),
    _constant("embedding-lr-up-half", "Embedding rate up by half", "learning rate",
              _times("EMBEDDING_LR", 1.5),
              _bpb(-0.0008, 0.0016, "mar8 8189d27 and b1d5004; trials +0.0008 +- 0.0008"),
              "As above, further.",
              _cpu(0.002, 0.006)),
    _constant("embedding-lr-down", "Embedding rate down by a third", "learning rate",
              _times("EMBEDDING_LR", 2 / 3),
              _bpb(0.0002, 0.0010, "trials -0.0003 +- 0.0005; the opposite of mar8 7d047e4"),
              "Large embedding steps may keep the layers chasing a moving input.",
              _cpu(-0.001, 0.005)),
    _constant("head-lr-up-half", "Head rate up by half", "learning rate", _times("UNEMBEDDING_LR", 1.5),
              _bpb(-0.0009, 0.0008, "mar8 aa8f408 -0.0010; trials -0.0012 +- 0.0012"),
              "The head starts at zero and has to find the logits' scale early.",
              _cpu(-0.012, 0.008)),
    _constant("head-lr-up-quarter", "Head rate up by a quarter", "learning rate",
              _times("UNEMBEDDING_LR", 1.25),
              _bpb(-0.0008, 0.0007, "mar8 7f63c17 after aa8f408 -0.0011; trials -0.0008 +- 0.0006"),
              "As above, less.",
              _cpu(-0.006, 0.006)),
    _constant("head-lr-double", "Head rate doubled", "learning rate", _times("UNEMBEDDING_LR", 2),
              _bpb(0.0000, 0.0012, "mar8 c4ce95c +0.0004; trials -0.0014 +- 0.0020, at half batch +0.0005"),
              "As above, further.",
              _cpu(-0.02, 0.008)),
    _constant("matrix-lr-down", "Muon rate down by a quarter", "learning rate", _times("MATRIX_LR", 0.75),
              _bpb(-0.0003, 0.0011, "mar8 97aa364 +0.0007; trials +0.0003, at half batch -0.0013 +- 0.0011"),
              "Smaller steps with the smaller batch's noisier gradients.",
              _cpu(0.004, 0.005)),
    _constant("matrix-lr-up", "Muon rate up by half", "learning rate", _times("MATRIX_LR", 1.5),
              _bpb(0.0025, 0.0016, "trials +0.0021 +- 0.0015, at half batch +0.0034; mar8 ccf6012"),
              "With few steps, each must go far.", _cpu(-0.001, 0.008)),
    _constant("scalar-lr-down", "Scalar rate down to 0.6 of it", "learning rate", _times("SCALAR_LR", 0.6),
              _bpb(-0.0001, 0.0007, "mar8 77d7a47 +0.0003; trials +0.0002, at half batch -0.0007"),
              "The per-layer factors act on the whole stream; calmer ones disturb less."),
    _constant("scalar-lr-up", "Scalar rate up by 0.4 of it", "learning rate", _times("SCALAR_LR", 1.4),
              _bpb(0.0003, 0.0007, "mar8 d385aa7 +0.0002; trials +0.0002, at half batch +0.0008"),
              "The right mix of input and stream is found sooner."),
    _constant("value-lr-up", "Value embeddings' rate up by half", "learning rate",
              _times("VALUE_EMBEDDING_LR_SCALE", 1.5), _bpb(0.0, 0.0006, "mar8 8dd93ec and 80a519a, flat"),
              "They are read through a gate and get smaller gradients."),
    _constant("value-lr-down", "Value embeddings' rate halved", "learning rate",
              _times("VALUE_EMBEDDING_LR_SCALE", 0.5), _bpb(0.0007, 0.0006, "mar8 81261f5 +0.0008"),
              "Attention's values may want to be steadier than its inputs."),
)  # fmt: skip
SCHEDULE = (
    _constant("longer-warmdown", "Warm-down over 70 % of the budget", "schedule", _to(WARMDOWN_RATIO=0.7),
              _bpb(-0.0004, 0.0009, "mar8 4e6697f -0.0006; trials +0.0002 +- 0.0018"),
              "A long descent averages the noise of large steps away.", _cpu(0.008, 0.007)),
    _constant("longest-warmdown", "Warm-down over 80 % of the budget", "schedule", _to(WARMDOWN_RATIO=0.8),
              _bpb(-0.0001, 0.0011, "mar8 187db84 and d9322b9; trials +0.0011 +- 0.0027"),
              "As above, further.", _cpu(0.012, 0.009)),
    _constant("shorter-warmdown", "Warm-down over 30 % of the budget", "schedule", _to(WARMDOWN_RATIO=0.3),
              _bpb(0.0022, 0.0015, "trials +0.0022 +- 0.0018"),
              "Where steps are few, full-size steps are what is missing.", _cpu(-0.003, 0.008)),
    _constant("end-above-zero", "Rates end at 5 % instead of zero", "schedule", _to(FINAL_LR_FRAC=0.05),
              _bpb(-0.0004, 0.0006, "mar8 772dada -0.0006; trials +0.0001 +- 0.0010"),
              "Steps at a rate of almost zero learn nothing."),
    _constant("end-at-tenth", "Rates end at 10 % instead of zero", "schedule", _to(FINAL_LR_FRAC=0.1),
              _bpb(0.0009, 0.0007, "mar8 9aa1e29 +0.0008; trials +0.0013 +- 0.0006"),
              "As above, further."),
    _constant("short-warmup", "Warm-up over 5 % of the budget", "schedule", _to(WARMUP_RATIO=0.05),
              _bpb(0.0007, 0.0006, "mar8 187e419 +0.0008; trials at half batch +0.0007 +- 0.0008"),
              "Random weights are led astray by full-size steps."),
)  # fmt: skip
OPTIMIZER = (
    _constant("shorter-momentum-warmup", "Momentum warm-up in two thirds of the steps", "optimizer",
              _times("MOMENTUM_WARMUP_STEPS", 2 / 3), _bpb(-0.0003, 0.0005, "mar8 a7aa309 -0.0003"),
              "The long averaging pays as soon as gradients have settled."),
    _constant("lower-start-momentum", "Muon starts at momentum 0.80", "optimizer",
              _to(MUON_START_MOMENTUM=0.80),
              _bpb(0.0002, 0.0005, "mar8 ffcb3c2 +0.0003"),
              "Early gradients change direction; average over fewer."),
    _constant("higher-momentum", "Muon's final momentum 0.96", "optimizer", _to(MUON_MOMENTUM=0.96),
              _bpb(0.0004, 0.0005, "mar8 d3c7143 +0.0005"),
              "Small batches need more averaging."),
    _constant("muon-beta2-down", "Shorter memory of the neurons' update sizes", "optimizer",
              _to(MUON_BETA2=0.90),
              _bpb(0.0002, 0.0004, "mar8 a6b2ac7 +0.0003"),
              "The per-neuron scale follows the gradient more closely."),
    _constant("four-iterations", "Four orthogonalisation steps", "optimizer", _to(NS_STEPS=4),
              _bpb(0.0008, 0.0007, "mar8 31b838e +0.0009"),
              "An update that is orthogonal enough for less time."),
    _constant("adam-beta1-up", "Adam's first decay 0.85", "optimizer", _beta("ADAM_BETAS", 0, 0.85),
              _bpb(0.0003, 0.0005, "mar8 d6cad11 +0.0003"), "More averaging for rare tokens."),
    _constant("adam-beta1-down", "Adam's first decay 0.7", "optimizer", _beta("ADAM_BETAS", 0, 0.7),
              _bpb(0.0002, 0.0008, "opposite of mar8 d6cad11 and 21389c4 (0.9: +0.0016)"),
              "Less delay when every step counts."),
    _constant("adam-beta2-up", "Adam's second decay 0.99", "optimizer", _beta("ADAM_BETAS", 1, 0.99),
              _bpb(0.0004, 0.0006, "mar8 0d77d4d +0.0005"), "A steadier scale for rows that are rarely hit."),
    _constant("x0-beta1-down", "Less averaging for the input's factors", "optimizer",
              _beta("X0_ADAM_BETAS", 0, 0.90), _bpb(0.0001, 0.0004, "mar8 51f0499 +0.0002"),
              "Few numbers with strong gradients need little averaging."),
)  # fmt: skip
DECAY = (
    _constant("less-decay", "Weight decay down by a quarter", "weight decay", _times("WEIGHT_DECAY", 0.75),
              _bpb(-0.0004, 0.0007, "mar8 2913af9 +0.0001; trials at half batch -0.0012 +- 0.0006"),
              "A model that sees each token once needs little regularisation."),
    _constant("more-decay", "Weight decay up by a quarter", "weight decay", _times("WEIGHT_DECAY", 1.25),
              _bpb(0.0009, 0.0007, "mar8 f04daec +0.0010; 2f0a8ec +0.0001 at x1.1"),
              "Smaller matrices turn faster."),
    _constant("head-decay", "Weight decay 0.01 on the head", "weight decay", _to(HEAD_WEIGHT_DECAY=0.01),
              _bpb(-0.0001, 0.0005, "mar8 264a05b -0.0001"), "Keeps rare tokens' logits from drifting."),
    _constant("embedding-decay", "Weight decay 0.001 on the embedding", "weight decay",
              _to(EMBEDDING_WEIGHT_DECAY=0.001),
              _bpb(-0.0001, 0.0005, "mar8 ece9101 -0.0001; 674a510 at 0.01 +0.0023"),
              "Keeps rare tokens' embeddings from drifting."),
    _constant("value-decay", "Weight decay 0.003 on the value embeddings", "weight decay",
              _to(VALUE_EMBEDDING_WEIGHT_DECAY=0.003),
              _bpb(-0.0016, 0.0008, "mar8 1a85362, 73c77ca, 637f82f -0.0016"),
              "The largest tables of the model see each token rarely and overfit first."),
    _constant("steady-decay", "Half of the weight decay stays to the end", "weight decay",
              _to(FINAL_WEIGHT_DECAY_FRAC=0.5), _bpb(0.0012, 0.0010, "mar8 d3840ec +0.0012"),
              "The last steps are regularised too."),
)  # fmt: skip
WEIGHTS = (
    _constant("smaller-init", "Initial matrices at 0.7 of their scale", "initialisation", _to(INIT_SCALE=0.7),
              _bpb(-0.0006, 0.0005, "mar8 41d50a8, f5979a7, 97dda85 -0.0006"),
              "Updates of a fixed size turn smaller weights faster."),
    _constant("quieter-x0", "Input skips start at half strength", "initialisation", _times("X0_INIT", 0.5),
              _bpb(-0.0008, 0.0007, "mar8 0640555 -0.0008"),
              "Deeper layers need less of the raw token."),
    _constant("louder-x0", "Input skips start at twice their strength", "initialisation",
              _times("X0_INIT", 2),
              _bpb(0.0010, 0.0010, "opposite of mar8 0640555"),
              "Layers that start as the identity need the token."),
    _constant("smaller-embedding-init", "Token embedding starts at 0.7", "initialisation",
              _to(EMBEDDING_INIT_STD=0.7),
              _bpb(0.0003, 0.0006, "mar8 ddcd35a +0.0005; d6c139a at 0.5 +0.0017"),
              "Smaller rows move faster, relatively."),
    _constant("larger-head-init", "Head starts at twice its scale", "initialisation",
              _times("HEAD_INIT_STD", 2),
              _bpb(0.0004, 0.0005, "mar8 8934eec +0.0006; 86c7e66 at 0.01 +0.0019"),
              "A head that is not zero passes gradients to the layers from the first step."),
    _constant("fading-residual", "Residual factors start at 0.95", "initialisation", _to(RESIDUAL_INIT=0.95),
              _bpb(0.0015, 0.0012, "mar8 d41c1df at 0.9 +0.0033"), "Old content makes room for new."),
    _constant("looser-softcap", "Logit cap 20", "loss", _to(LOGIT_SOFTCAP=20.0),
              _bpb(0.0006, 0.0006, "mar8 fa14910 +0.0007"), "The cap takes room from sure predictions."),
    _constant("tighter-softcap", "Logit cap 13", "loss", _to(LOGIT_SOFTCAP=13.0),
              _bpb(0.0001, 0.0005, "mar8 7d3f0e4 +0.0002"), "The cap keeps early logits in bounds."),
    _constant("value-every-layer", "A value embedding in every layer", "embeddings",
              _to(VALUE_EMBEDDING_EVERY=1),
              _bpb(-0.0005, 0.0020, "mar8 bff5cda: every third +0.0037, so more may help"),
              "Each layer's attention hears the token itself, for memory and almost no time."),
    _constant("value-every-third", "A value embedding in every third layer", "embeddings",
              _to(VALUE_EMBEDDING_EVERY=3), _bpb(0.0037, 0.0012, "mar8 bff5cda +0.0037"),
              "Fewer tables to learn from few tokens."),
    _constant("stronger-gate", "Value gate up to 3", "embeddings", _to(VALUE_GATE_SCALE=3.0),
              _bpb(0.0, 0.0004, "mar8 6b59591 and c044a14, flat"), "Room to turn the value embedding up."),
    _constant("smaller-gate", "Value gate reads 16 channels", "embeddings", _to(VALUE_GATE_CHANNELS=16),
              _bpb(0.0003, 0.0004, "mar8 362937e +0.0004"), "A simpler gate is enough."),
)  # fmt: skip

# ---------------------------------------------------------------------------------------------
# Code

CODE = (
    _structural("sharper-queries", "Queries 1.2 times longer", "attention",
                _bpb(-0.0008, 0.0012, "QK gain in nanochat and modded-nanogpt on github.com"),
                "Normalised queries and keys bound the attention logits; a gain lets heads be sure."),
    _structural("gated-heads", "A gate on every attention head", "attention",
                _bpb(-0.0015, 0.0020, "Qiu et al. 2025, arXiv 2505.06708; modded-nanogpt's attention gate"),
                "A head can be silent, which softmax alone does not allow."),
    _structural("smeared-input", "Add a tenth of the token before to each embedding", "embeddings",
                _bpb(-0.0012, 0.0020, "token smearing in modded-nanogpt; ALBERT-like bigram inputs"),
                "The first layers need not spend attention on finding the previous token."),
    _structural("half-rotary", "Rotate half of the channels only", "attention",
                _bpb(-0.0004, 0.0012, "partial rotary: GPT-J (Wang & Komatsuzaki 2021); modded-nanogpt"),
                "Some channels can match content wherever it stands."),
    _structural("backout", "Subtract a fifth of the middle stream at the end", "residual stream",
                _bpb(-0.0006, 0.0015, "backout in modded-nanogpt"),
                "Context that only the layers needed does not blur the prediction."),
    _structural("cosine-warmdown", "Cosine instead of linear warm-down", "schedule",
                _bpb(0.0012, 0.0008, "mar8 30f1b8d +0.0012"), "Longer at high rates, then a soft landing."),
    _structural("sqrt-warmdown", "Warm-down by 1 - sqrt", "schedule",
                _bpb(-0.0003, 0.0012, "Hagele et al. 2024, arXiv 2405.18392"),
                "Rates fall fast at first, then stay small for longer."),
    _structural("z-loss", "A small penalty on the logits' normaliser", "loss",
                _bpb(0.0002, 0.0006, "PaLM, arXiv 2204.02311"), "Keeps the softmax's scale from drifting."),
    _structural("no-softcap", "No cap on the logits", "loss",
                _bpb(0.0008, 0.0012, "beyond mar8 fa14910 (cap 20: +0.0007)"),
                "The cap costs time and room; if nothing is lost, less code is better."),
    _structural("swiglu", "A gated SiLU MLP of equal size", "mlp",
                _bpb(0.0010, 0.0025, "Shazeer 2020, arXiv 2002.05202; So et al. 2021 prefer squared ReLU"),
                "Multiplying two projections is more expressive a parameter."),
    _structural("leaky-relu-squared", "Leaky ReLU, squared, in the MLP", "mlp",
                _bpb(0.0000, 0.0015, "leaky variant of So et al. 2021, arXiv 2109.08668; effect unknown"),
                "Neurons that are off still get gradients."),
    _structural("parallel-layer", "Attention and MLP side by side", "residual stream",
                _bpb(0.0108, 0.0030, "mar8 46cf5f2 +0.0108"),
                "One normalisation less and wider parallelism."),
    _structural("plain-muon", "Muon without per-neuron normalisation", "optimizer",
                _bpb(0.0010, 0.0012, "Li et al. 2025 (NorMuon), arXiv 2510.05491, report a gain from it"),
                "Less code and time a step, if the normalisation does not pay in a short run."),
    _structural("incautious-decay", "Weight decay on every weight", "weight decay",
                _bpb(0.0053, 0.0015, "mar8 b19f649 +0.0053"), "Decay that asks nothing is simpler."),
    _structural("momentum-cooldown", "Momentum falls in the last tenth", "optimizer",
                _bpb(-0.0003, 0.0008, "momentum cool-down in modded-nanogpt"),
                "At the end the average must not lag behind the last small steps."),
    _structural("clipped-gradients", "Clip the gradient norm at 1", "optimizer",
                _bpb(0.0007, 0.0007, "mar8 aa61e0b +0.0007"), "A rare wild batch does less harm."),
    _structural("still-scales", "Leave the per-layer factors alone in the first step", "optimizer",
                _bpb(-0.0010, 0.0015, "parity runs of this project: the sign of that step follows the seed"),
                "While the projections are zero their gradient is rounding noise, of which Adam makes a full "
                "step; half of the seeds begin with the stream's sign turned round.",
                _cpu(-0.002, 0.004)),
    _structural("decay-follows-rate", "Weight decay follows the learning rate", "weight decay",
                _bpb(0.0014, 0.0009, "mar8 2271cc2 +0.0014"), "One schedule instead of two."),
)  # fmt: skip

CATALOGUE: tuple[KnownHypothesis, ...] = (
    *BATCH, *SIZE, *ATTENTION, *RATES, *SCHEDULE, *OPTIMIZER, *DECAY, *WEIGHTS, *CODE,
)  # fmt: skip
"""All known hypotheses; keys are unique."""
