"""One experiment in the words of the older tools: their fields, their meaning, their file per purpose.

Everything is a pure function of the state, so the same journal gives the same bytes. Where the two systems
differ: a measurement is the mean over an experiment's runs; an `invalid` experiment is a `crash` there,
with the reason in `analysis`; a crash has `val_bpb` 0.0 (ours: null); the baseline names itself as its
parent, because an experiment without a parent is rejected there. An experiment that is not yet decided has
no `result.json` before its first result and an empty `decision_status` before its first decision. Not
exported: what only our own records hold (predictions, statistics, integrity checks); see `journal.jsonl`
for those.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from statistics import fmean
from typing import Any

from autohyp.journal import ExperimentEntry
from autohyp.records import ConstantValue, RunResult, RunStatus, Verdict
from autohyp.views.text import clean_line, plus_seconds, to_seconds

__all__ = [
    "CONFIG_FIELDS",
    "TSV_HEAD",
    "config_document",
    "created_at",
    "exported_status",
    "jsonl",
    "metadata_document",
    "metrics",
    "model_shape",
    "outcome",
    "result_document",
    "run_events",
    "table_row",
    "tsv_line",
    "tsv_row",
]

CONFIG_FIELDS = (
    "aspect_ratio",
    "head_dim",
    "window_pattern",
    "total_batch_size",
    "embedding_lr",
    "unembedding_lr",
    "matrix_lr",
    "scalar_lr",
    "weight_decay",
    "adam_betas",
    "warmup_ratio",
    "warmdown_ratio",
    "final_lr_frac",
    "depth",
    "device_batch_size",
)
"""The constants that the older tools know, in their order; ours follow under their names in lower case."""

_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def exported_status(verdict: Verdict | None) -> str:
    """The older word for a verdict, empty while there is none."""
    if verdict is None:
        return ""
    return Verdict.CRASH.value if verdict is Verdict.INVALID else verdict.value


def _latest_verdict(entry: ExperimentEntry) -> Verdict | None:
    return entry.decision.verdict if entry.decision else None


def _mean(results: list[RunResult], field: str) -> float:
    values = [getattr(result, field) for result in results]
    return float(round(sum(values) / len(values), 6))


def model_shape(constants: dict[str, ConstantValue]) -> tuple[int, int]:
    """(width, number of heads): depth times aspect ratio, rounded up to whole heads; zeros where unknown."""
    depth, aspect, head = (constants.get(name) for name in ("DEPTH", "ASPECT_RATIO", "HEAD_DIM"))
    if not (
        isinstance(depth, int) and isinstance(aspect, int | float) and isinstance(head, int) and head > 0
    ):
        return 0, 0
    heads = -(-int(depth * aspect) // head)
    return heads * head, heads


def metrics(entry: ExperimentEntry) -> dict[str, Any]:
    """The measurements of an experiment, averaged over its measured runs; of a failure, its last run's.

    `still_improving` and `improvement_rate` (nats per token in the last tenth of the budget) come from the
    training losses that the script reported, as does `train_bpb` where it printed one.
    """
    failed = _latest_verdict(entry) in (Verdict.CRASH, Verdict.INVALID)
    results = [] if failed else entry.measured
    basis = results or entry.results[-1:]
    if not basis:
        return {}
    improving, rate = _trend(basis[-1])
    return {
        "val_bpb": entry.mean_bpb if results else 0.0,
        "peak_vram_mb": _mean(results, "peak_memory_mb") if results else 0.0,
        "num_steps": round(_mean(basis, "num_steps")),
        "training_seconds": _mean(basis, "charged_s"),
        "total_seconds": _mean(basis, "total_s"),
        "mfu_percent": _mean(basis, "mfu_percent"),
        "total_tokens_M": _mean(basis, "total_tokens_m"),
        "num_params_M": _mean(basis, "num_params_m"),
        "depth": _whole(entry.experiment.constants.get("DEPTH")),
        "train_bpb": _number(basis[-1].summary.get("train_bpb")),
        "bpb_at_checkpoints": [],
        "tokens_per_second": round(_mean(basis, "tokens_per_second")),
        "still_improving": improving,
        "improvement_rate": rate,
    }


def _trend(result: RunResult) -> tuple[bool | None, float]:
    """Whether the loss still fell at the end, and by how much over the last tenth of the budget."""
    late = [point.loss for point in result.curve if point.progress > 0.9]
    before = [point.loss for point in result.curve if 0.8 < point.progress <= 0.9]
    if not late or not before:
        return None, 0.0
    fall = round(fmean(before) - fmean(late), 6)
    return fall > 0, fall


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def config_document(entry: ExperimentEntry) -> dict[str, Any]:
    """config.json: every constant of the experiment's train.py in lower case; never empty."""
    constants = {name.lower(): value for name, value in entry.experiment.constants.items()}
    known = {name: constants.pop(name) for name in CONFIG_FIELDS if name in constants}
    return known | dict(sorted(constants.items())) | {"notes": entry.experiment.hypothesis.title}


