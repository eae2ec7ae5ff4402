"""The constants as dimensions of a search: which, on what scale, how far a step goes, and why it matters.

A coordinate is measured in steps: one step is a change that an experienced person would try. Learning rates
move by factors, shares by sums, decay rates by their distance from 1, weight decays from zero upwards.
Constants that are not in the table below but look like positive real numbers are searched by factors, so
that another train.py works too. Batch rows follow from the total batch (`settle`) and are no dimension of
their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from autohyp.records import ConstantValue, Scalar

__all__ = ["DIMENSIONS", "Dimension", "Space", "merged", "settle", "spelled"]

Scale = Literal["factor", "sum", "decay", "from_zero", "pattern"]
PATTERN_STEPS = 5.0
"""Steps from a pattern without long windows to one with long windows only."""
MEMORY_GROWTH = 1.6
"""How much more memory for activations than the baseline's a change may take before it gets fewer rows."""


@dataclass(frozen=True)
class Dimension:
    """A constant, or one entry of a tuple, that may be searched.

    `step` is what a step multiplies by (factor), adds (sum), divides the distance to 1 by (decay), or the
    value one step above zero (from_zero). `spread` is the standard deviation of a step's effect, as a share
    of val_bpb on the GPU profile, before anything is known.
    """

    name: str
    kind: str
    scale: Scale
    step: float
    low: float
    high: float
    mechanism: str
    spread: float = 0.001
    index: int | None = None
    whole: bool = False
    choices: tuple[str | int, ...] = ()

    @property
    def label(self) -> str:
        return self.name if self.index is None else f"{self.name}[{self.index}]"

    def read(self, constants: Mapping[str, ConstantValue]) -> Scalar | None:
        """The value there, or None if the source has no such constant."""
        value = constants.get(self.name)
        if isinstance(value, tuple):
            return value[self.index] if self.index is not None and self.index < len(value) else None
        return value if self.index is None else None

    def written(self, value: Scalar, constants: Mapping[str, ConstantValue]) -> ConstantValue:
        """What the constant becomes when this dimension takes `value`."""
        current = constants[self.name]
        if self.index is None or not isinstance(current, tuple):
            return value
        return (*current[: self.index], value, *current[self.index + 1 :])

    def coordinate(self, value: Scalar) -> float:
        """`value` in steps from the scale's own origin."""
        if self.scale == "pattern":
            text = str(value)
            return PATTERN_STEPS * text.count("L") / max(1, len(text))
        number = float(value)
        match self.scale:
            case "factor":
                return math.log(max(number, self.low, 1e-12)) / math.log(self.step)
            case "decay":
                return -math.log(max(1 - number, 1e-6)) / math.log(self.step)
            case "from_zero":
                return math.log2(1 + max(number, 0.0) / self.step)
            case _:
                return number / self.step

    def _value_at(self, coordinate: float) -> int | float:
        value: float
        match self.scale:
            case "factor":
                value = self.step**coordinate
            case "decay":
                value = 1 - self.step**-coordinate
            case "from_zero":
                value = self.step * (2 ** max(coordinate, 0.0) - 1)
            case _:
                value = self.step * coordinate
        value = min(max(value, self.low), self.high)
        if self.whole:
            return round(value)
        return float(round(1 - _rounded(1 - value), 6)) if self.scale == "decay" else _rounded(value)

    def moved(self, value: Scalar, steps: float) -> Scalar | None:
        """The value `steps` away, rounded as a person would write it; None if that is out of range or no
        move.
        """
        if self.scale == "pattern":
            return None
        result = self._value_at(self.coordinate(value) + steps)
        went = self.coordinate(result) - self.coordinate(value)
        return result if abs(went) > 0.1 * abs(steps) and went * steps > 0 else None

    def neighbours(self, value: Scalar, steps: Sequence[float] = (-1, 1, -0.5, 0.5)) -> list[Scalar]:
        """The values to try next to `value`, nearest moves first."""
        if self.choices:
            here, far = self.coordinate(value), max(2.0, *map(abs, steps))
            near = (
                c for c in self.choices if self.scale == "pattern" or abs(self.coordinate(c) - here) <= far
            )
            return [choice for choice in near if choice != value]
        moved = [self.moved(value, step) for step in steps]
        return list(dict.fromkeys(found for found in moved if found is not None and found != value))


def _rounded(value: float) -> float:
    """Two significant digits."""
    return float(f"{value:.2g}")


def _rate(name: str, low: float, high: float, mechanism: str, spread: float = 0.0015) -> Dimension:
    return Dimension(name, "learning rate", "factor", 1.5, low, high, mechanism, spread)


def _decay(name: str, first: float, mechanism: str) -> Dimension:
    return Dimension(name, "weight decay", "from_zero", first, 0, 1, mechanism, 0.0008)


