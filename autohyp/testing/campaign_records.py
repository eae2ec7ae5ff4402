"""The records of a campaign that never ran: what `autohyp.testing.campaigns` puts into its journals.

Each function draws one record from the simulation's seeded random numbers and simulated clock. Numbers follow
real ones in kind: most ideas lose, gains shrink as the champion improves, equal runs differ a little.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from autohyp.records import (
    BASELINE_KIND,
    ConstantsEdit,
    ConstantValue,
    CurvePoint,
    Decision,
    Experiment,
    Finding,
    Hypothesis,
    NoiseFloor,
    Prediction,
    Run,
    RunResult,
    RunStatus,
    Verdict,
)

__all__ = [
    "CampaignShape",
    "Simulation",
    "draw_fate",
    "draw_num_runs",
    "draw_true_bpb",
    "keep_finding",
    "make_decision",
    "make_experiment",
    "make_hypothesis",
    "make_result",
    "make_run",
    "noise_finding",
]

_START = datetime(2026, 3, 8, 9, 0, 0, tzinfo=UTC)

_NOISE_SD_BPB = 0.0012

_BASELINE_BPB = 1.8531

_CONSTANTS: dict[str, ConstantValue] = {
    "DEPTH": 4,
    "ASPECT_RATIO": 32,
    "HEAD_DIM": 32,
    "MLP_RATIO": 4,
    "WINDOW_PATTERN": "SSSL",
    "TOTAL_BATCH_SIZE": 8192,
    "DEVICE_BATCH_SIZE": 16,
    "MATRIX_LR": 0.04,
    "EMBEDDING_LR": 0.6,
    "UNEMBEDDING_LR": 0.004,
    "SCALAR_LR": 0.5,
    "ADAM_BETAS": (0.8, 0.95),
    "WEIGHT_DECAY": 0.2,
    "WARMUP_RATIO": 0.0,
    "WARMDOWN_RATIO": 0.5,
    "FINAL_LR_FRAC": 0.0,
}

_IDEAS = (
    ("Halve the batch", "batch", "TOTAL_BATCH_SIZE", "twice the optimizer steps in the same budget"),
    (
        "Raise the matrix learning rate",
        "learning rate",
        "MATRIX_LR",
        "Muon is stable well above its default rate",
    ),
    ("Lower the embedding learning rate", "learning rate", "EMBEDDING_LR", "rare tokens overshoot early"),
    ("Longer warm-down", "schedule", "WARMDOWN_RATIO", "a short run gains most while the rate falls"),
    (
        "Less weight decay",
        "regularisation",
        "WEIGHT_DECAY",
        "far from overfitting, decay only costs progress",
    ),
    (
        "All layers see the whole context",
        "attention",
        "WINDOW_PATTERN",
        "windows are shorter than the documents",
    ),
    ("One more layer", "shape", "DEPTH", "depth is worth more than its steps"),
    ("Faster second moment", "optimizer", "ADAM_BETAS", "statistics of a short run age quickly"),
    ("A short warm-up", "schedule", "WARMUP_RATIO", "the first steps are too large for the head"),
)


@dataclass(frozen=True)
class CampaignShape:
    """What a generated campaign looks like; rates are probabilities per experiment."""

    num_experiments: int = 40
    seed: int = 0
    tag: str = "mar8"
    workers: int = 2
    budget_s: float = 30.0
    keep_rate: float = 0.12
    crash_rate: float = 0.06
    invalid_rate: float = 0.02
    replicate_rate: float = 0.15
    lost_rate: float = 0.04
    num_queued: int = 3
    num_running: int = 0
    experiments_per_tool: int = 10
    is_ended: bool = False
    sandbox: str = "landlock"


@dataclass
class Simulation:
    """The generator's memory: simulated time, the champion, and the numbers for ids."""

    shape: CampaignShape
    random: random.Random
    now: datetime = _START
    ordinal: int = 0
    champion: Experiment | None = None
    champion_bpb: float = _BASELINE_BPB
    champion_runs: int = 0

    @property
    def stamp(self) -> str:
        return self.now.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def sha1(self, *parts: object) -> str:
        return hashlib.sha1(repr((self.shape.seed, parts)).encode()).hexdigest()


