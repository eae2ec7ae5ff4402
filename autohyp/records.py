"""The words of the project as frozen models: what is proposed, run, measured and decided.

Records cross process, machine and time boundaries: they are what the journal stores, what actors
send one another and what views read. They never change once made; a later fact is a new record.
Times are ISO 8601 in UTC, durations end in `_s`, losses are bits per byte (`_bpb`) unless a name says
otherwise. The journal's event types are in `autohyp.journal.events`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "BASELINE_KIND",
    "Brief",
    "ConstantValue",
    "ConstantsEdit",
    "CurvePoint",
    "Decision",
    "DiffEdit",
    "Edit",
    "Experiment",
    "Finding",
    "Hardware",
    "Hypothesis",
    "NoiseFloor",
    "PastExperiment",
    "Prediction",
    "Progress",
    "Record",
    "Run",
    "RunResult",
    "RunStatus",
    "Scalar",
    "SourceEdit",
    "Tool",
    "ToolStatus",
    "Verdict",
    "WorkerLive",
    "utc_now",
]

BASELINE_KIND = "baseline"
"""The `kind` of the one hypothesis that changes nothing."""

Scalar = bool | int | float | str
ConstantValue = Scalar | tuple[Scalar, ...]
"""What a constant of train.py may be set to: a plain literal, or a flat tuple of them."""


def utc_now() -> str:
    """The current time, ISO 8601, UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Record(BaseModel):
    """Base of all records: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, ser_json_inf_nan="constants")


# ---------------------------------------------------------------------------------------------
# What is proposed


class ConstantsEdit(Record):
    """New values for constants that train.py defines at its top level."""

    kind: Literal["constants"] = "constants"
    overrides: dict[str, ConstantValue] = Field(min_length=1)


class DiffEdit(Record):
    """A unified diff of train.py."""

    kind: Literal["diff"] = "diff"
    patch: str


class SourceEdit(Record):
    """A whole new train.py."""

    kind: Literal["source"] = "source"
    source: str


Edit = Annotated[ConstantsEdit | DiffEdit | SourceEdit, Field(discriminator="kind")]


class Prediction(Record):
    """The expected change of val_bpb (negative is better) and how sure its author is."""

    delta_bpb: float
    sd_bpb: float | None = Field(default=None, gt=0)


class Hypothesis(Record):
    """An idea that can be wrong: a change, why it should help, and by how much.

    `kind` names the sort of change ("learning rate", "batch", "attention", ...), `source` says where
    the prior comes from, `builds_on` lists the experiments that a combination is made of.
    """

    hypothesis_id: str
    title: str
    rationale: str
    prediction: Prediction | None = None
    edit: Edit | None = Field(description="None only for the baseline, which changes nothing")
    kind: str
    researcher: str
    source: str = ""
    builds_on: tuple[str, ...] = ()
    priority: float = 0.0
    created_at: str = Field(default_factory=utc_now)


class Experiment(Record):
    """One hypothesis as one git commit on top of its parent; `seeds` are the runs it starts with."""

    experiment_id: str
    ordinal: int = Field(ge=1)
    hypothesis: Hypothesis
    parent_experiment_id: str | None
    commit: str
    parent_commit: str | None
    fingerprint: str
    constants: dict[str, ConstantValue]
    diff: str
    diff_stat: str
    diff_hash: str
    line_delta: int = Field(description="lines added less lines removed against the parent")
    seeds: tuple[int, ...] = Field(min_length=1)
    created_at: str = Field(default_factory=utc_now)

    @property
    def is_baseline(self) -> bool:
        return self.hypothesis.kind == BASELINE_KIND


# ---------------------------------------------------------------------------------------------
# What is run and measured


class RunStatus(StrEnum):
    """How a run ended, as its launcher and evaluator saw it."""

    COMPLETED = "completed"
    CRASHED = "crashed"
    TIMED_OUT = "timed_out"
    INVALID = "invalid"


class Run(Record):
    """One execution of an experiment with one seed on one worker; `attempt` counts from 1."""

    run_id: str
    experiment_id: str
    seed: int
    attempt: int = Field(ge=1)
    worker_id: str
    node_id: str = ""
    gpu_id: str = ""
    gpu_name: str = ""
    started_at: str = Field(default_factory=utc_now)


class CurvePoint(Record):
    """The training loss (nats per token) at a step, as the script reported it."""

    step: int
    progress: float
    loss: float


class RunResult(Record):
    """What the launcher and the evaluator measured for a run.

    `val_bpb` is None unless `status` is completed. `num_steps`, `mfu_percent`, `summary` and `curve` come
    from the script and are informative; all else is measured outside it.
    """

    run_id: str
    experiment_id: str
    seed: int
    attempt: int = 1
    worker_id: str
    node_id: str = ""
    gpu_id: str = ""
    gpu_name: str = ""
    status: RunStatus
    reason: str = ""
    val_bpb: float | None = None
    val_bpb_legacy: float | None = None
    budget_s: float
    charged_s: float = 0.0
    startup_s: float = 0.0
    evaluation_s: float = 0.0
    total_s: float = 0.0
    num_steps: int = 0
    total_tokens_m: float = 0.0
    tokens_per_second: float = 0.0
    mfu_percent: float = 0.0
    num_params_m: float = 0.0
    peak_memory_mb: float = 0.0
    curve: tuple[CurvePoint, ...] = ()
    summary: dict[str, str] = Field(default_factory=dict)
    integrity: dict[str, str | float | bool] = Field(default_factory=dict)
    sandbox: str
    log_tail: str = ""
    finished_at: str = Field(default_factory=utc_now)

    @property
    def is_measured(self) -> bool:
        return self.status is RunStatus.COMPLETED and self.val_bpb is not None


class NoiseFloor(Record):
    """The standard deviation of val_bpb between runs of one source with different seeds."""

    sd_bpb: float = Field(ge=0)
    degrees_of_freedom: int = Field(ge=0)


# ---------------------------------------------------------------------------------------------
# What is decided


class Verdict(StrEnum):
    """What becomes of an experiment."""

    KEEP = "keep"
    DISCARD = "discard"
    CRASH = "crash"
    REPLICATE = "replicate"
    INVALID = "invalid"

    @property
    def is_terminal(self) -> bool:
        return self is not Verdict.REPLICATE


class Decision(Record):
    """A verdict with the numbers behind it.

    `gain_bpb` is the champion's mean less the experiment's (positive is better), `probability_better` the
    posterior probability that the true gain is above zero, `level` the share of the campaign's false-keep
    rate that this comparison spends, `next_seeds` the runs that a replicate asks for.
    """

    experiment_id: str
    verdict: Verdict
    reason: str
    champion_id: str | None = None
    mean_bpb: float | None = None
    num_runs: int = 0
    champion_mean_bpb: float | None = None
    champion_num_runs: int = 0
    gain_bpb: float | None = None
    gain_sd_bpb: float | None = None
    probability_better: float | None = None
    threshold_bpb: float | None = None
    level: float | None = None
    noise: NoiseFloor | None = None
    next_seeds: tuple[int, ...] = ()
    decided_at: str = Field(default_factory=utc_now)


class Finding(Record):
    """Something learnt, with what supports it; `confidence` is a probability."""

    finding_id: str
    title: str
    evidence: str
    confidence: float = Field(ge=0, le=1)
    mechanism: str = ""
    implication: str = ""


class ToolStatus(StrEnum):
    """Where a tool stands between being asked for and being used."""

    REQUESTED = "requested"
    PUBLISHED = "published"
    ADOPTED = "adopted"
    DISCARDED = "discarded"


class Tool(Record):
    """Something the observer asked the tool builder for, with its measured worth once published."""

    tool_id: str
    title: str
    status: ToolStatus
    problem: str
    requested_by: str = "observer"
    requested_at: str = Field(default_factory=utc_now)
    path: str = ""
    summary: str = ""
    usage: str = ""
    worth: dict[str, float] = Field(default_factory=dict)
    decided_at: str = ""
    decided_by: str = ""
    notes: str = ""


# ---------------------------------------------------------------------------------------------
# What a researcher sees


class PastExperiment(Record):
    """A decided or pending experiment as a researcher sees it."""

    experiment_id: str
    hypothesis: Hypothesis
    parent_experiment_id: str | None
    constants: dict[str, ConstantValue]
    fingerprint: str
    verdict: Verdict | None
    gain_bpb: float | None
    gain_sd_bpb: float | None
    mean_bpb: float | None
    reason: str = ""


class Brief(Record):
    """Everything a researcher may base a proposal on: the past only as the journal tells it.

    `queued` are hypotheses proposed but not yet run; `parallel` is how many workers wait to be fed.
    """

    tag: str
    objective: str
    constraints: tuple[str, ...]
    profile: str
    champion_id: str | None
    champion_source: str
    champion_bpb: float | None
    baseline_bpb: float | None
    noise: NoiseFloor | None
    history: tuple[PastExperiment, ...] = ()
    queued: tuple[Hypothesis, ...] = ()
    refused: tuple[tuple[str, str], ...] = Field(default=(), description="(hypothesis title, reason)")
    findings: tuple[Finding, ...] = ()
    open_questions: tuple[str, ...] = ()
    parallel: int = 1


# ---------------------------------------------------------------------------------------------
# What happens now: never journaled


class Hardware(Record):
    """The machine a campaign runs on; `gpus` holds one name per device."""

    cpus: int
    memory_gb: float
    gpus: tuple[str, ...] = ()
    cpu_name: str = ""


class Progress(Record):
    """Where a run is; `loss` is the last training loss that the script reported, nats per token."""

    phase: Literal["launching", "starting", "training", "evaluating"]
    step: int = 0
    progress: float = 0.0
    loss: float | None = None
    elapsed_s: float = 0.0


class WorkerLive(Record):
    """A worker's last heartbeat."""

    worker_id: str
    node_id: str = ""
    gpu_id: str = ""
    gpu_name: str = ""
    pid: int = 0
    state: Literal["idle", "launching", "compiling", "running", "evaluating", "gone"] = "idle"
    run_id: str = ""
    experiment_id: str = ""
    hypothesis_id: str = ""
    title: str = ""
    commit: str = ""
    progress: Progress | None = None
    updated_at: str = Field(default_factory=utc_now)