def _parent_commit(entry: ExperimentEntry) -> str:
    return entry.experiment.parent_commit or entry.experiment.commit


def _recorded_at(entry: ExperimentEntry) -> str:
    if entry.decision is not None:
        return entry.decision.decided_at
    return entry.results[-1].finished_at if entry.results else entry.experiment.created_at


def _place(entry: ExperimentEntry) -> tuple[str, str, str]:
    """(worker id, GPU id, GPU name) of the latest run; on a CPU the GPU id is the worker's number or 0."""
    run = entry.results[-1] if entry.results else next(iter(entry.active.values()), None)
    if run is None:
        return "", "", ""
    digits = "".join(character for character in run.worker_id if character.isdigit())
    return run.worker_id, run.gpu_id or digits or "0", run.gpu_name


def metadata_document(entry: ExperimentEntry, measured: dict[str, Any]) -> dict[str, Any]:
    """metadata.json: who ran what where; `measured` is `metrics(entry)`."""
    experiment = entry.experiment
    worker_id, gpu_id, gpu_name = _place(entry)
    return {
        "recorded_at": _recorded_at(entry),
        "run": {
            "worker_id": worker_id,
            "gpu_id": gpu_id,
            "hypothesis_id": experiment.hypothesis.hypothesis_id,
            "rationale": experiment.hypothesis.rationale,
        },
        "runtime": {
            "commit": experiment.commit,
            "parent_commit": _parent_commit(entry),
            "gpu_name": gpu_name,
            "diff_stat": experiment.diff_stat,
            "diff_hash": experiment.diff_hash,
        },
        "metrics": measured,
    }


def result_document(entry: ExperimentEntry, measured: dict[str, Any]) -> dict[str, Any] | None:
    """result.json, or None while no run has ended; `measured` is `metrics(entry)`."""
    if not entry.results:
        return None
    experiment = entry.experiment
    return {
        "status": _execution_status(entry),
        "decision_status": exported_status(_latest_verdict(entry)),
        "recorded_at": _recorded_at(entry),
        "commit": experiment.commit,
        "parent_commit": _parent_commit(entry),
        "title": experiment.hypothesis.title,
        "analysis": _analysis(entry),
        "outcome": outcome(entry),
        "metrics": measured,
    }


def _execution_status(entry: ExperimentEntry) -> str:
    """Failed when the decision says so, before one when a run did; a champion may lose a later run."""
    verdict = _latest_verdict(entry)
    if verdict is None:
        return "completed" if entry.results and entry.results[-1].is_measured else "failed"
    return "failed" if exported_status(verdict) == "crash" else "completed"


def _analysis(entry: ExperimentEntry) -> str:
    decision = entry.decision
    if decision is None:
        return ""
    return f"invalid: {decision.reason}" if decision.verdict is Verdict.INVALID else decision.reason


def outcome(entry: ExperimentEntry) -> str:
    """The end of the story in one sentence, empty before the first decision."""
    decision = entry.decision
    if decision is None:
        return ""
    if decision.gain_bpb is None:
        return f"{decision.verdict.value}: {decision.reason}"
    error = f" +- {decision.gain_sd_bpb:.6f}" if decision.gain_sd_bpb is not None else ""
    return (
        f"{decision.verdict.value}: gain {decision.gain_bpb:+.6f}{error} bpb over {decision.num_runs} run(s)"
    )


def run_events(entry: ExperimentEntry) -> list[dict[str, Any]]:
    """events.jsonl: each run's beginning and end, in time; a lost run leaves no event there."""
    events = []
    for result in entry.results:
        measured = result.status is RunStatus.COMPLETED
        begun = {"seed": result.seed, "attempt": result.attempt}
        ended = {"status": result.status.value, "reason": result.reason, "val_bpb": result.val_bpb}
        events.append(_event("run_started", plus_seconds(result.finished_at, -result.total_s), result, begun))
        events.append(
            _event("run_completed" if measured else "run_failed", result.finished_at, result, ended)
        )
    for run in entry.active.values():
        events.append(_event("run_started", run.started_at, run, {"seed": run.seed, "attempt": run.attempt}))
    return sorted(events, key=lambda event: str(event["recorded_at"]))