def make_hypothesis(sim: Simulation, baseline: bool = False, number: int | None = None) -> Hypothesis:
    number = number or sim.ordinal + 1
    if baseline:
        return Hypothesis(
            hypothesis_id="hyp-baseline",
            title="Baseline",
            rationale="The untouched target, repeated to measure the noise.",
            edit=None,
            kind=BASELINE_KIND,
            researcher="observer",
            created_at=sim.stamp,
        )
    title, kind, constant, mechanism = sim.random.choice(_IDEAS)
    return Hypothesis(
        hypothesis_id=f"hyp-{number:05d}",
        title=f"{title} ({number})",
        rationale=f"Mechanism: {mechanism}. If it is right, val_bpb falls by more than the noise.",
        prediction=Prediction(delta_bpb=-round(sim.random.uniform(0.001, 0.02), 4), sd_bpb=0.01),
        edit=ConstantsEdit(overrides={constant: _new_value(sim, constant)}),
        kind=kind,
        researcher="library",
        source="simulated",
        priority=round(sim.random.random(), 3),
        created_at=sim.stamp,
    )


def _new_value(sim: Simulation, constant: str) -> ConstantValue:
    before = (sim.champion.constants if sim.champion else _CONSTANTS)[constant]
    factor = sim.random.choice((0.5, 0.8, 1.25, 2.0))
    match before:
        case str():
            return sim.random.choice(("SSSL", "SL", "LLLL"))
        case tuple():
            return tuple(round(float(value) * 0.99, 4) for value in before)
        case int():
            return max(1, int(before * factor))
        case _:
            return round(float(before) * factor, 6) or 0.05


def make_experiment(sim: Simulation, hypothesis: Hypothesis) -> Experiment:
    sim.ordinal += 1
    parent = sim.champion
    constants = dict(parent.constants if parent else _CONSTANTS)
    diff = ""
    if isinstance(hypothesis.edit, ConstantsEdit):
        lines = ["--- a/train.py", "+++ b/train.py", "@@ -40,3 +40,3 @@"]
        for name, value in hypothesis.edit.overrides.items():
            lines += [f"-{name} = {constants[name]!r}", f"+{name} = {value!r}"]
        constants |= hypothesis.edit.overrides
        diff = "\n".join(lines) + "\n"
    slug = "baseline" if parent is None else "-".join(hypothesis.title.lower().split(" (")[0].split())
    return Experiment(
        experiment_id=f"exp-{sim.ordinal:04d}-{slug}",
        ordinal=sim.ordinal,
        hypothesis=hypothesis,
        parent_experiment_id=parent.experiment_id if parent else None,
        commit=sim.sha1("commit", sim.ordinal),
        parent_commit=parent.commit if parent else None,
        fingerprint=sim.sha1("fingerprint", sim.ordinal),
        constants=constants,
        diff=diff,
        diff_stat="" if parent is None else "1 file changed, 1 insertion(+), 1 deletion(-)",
        diff_hash=hashlib.sha1(diff.encode()).hexdigest()[:7],
        line_delta=0,
        seeds=(42,),
        created_at=sim.stamp,
    )


def draw_fate(sim: Simulation, experiment: Experiment) -> Verdict:
    if experiment.is_baseline:
        return Verdict.KEEP
    shape, draw = sim.shape, sim.random.random()
    for verdict, rate in (
        (Verdict.KEEP, shape.keep_rate / (1 + experiment.ordinal / 100)),
        (Verdict.CRASH, shape.crash_rate),
        (Verdict.INVALID, shape.invalid_rate),
    ):
        if draw < rate:
            return verdict
        draw -= rate
    return Verdict.DISCARD


def draw_num_runs(sim: Simulation, experiment: Experiment, fate: Verdict) -> int:
    if experiment.is_baseline:
        return 3
    if fate in (Verdict.CRASH, Verdict.INVALID):
        return 1
    return 2 if sim.random.random() < sim.shape.replicate_rate else 1


def draw_true_bpb(sim: Simulation, fate: Verdict) -> float:
    if sim.champion is None:
        return _BASELINE_BPB
    if fate is Verdict.KEEP:
        room = max(0.0, sim.champion_bpb - 1.55)
        return sim.champion_bpb - max(0.002, room * sim.random.uniform(0.03, 0.14))
    return sim.champion_bpb + abs(sim.random.gauss(0, 0.015)) + 0.001


def make_run(sim: Simulation, experiment: Experiment, seed: int, attempt: int) -> Run:
    return Run(
        run_id=f"{experiment.experiment_id}-s{seed}-a{attempt}",
        experiment_id=experiment.experiment_id,
        seed=seed,
        attempt=attempt,
        worker_id=f"worker-{sim.ordinal % sim.shape.workers}",
        node_id="node-1",
        started_at=sim.stamp,
    )


