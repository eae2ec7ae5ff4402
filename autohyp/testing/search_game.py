"""A search with a known answer: a made-up train.py whose val_bpb is a formula of its constants.

`SearchGame` plays a researcher against it, one run after another, with a plain keep rule and honest noise,
and tells the true value of the champion after each. It takes milliseconds a run, so researchers can be
compared over many seeds. The landscape is a bowl in the scales of the constants, with its bottom away from
the start; structural changes have no effect in it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from autohyp.records import (
    BASELINE_KIND,
    Brief,
    ConstantValue,
    Hypothesis,
    NoiseFloor,
    PastExperiment,
    Verdict,
)
from autohyp.researchers.base import Researcher
from autohyp.source import apply_edit, fingerprint, read_constants

__all__ = ["TOY_SOURCE", "Bowl", "SearchGame"]

TOY_SOURCE = '''"""A train.py with nothing but constants."""

import prepare

DEPTH = 8
ASPECT_RATIO = 64
HEAD_DIM = 128
TOTAL_BATCH_SIZE = 2**19  # tokens
DEVICE_BATCH_SIZE = 32
MATRIX_LR = 0.04
EMBEDDING_LR = 0.6
UNEMBEDDING_LR = 0.004
SCALAR_LR = 0.5
ROPE_BASE = 10_000
X0_INIT = 0.1
INIT_SCALE = 1.0
WARMDOWN_RATIO = 0.5
WARMUP_RATIO = 0.0
ADAM_BETAS = (0.8, 0.95)

torch = prepare
torch.manual_seed(prepare.SEED)
clock = prepare.TrainingClock()
val_bpb = prepare.evaluate_bpb(None, DEVICE_BATCH_SIZE)
'''
"""What the game's edits apply to; it obeys the rules that preflight checks."""


STEPS = {
    "MATRIX_LR": 1.5,
    "EMBEDDING_LR": 1.5,
    "UNEMBEDDING_LR": 1.5,
    "SCALAR_LR": 1.5,
    "X0_INIT": 1.5,
    "INIT_SCALE": 1.2,
    "ROPE_BASE": 4.0,
}
"""The constants that matter in a bowl, and the factor that a step changes each by."""


@dataclass(frozen=True)
class Bowl:
    """val_bpb = floor + sum of curvature x (steps from the constant's best value)^2; steps are in `STEPS`."""

    best: Mapping[str, float]
    curvature: Mapping[str, float]
    floor_bpb: float = 0.97

    @classmethod
    def drawn(cls, seed: int) -> Bowl:
        """A bowl whose bottom lies up to two steps from the start in each constant that matters."""
        rng = random.Random(seed)
        start = read_constants(TOY_SOURCE)
        best = {name: _number(start[name]) * step ** rng.uniform(-2, 2) for name, step in STEPS.items()}
        return cls(best, {name: rng.uniform(0.0006, 0.003) for name in STEPS})

    def value(self, constants: Mapping[str, ConstantValue]) -> float:
        """The true val_bpb of a configuration."""
        logs = {n: math.log(max(_number(constants[n]), 1e-9) / best) for n, best in self.best.items()}
        return self.floor_bpb + sum(
            self.curvature[n] * (x / math.log(STEPS[n])) ** 2 for n, x in logs.items()
        )


def _number(value: ConstantValue) -> float:
    if isinstance(value, tuple | str):
        raise TypeError(f"{value!r} is no number")
    return float(value)


@dataclass
class SearchGame:
    """One campaign of a researcher on a bowl."""

    researcher: Researcher
    bowl: Bowl
    seed: int
    noise_bpb: float = 0.0005
    keep_noises: float = 2.5
    source: str = TOY_SOURCE
    profile: str = "gpu"
    history: list[PastExperiment] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        self.champion_source = self.source
        baseline = Hypothesis(hypothesis_id="baseline", title="baseline", rationale="", edit=None,
                              kind=BASELINE_KIND, researcher="game")  # fmt: skip
        self._champion = self._record(baseline, self.source, None, Verdict.KEEP)

    @property
    def champion_true_bpb(self) -> float:
        return self.bowl.value(read_constants(self.champion_source))

    def brief(self, queued: tuple[Hypothesis, ...] = (), parallel: int = 1) -> Brief:
        """The brief as it stands."""
        return Brief(
            tag=f"game-{self.seed}", objective="lower val_bpb", constraints=(), profile=self.profile,
            champion_id=self._champion.experiment_id, champion_source=self.champion_source,
            champion_bpb=self._champion.mean_bpb, baseline_bpb=self.history[0].mean_bpb,
            noise=NoiseFloor(sd_bpb=self.noise_bpb, degrees_of_freedom=4), history=tuple(self.history),
            queued=queued, parallel=parallel,
        )  # fmt: skip

    def play(self, runs: int) -> list[float]:
        """Run `runs` experiments one after another; the champion's true value after each."""
        values = []
        for _ in range(runs):
            for hypothesis in self.researcher.propose(self.brief(), 1):
                self.run(hypothesis)
            values.append(self.champion_true_bpb)
        return values

    def run(self, hypothesis: Hypothesis) -> PastExperiment:
        """Measure a hypothesis on the champion, decide, and record it."""
        source = apply_edit(self.champion_source, hypothesis.edit)
        experiment = self._record(hypothesis, source, self._champion, None)
        if experiment.verdict is Verdict.KEEP:
            self._champion, self.champion_source = experiment, source
        self.researcher.observe(experiment)
        return experiment

    def _record(
        self, hypothesis: Hypothesis, source: str, parent: PastExperiment | None, verdict: Verdict | None
    ) -> PastExperiment:
        constants = read_constants(source)
        measured = self.bowl.value(constants) + self._rng.gauss(0, self.noise_bpb)
        gain = parent.mean_bpb - measured if parent and parent.mean_bpb is not None else None
        kept = gain is not None and gain > self.keep_noises * self.noise_bpb
        experiment = PastExperiment(
            experiment_id=f"exp-{len(self.history):04d}-{hypothesis.kind.replace(' ', '-')}",
            hypothesis=hypothesis, parent_experiment_id=parent.experiment_id if parent else None,
            constants=constants, fingerprint=fingerprint(source),
            verdict=verdict or (Verdict.KEEP if kept else Verdict.DISCARD),
            gain_bpb=gain, gain_sd_bpb=self.noise_bpb * math.sqrt(2), mean_bpb=measured,
        )  # fmt: skip
        self.history.append(experiment)
        return experiment
