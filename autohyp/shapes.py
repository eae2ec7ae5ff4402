"""Rules that the constants of train.py must obey, told without running it.

A rule is checked when all the constants it speaks of are there, so a target with other constants passes;
each broken rule is one sentence. Researchers use the rules to propose only what can run, preflight to
refuse what cannot. Not covered: memory, and anything that depends on code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from autohyp.records import ConstantValue, Scalar

__all__ = ["SEQUENCE_LEN", "Bounds", "shape_problems"]

SEQUENCE_LEN = {"cpu": 256, "gpu": 2048}
"""Tokens a row by profile, as prepare.py packs them."""

Number = int | float
MAX_DEPTH = 128
MAX_WIDTH = 16_384
MAX_HEAD_DIM = 256  # the largest head that fused attention kernels take


@dataclass(frozen=True)
class Bounds:
    """An interval; a strict end is excluded."""

    low: float = float("-inf")
    high: float = float("inf")
    whole: bool = False
    open_low: bool = False
    open_high: bool = False

    def problem(self, name: str, value: Scalar) -> str | None:
        """Why `value` is outside, or None."""
        if isinstance(value, bool) or not isinstance(value, Number):
            return f"{name} is {value!r}; it must be a number"
        if self.whole and not isinstance(value, int):
            return f"{name} is {value!r}; it must be a whole number"
        if value < self.low or (self.open_low and value == self.low):
            return f"{name} is {value!r}; it must be {'above' if self.open_low else 'at least'} {self.low:g}"
        if value > self.high or (self.open_high and value == self.high):
            return f"{name} is {value!r}; it must be {'below' if self.open_high else 'at most'} {self.high:g}"
        return None


COUNT = Bounds(1, whole=True)
POSITIVE = Bounds(0, open_low=True)
NOT_NEGATIVE = Bounds(0)
SHARE = Bounds(0, 1)
DECAY = Bounds(0, 1, open_high=True)

BOUNDS: dict[str, Bounds] = {
    "DEPTH": Bounds(2, MAX_DEPTH, whole=True),
    "ASPECT_RATIO": POSITIVE,
    "HEAD_DIM": Bounds(8, MAX_HEAD_DIM, whole=True),
    "MLP_RATIO": POSITIVE,
    "SHORT_WINDOW_FRAC": Bounds(0, 1, open_low=True),
    "ROPE_BASE": Bounds(1, open_low=True),
    "LOGIT_SOFTCAP": POSITIVE,
    "VALUE_EMBEDDING_EVERY": COUNT,
    "VALUE_GATE_CHANNELS": COUNT,
    "INIT_SCALE": POSITIVE,
    "EMBEDDING_INIT_STD": POSITIVE,
    "HEAD_INIT_STD": NOT_NEGATIVE,
    "TOTAL_BATCH_SIZE": COUNT,
    "DEVICE_BATCH_SIZE": COUNT,
    "MATRIX_LR": NOT_NEGATIVE,
    "EMBEDDING_LR": NOT_NEGATIVE,
    "VALUE_EMBEDDING_LR_SCALE": NOT_NEGATIVE,
    "UNEMBEDDING_LR": NOT_NEGATIVE,
    "SCALAR_LR": NOT_NEGATIVE,
    "RESIDUAL_LR_SCALE": NOT_NEGATIVE,
    "LR_REFERENCE_WIDTH": POSITIVE,
    "ADAM_EPS": POSITIVE,
    "MUON_MOMENTUM": DECAY,
    "MUON_START_MOMENTUM": DECAY,
    "MOMENTUM_WARMUP_STEPS": Bounds(0, whole=True),
    "MUON_BETA2": DECAY,
    "NS_STEPS": Bounds(1, 20, whole=True),
    "WEIGHT_DECAY": NOT_NEGATIVE,
    "FINAL_WEIGHT_DECAY_FRAC": NOT_NEGATIVE,
    "HEAD_WEIGHT_DECAY": NOT_NEGATIVE,
    "EMBEDDING_WEIGHT_DECAY": NOT_NEGATIVE,
    "VALUE_EMBEDDING_WEIGHT_DECAY": NOT_NEGATIVE,
    "WARMUP_RATIO": SHARE,
    "WARMDOWN_RATIO": SHARE,
    "FINAL_LR_FRAC": SHARE,
}


class _Values:
    """Constants by name, typed; a missing or mistyped one raises KeyError, which skips the rule."""

    def __init__(self, constants: Mapping[str, ConstantValue], sequence_len: int) -> None:
        self._constants = constants
        self.sequence_len = sequence_len

    def number(self, name: str) -> int | float:
        value = self._constants[name]
        if isinstance(value, bool) or not isinstance(value, Number):
            raise KeyError(name)
        return value

    def text(self, name: str) -> str:
        value = self._constants[name]
        if not isinstance(value, str):
            raise KeyError(name)
        return value

    def width(self) -> int:
        """Channels of the residual stream, as train.py derives them."""
        head_dim = max(1, int(self.number("HEAD_DIM")))
        return -int(-self.number("DEPTH") * self.number("ASPECT_RATIO") // head_dim) * head_dim


def _whole_batches(values: _Values) -> str | None:
    total, rows = values.number("TOTAL_BATCH_SIZE"), values.number("DEVICE_BATCH_SIZE")
    tokens = rows * values.sequence_len
    if tokens <= 0 or total % tokens == 0:
        return None
    return (
        f"TOTAL_BATCH_SIZE {total} is not a multiple of DEVICE_BATCH_SIZE x sequence length = "
        f"{rows} x {values.sequence_len} = {tokens} tokens"
    )


def _even_head(values: _Values) -> str | None:
    head_dim = values.number("HEAD_DIM")
    return f"HEAD_DIM is {head_dim}; rotary embeddings need an even number" if head_dim % 2 else None


def _known_windows(values: _Values) -> str | None:
    pattern = values.text("WINDOW_PATTERN")
    if pattern and not set(pattern) - {"S", "L"}:
        return None
    return f"WINDOW_PATTERN is {pattern!r}; it must be made of the letters S and L"


def _schedule_fits(values: _Values) -> str | None:
    total = values.number("WARMUP_RATIO") + values.number("WARMDOWN_RATIO")
    return f"WARMUP_RATIO + WARMDOWN_RATIO is {total:g}; together at most 1" if total > 1 + 1e-9 else None


def _width_is_possible(values: _Values) -> str | None:
    width = values.width()
    return f"DEPTH x ASPECT_RATIO gives width {width}; at most {MAX_WIDTH}" if width > MAX_WIDTH else None


def _gate_fits(values: _Values) -> str | None:
    channels, width = values.number("VALUE_GATE_CHANNELS"), values.width()
    return f"VALUE_GATE_CHANNELS is {channels}, more than the width {width}" if channels > width else None


RULES: tuple[Callable[[_Values], str | None], ...] = (
    _whole_batches,
    _even_head,
    _known_windows,
    _schedule_fits,
    _width_is_possible,
    _gate_fits,
)


def shape_problems(constants: Mapping[str, ConstantValue], sequence_len: int) -> list[str]:
    """The rules that `constants` break for rows of `sequence_len` tokens, a sentence each; [] if none."""
    problems = []
    for name, bounds in BOUNDS.items():
        value = constants.get(name)
        if value is not None:
            problem = bounds.problem(name, "a tuple" if isinstance(value, tuple) else value)
            problems += [problem] if problem else []
    for name in ("ADAM_BETAS", "X0_ADAM_BETAS"):
        betas = constants.get(name)
        if isinstance(betas, tuple):
            found = [DECAY.problem(f"{name}[{index}]", beta) for index, beta in enumerate(betas)]
            problems += [problem for problem in found if problem]
    if problems:
        return problems  # the rules below assume sane numbers
    values = _Values(constants, sequence_len)
    for rule in RULES:
        try:
            problem = rule(values)
        except KeyError:
            continue
        problems += [problem] if problem else []
    return problems