def make_result(sim: Simulation, run: Run, fate: Verdict, true_bpb: float) -> RunResult:
    status = {Verdict.CRASH: RunStatus.CRASHED, Verdict.INVALID: RunStatus.INVALID}.get(
        fate, RunStatus.COMPLETED
    )
    is_measured = status is RunStatus.COMPLETED
    budget_s = sim.shape.budget_s
    charged_s = budget_s if is_measured else round(sim.random.uniform(1, budget_s), 3)
    steps = round(4.1 * charged_s + sim.random.gauss(0, 1.5))
    val_bpb = round(true_bpb + sim.random.gauss(0, _NOISE_SD_BPB), 6) if is_measured else None
    sim.now += timedelta(seconds=charged_s + 4.25)
    curve = tuple(
        CurvePoint(step=steps * i // 20, progress=i / 20, loss=round(9.0 * (0.5 + 0.5 * 0.8**i), 4))
        for i in range(1, 21 if is_measured else 6)
    )
    return RunResult(
        **run.model_dump(exclude={"started_at"}),
        status=status,
        reason={
            RunStatus.CRASHED: "exit code 1: RuntimeError: shapes cannot be multiplied",
            RunStatus.INVALID: "a loss depends on tokens that come after it",
        }.get(status, ""),
        val_bpb=val_bpb,
        val_bpb_legacy=None if val_bpb is None else round(val_bpb * 0.9991, 6),
        budget_s=budget_s,
        charged_s=charged_s,
        startup_s=2.75,
        evaluation_s=1.5 if is_measured else 0.0,
        total_s=round(charged_s + 4.25, 3),
        num_steps=steps,
        total_tokens_m=round(steps * 8192 / 1e6, 3),
        tokens_per_second=round(steps * 8192 / charged_s, 1),
        mfu_percent=0.0,
        num_params_m=3.1,
        peak_memory_mb=round(sim.random.uniform(700, 900), 1),
        curve=curve,
        summary={"depth": "4"} if is_measured else {},
        integrity={"causality": "passed", "spot_checks": 16} if is_measured else {},
        sandbox=sim.shape.sandbox,
        log_tail="step 120 loss 4.71\n",
        finished_at=sim.stamp,
    )


def make_decision(
    sim: Simulation, experiment: Experiment, result: RunResult, scores: list[float], verdict: Verdict
) -> Decision:
    noise = NoiseFloor(sd_bpb=_NOISE_SD_BPB, degrees_of_freedom=2) if sim.champion else None
    common = {
        "experiment_id": experiment.experiment_id,
        "verdict": verdict,
        "champion_id": sim.champion.experiment_id if sim.champion else None,
        "num_runs": len(scores) or 1,
        "noise": noise,
        "next_seeds": (result.seed + 1,) if verdict is Verdict.REPLICATE else (),
        "decided_at": sim.stamp,
    }
    if not scores:
        return Decision(**common, reason=result.reason)
    mean = sum(scores) / len(scores)
    if sim.champion is None:
        return Decision(**common, reason="the untouched target", mean_bpb=mean)
    gain = sim.champion_bpb - mean
    error = _NOISE_SD_BPB * (1 / len(scores) + 1 / sim.champion_runs) ** 0.5
    threshold = 2.3 * error
    reasons = {
        Verdict.KEEP: f"a gain of {gain:.4f} beyond the threshold of {threshold:.4f}",
        Verdict.REPLICATE: f"a gain of {gain:.4f} is within the noise: another seed decides",
    }
    return Decision(
        **common,
        reason=reasons.get(verdict, f"no gain: {gain:+.4f} against the champion"),
        mean_bpb=mean,
        champion_mean_bpb=sim.champion_bpb,
        champion_num_runs=sim.champion_runs,
        gain_bpb=gain,
        gain_sd_bpb=error,
        probability_better=0.999 if gain > threshold else 0.2,
        threshold_bpb=threshold,
    )


def noise_finding() -> Finding:
    return Finding(
        finding_id="noise-floor",
        title="Runs of one source differ by about 0.0012",
        evidence="3 runs of the baseline",
        confidence=0.9,
        mechanism="initialisation and throughput",
        implication="gains below 0.003 need replicates",
    )


def keep_finding(experiment: Experiment, decision: Decision) -> Finding:
    return Finding(
        finding_id=f"kept-{experiment.ordinal:04d}",
        title=f"{experiment.hypothesis.title} helps",
        evidence=f"{experiment.experiment_id}: {decision.reason}",
        confidence=decision.probability_better or 0.5,
        mechanism=experiment.hypothesis.rationale,
    )