def _event(event_type: str, recorded_at: str, run: Any, payload: dict[str, Any]) -> dict[str, Any]:
    return {
        "event_type": event_type,
        "recorded_at": recorded_at,
        "run_id": run.run_id,
        "worker_id": run.worker_id,
        "node_id": run.node_id,
        "gpu_id": run.gpu_id,
        "payload": payload,
    }


def table_row(
    entry: ExperimentEntry, measured: dict[str, Any], ordinal: int, best_kept_bpb: float | None, note: str
) -> dict[str, Any]:
    """One line of experiments.jsonl: the `ordinal`-th decision, `best_kept_bpb` the lowest kept before it."""
    experiment, constants = entry.experiment, entry.experiment.constants
    val_bpb = measured.get("val_bpb", 0.0)
    width, heads = model_shape(constants)
    worker_id, gpu_id, gpu_name = _place(entry)
    return {
        "id": experiment.experiment_id,
        "ordinal": ordinal,
        "commit": experiment.commit,
        "parent_commit": _parent_commit(entry),
        "timestamp": _recorded_at(entry),
        "status": exported_status(entry.verdict),
        "description": clean_line(experiment.hypothesis.title) or experiment.experiment_id,
        "val_bpb": val_bpb,
        "delta": round(val_bpb - best_kept_bpb, 9) if best_kept_bpb is not None and val_bpb else 0.0,
        "num_steps": measured.get("num_steps", 0),
        "training_seconds": measured.get("training_seconds", 0.0),
        "total_seconds": measured.get("total_seconds", 0.0),
        "mfu_percent": measured.get("mfu_percent", 0.0),
        "total_tokens_M": measured.get("total_tokens_M", 0.0),
        "peak_vram_gb": round(measured.get("peak_vram_mb", 0.0) / 1024, 6),
        "num_params_M": measured.get("num_params_M", 0.0),
        "depth": _whole(constants.get("DEPTH")),
        "execution_status": _execution_status(entry),
        "decision_status": exported_status(entry.verdict),
        "train_bpb": measured.get("train_bpb"),
        "bpb_at_checkpoints": [],
        "still_improving": measured.get("still_improving"),
        "improvement_rate": measured.get("improvement_rate", 0.0),
        "tokens_per_second": measured.get("tokens_per_second", 0),
        "diff_stat": experiment.diff_stat,
        "diff_hash": experiment.diff_hash,
        "decision_markdown_path": f"research/plans/{experiment.experiment_id}.md",
        "decision_markdown": note,
        "gpu_name": gpu_name,
        "model_dim": width,
        "n_heads": heads,
        "head_dim": _whole(constants.get("HEAD_DIM")),
        "window_pattern": str(constants.get("WINDOW_PATTERN", "")),
        "total_batch_size": _whole(constants.get("TOTAL_BATCH_SIZE")),
        "device_batch_size": _whole(constants.get("DEVICE_BATCH_SIZE")),
        "matrix_lr": constants.get("MATRIX_LR", 0.0),
        "embedding_lr": constants.get("EMBEDDING_LR", 0.0),
        "weight_decay": constants.get("WEIGHT_DECAY", 0.0),
        "warmdown_ratio": constants.get("WARMDOWN_RATIO", 0.0),
        "adam_betas": constants.get("ADAM_BETAS", []),
        "worker_id": worker_id,
        "gpu_id": gpu_id,
        "hypothesis_id": experiment.hypothesis.hypothesis_id,
        "rationale": experiment.hypothesis.rationale,
        "outcome": outcome(entry),
        "notes": _analysis(entry),
    }


def tsv_line(fields: Iterable[str]) -> str:
    """Fields as one line of results.tsv."""
    buffer = io.StringIO()
    csv.writer(buffer, delimiter="\t", lineterminator="\n").writerow(fields)
    return buffer.getvalue()


TSV_HEAD = tsv_line(("commit", "val_bpb", "memory_gb", "status", "description"))


def tsv_row(row: dict[str, Any]) -> str:
    """The line of results.tsv that belongs to a row of experiments.jsonl."""
    scores = (f"{row['val_bpb']:.6f}", f"{row['peak_vram_gb']:.1f}")
    return tsv_line((row["commit"][:7], *scores, row["status"], row["description"]))


def jsonl(rows: Iterable[dict[str, Any]]) -> str:
    """Rows as JSON, one a line, plain ASCII."""
    return "".join(_encode(row) + "\n" for row in rows)


def created_at(entry: ExperimentEntry) -> str:
    """When the experiment was made, to the second."""
    return to_seconds(entry.experiment.created_at)