DIMENSIONS: tuple[Dimension, ...] = (
    Dimension("TOTAL_BATCH_SIZE", "batch", "factor", 2, 2**8, 2**22,
              "fewer tokens a step buy more steps in the same time, at noisier gradients", 0.008, whole=True),
    Dimension("DEPTH", "size", "sum", 1, 2, 24,
              "more layers compose more, at fewer steps in the budget", 0.004, whole=True),
    Dimension("ASPECT_RATIO", "size", "factor", 1.25, 8, 256,
              "a wider model learns more a token and sees fewer tokens", 0.004, whole=True),
    Dimension("HEAD_DIM", "attention", "factor", 2, 16, 256,
              "more and smaller heads attend to more places; fewer and larger ones match more finely", 0.004,
              whole=True, choices=(16, 32, 64, 128)),
    Dimension("MLP_RATIO", "mlp", "sum", 0.5, 1, 8,
              "the MLP holds most of the knowledge and most of the time of a step", 0.0012),
    Dimension("WINDOW_PATTERN", "attention", "pattern", 1, 0, 1,
              "short windows save time; long ones let a layer use the whole context", 0.0012,
              choices=("SSSSL", "SSL", "SL", "SSLL", "SSSL", "S", "L")),
    Dimension("SHORT_WINDOW_FRAC", "attention", "factor", 2, 1 / 16, 1,
              "most of what predicts the next token is near; a shorter reach is cheaper", 0.0012),
    Dimension("ROPE_BASE", "attention", "factor", 4, 100, 4_000_000,
              "a larger base turns more channels slowly, which carry content over long distances",
              0.0008, whole=True),
    Dimension("LOGIT_SOFTCAP", "loss", "factor", 4 / 3, 4, 100,
              "the cap bounds how sure the model may be of a token", 0.0008),
    Dimension("VALUE_EMBEDDING_EVERY", "embeddings", "sum", 1, 1, 24,
              "value embeddings hand each token's identity to attention at almost no cost",
              0.0025, whole=True),
    Dimension("VALUE_GATE_CHANNELS", "embeddings", "factor", 2, 4, 128,
              "how much of the stream the gate of the value embedding can read", 0.0005, whole=True),
    Dimension("VALUE_GATE_SCALE", "embeddings", "factor", 1.5, 0.5, 8,
              "how strongly the value embedding can be turned up", 0.0005),
    Dimension("INIT_SCALE", "initialisation", "factor", 1.2, 0.1, 3,
              "smaller weights turn faster under updates of a fixed size", 0.0006),
    Dimension("EMBEDDING_INIT_STD", "initialisation", "factor", 1.5, 0.05, 8,
              "larger initial embeddings move more slowly, relatively", 0.0008),
    Dimension("HEAD_INIT_STD", "initialisation", "factor", 2, 1e-4, 0.05,
              "a head near zero starts at the uniform prediction", 0.0006),
    Dimension("RESIDUAL_INIT", "initialisation", "sum", 0.05, 0.5, 1.5,
              "how much of the stream each layer passes on at the start", 0.0015),
    Dimension("X0_INIT", "initialisation", "factor", 1.5, 0.005, 1,
              "how loudly the token itself is heard in every layer at the start", 0.001),
    _rate("MATRIX_LR", 0.002, 0.4, "the size of Muon's steps in the layers' matrices"),
    _rate("EMBEDDING_LR", 0.02, 5, "embeddings get sparse gradients and bear large steps"),
    _rate("VALUE_EMBEDDING_LR_SCALE", 0.1, 8,
          "value embeddings may want another rate than token embeddings", 0.0008),
    _rate("UNEMBEDDING_LR", 0.0003, 0.08, "the head sets the scale of the logits early on"),
    _rate("SCALAR_LR", 0.02, 5, "the per-layer factors are few and can move fast", 0.0008),
    Dimension("RESIDUAL_LR_SCALE", "learning rate", "factor", 2, 0.0005, 0.2,
              "the factors on the stream act on everything, so they move slowly", 0.0006),
    Dimension("ADAM_BETAS", "optimizer", "decay", 1.4, 0.3, 0.98,
              "the first moment trades noise against delay", 0.0008, index=0),
    Dimension("ADAM_BETAS", "optimizer", "decay", 2, 0.8, 0.9995,
              "the second moment trades a steady scale against a current one", 0.0008, index=1),
    Dimension("X0_ADAM_BETAS", "optimizer", "decay", 2, 0.5, 0.99,
              "averaging for the factors on the input embedding", 0.0004, index=0),
    Dimension("MUON_MOMENTUM", "optimizer", "decay", 1.4, 0.7, 0.99,
              "longer averaging gives cleaner directions that lag behind", 0.001),
    Dimension("MUON_START_MOMENTUM", "optimizer", "decay", 1.4, 0.3, 0.97,
              "early gradients change fast, so average over fewer of them", 0.0006),
    Dimension("MOMENTUM_WARMUP_STEPS", "optimizer", "factor", 1.5, 10, 3000,
              "when the long averaging sets in", 0.0006, whole=True),
    Dimension("MUON_BETA2", "optimizer", "decay", 2, 0.5, 0.995,
              "over how many steps a neuron's update size is judged", 0.0005),
    Dimension("NS_STEPS", "optimizer", "sum", 1, 2, 8,
              "fewer orthogonalisation steps are cheaper and less exact", 0.0008, whole=True),
    _decay("WEIGHT_DECAY", 0.1, "decay keeps the matrices small, so that steps stay large relative to them"),
    Dimension("FINAL_WEIGHT_DECAY_FRAC", "weight decay", "sum", 0.25, 0, 1,
              "decay that goes on to the end regularises the last steps too", 0.0008),
    _decay("HEAD_WEIGHT_DECAY", 0.01, "keeps rare tokens' logits from drifting"),
    _decay("EMBEDDING_WEIGHT_DECAY", 0.001, "keeps rare tokens' embeddings from drifting"),
    _decay("VALUE_EMBEDDING_WEIGHT_DECAY", 0.001, "value embeddings are many and see each token rarely"),
    Dimension("WARMUP_RATIO", "schedule", "sum", 0.03, 0, 0.4,
              "a gentle start protects weights that are still random, and costs time", 0.0008),
    Dimension("WARMDOWN_RATIO", "schedule", "sum", 0.1, 0.05, 1,
              "a long descent averages the noise of large steps away", 0.0012),
    Dimension("FINAL_LR_FRAC", "schedule", "sum", 0.05, 0, 0.5,
              "steps at a rate of almost zero learn nothing", 0.0008),
)  # fmt: skip


