"""Simulated trainers to name in `simulation.trainer`, and the tiny target that they are written for.

`bowl` has a known optimum and honest noise; `fragile_bowl` is the same but crashes now and then, and wherever
the learning rate is far too high. Equal constants and seed give an equal run, in any process.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping
from pathlib import Path

from autohyp.execution.simulation import SimulatedRun
from autohyp.records import ConstantValue
from autohyp.testing.fakes import STAND_IN_SOURCE

__all__ = ["BEST", "NOISE_SD_BPB", "bowl", "broken", "fragile_bowl", "true_bpb", "write_target"]

BEST: dict[str, float] = {"MATRIX_LR": 0.06, "WEIGHT_DECAY": 0.1, "WARMDOWN_RATIO": 0.7}
"""Where the bowl's bottom lies, in the constants of the tiny target and of the real train.py."""

FLOOR_BPB = 0.97
CURVATURE_BPB = 0.01
NOISE_SD_BPB = 0.0005
CRASH_SHARE = 0.05
NUM_CURVE_POINTS = 8


def true_bpb(constants: Mapping[str, ConstantValue]) -> float:
    """val_bpb without noise: the floor plus the squared log distances from the best values."""
    distances = [math.log(max(_number(constants.get(name)), 1e-6) / best) for name, best in BEST.items()]
    return FLOOR_BPB + CURVATURE_BPB * sum(distance**2 for distance in distances)


def bowl(constants: Mapping[str, ConstantValue], seed: int) -> SimulatedRun:
    """A run that lasts the budget and scores the true value with noise."""
    val_bpb = true_bpb(constants) + _rng(constants, seed).gauss(0, NOISE_SD_BPB)
    shares = [(point + 1) / NUM_CURVE_POINTS for point in range(NUM_CURVE_POINTS)]
    return SimulatedRun(
        val_bpb=val_bpb, curve=tuple((share, val_bpb * (1 + math.exp(-4 * share))) for share in shares)
    )


def fragile_bowl(constants: Mapping[str, ConstantValue], seed: int) -> SimulatedRun:
    """The bowl, with one run in twenty that crashes, and all that learn ten times too fast."""
    if _number(constants.get("MATRIX_LR")) > 10 * BEST["MATRIX_LR"]:
        raise ValueError("the loss is not finite")
    if _rng(constants, seed, "crash").random() < CRASH_SHARE and not _is_stand_in(constants):
        raise RuntimeError("out of memory")
    return bowl(constants, seed)


def broken(constants: Mapping[str, ConstantValue], seed: int) -> float:
    """No trainer: it gives a number, which every run must then say."""
    return true_bpb(constants)


def write_target(folder: Path) -> None:
    """A train.py of a few constants that preflight accepts, and a prepare.py to be bound to."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.py").write_text(STAND_IN_SOURCE, encoding="utf-8")
    (folder / "prepare.py").write_text('"""Stands in for prepare.py."""\n', encoding="utf-8")


def _is_stand_in(constants: Mapping[str, ConstantValue]) -> bool:
    """The untouched tiny target: a baseline that crashes would end the campaign before it began."""
    return constants.get("MATRIX_LR") == 0.04 and constants.get("WEIGHT_DECAY") == 0.2


def _number(value: ConstantValue | None) -> float:
    return float(value) if isinstance(value, int | float) else 1.0


def _rng(constants: Mapping[str, ConstantValue], seed: int, what: str = "") -> random.Random:
    text = f"{sorted(constants.items())} {seed} {what}"
    return random.Random(hashlib.sha256(text.encode()).digest())