@dataclass(frozen=True)
class Space:
    """The dimensions that a source has."""

    dimensions: tuple[Dimension, ...]

    @classmethod
    def of(cls, constants: Mapping[str, ConstantValue]) -> Space:
        """The known dimensions among `constants`, and guesses for unknown positive real numbers."""
        known = [d for d in DIMENSIONS if isinstance(d.read(constants), int | float | str)]
        names = {dimension.name for dimension in DIMENSIONS} | {"ADAM_EPS", "LR_REFERENCE_WIDTH"}
        guessed = [
            Dimension(
                name,
                "other",
                "factor",
                1.5,
                value / 100,
                value * 100,
                f"what {name} sets may not be best yet",
            )
            for name, value in constants.items()
            if name not in names and isinstance(value, float) and 1e-6 <= value <= 1e5
        ]
        return cls((*known, *guessed))

    def coordinates(self, constants: Mapping[str, ConstantValue]) -> tuple[float, ...]:
        """Where `constants` lie, in steps; a constant that is missing there lies at 0."""
        values = [dimension.read(constants) for dimension in self.dimensions]
        return tuple(
            0.0 if value is None or (isinstance(value, str) and d.scale != "pattern") else d.coordinate(value)
            for d, value in zip(self.dimensions, values, strict=True)
        )


def _activation_share(constants: Mapping[str, ConstantValue]) -> float | None:
    """What activations of a forward pass grow with: rows x layers x width; None if that is not known."""
    names = ("DEVICE_BATCH_SIZE", "DEPTH", "DEPTH", "ASPECT_RATIO")
    values = [constants.get(name) for name in names]
    numbers = [value for value in values if isinstance(value, int | float)]
    return math.prod(numbers) if len(numbers) == len(names) else None


def settle(
    constants: Mapping[str, ConstantValue],
    overrides: Mapping[str, ConstantValue],
    reference: Mapping[str, ConstantValue],
    sequence_len: int,
) -> dict[str, ConstantValue]:
    """`overrides` with fewer rows a forward pass where that is needed; the mathematics stays the same.

    Rows are halved while the total batch is no multiple of them, and while a larger model would take more
    than `MEMORY_GROWTH` times the memory of the `reference` for its activations.
    """
    settled = dict(overrides)
    together = {**constants, **settled}
    total, rows = together.get("TOTAL_BATCH_SIZE"), together.get("DEVICE_BATCH_SIZE")
    if not isinstance(total, int) or not isinstance(rows, int):
        return settled
    limit = _activation_share(reference)
    before = rows
    while rows > 1 and (
        total % (rows * sequence_len)
        or (
            limit
            and (_activation_share({**together, "DEVICE_BATCH_SIZE": rows}) or 0) > MEMORY_GROWTH * limit
        )
    ):
        rows //= 2
    if rows != before:
        settled["DEVICE_BATCH_SIZE"] = rows
    return settled


def merged(*overrides: Mapping[str, ConstantValue]) -> dict[str, ConstantValue]:
    """Several changes as one; the later wins."""
    return {name: value for change in overrides for name, value in change.items()}


def spelled(value: ConstantValue) -> str:
    """A value as a title says it."""
    if isinstance(value, tuple):
        return f"({', '.join(spelled(item) for item in value)})"
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1024 and value.bit_count() == 1:
        return f"2**{value.bit_length() - 1}"
    return f"{value:g}" if isinstance(value, float) else str(value)
