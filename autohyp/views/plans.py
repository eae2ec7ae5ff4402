"""The plan of an experiment: the hypothesis as the older tools read it, and a note that people read.

The note is written before the first run (hypothesis, mechanism, prediction, the change) and written again
after each decision with the outcome beneath: what was expected stays on the page next to what came.
"""

from __future__ import annotations

import re
from typing import Any

from autohyp.journal import CampaignState, ExperimentEntry
from autohyp.records import ConstantsEdit, Decision, RunResult
from autohyp.views.exports import outcome
from autohyp.views.text import clean_line, clean_text, to_seconds

__all__ = ["notes_by_experiment", "plan_document", "plan_note"]

_MAX_DIFF_LINES = 200


def plan_document(entry: ExperimentEntry) -> dict[str, Any]:
    """plans/<experiment_id>.json."""
    experiment, hypothesis = entry.experiment, entry.experiment.hypothesis
    run = next(iter(entry.active.values()), None) or (entry.results[0] if entry.results else None)
    return {
        "experiment_id": experiment.experiment_id,
        "created_at": to_seconds(experiment.created_at),
        "based_on_commit": experiment.parent_commit or experiment.commit,
        "worker_id": run.worker_id if run else "",
        "hypothesis": {
            "hypothesis_id": hypothesis.hypothesis_id,
            "title": hypothesis.title,
            "rationale": hypothesis.rationale,
            "outcome": outcome(entry),
        },
    }


def notes_by_experiment(state: CampaignState) -> dict[str, list[tuple[str, str]]]:
    """(author, text) of the notes on each experiment, oldest first."""
    notes: dict[str, list[tuple[str, str]]] = {}
    for _, note in state.notes:
        if note.experiment_id is not None:
            notes.setdefault(note.experiment_id, []).append((note.author, note.text))
    return notes


def plan_note(entry: ExperimentEntry, notes: list[tuple[str, str]] | None = None) -> str:
    """plans/<experiment_id>.md."""
    parts = [_plan(entry), _change(entry)]
    if entry.results or entry.decisions:
        parts.append(_outcome(entry))
    if notes:
        parts.append(
            "## Notes\n\n" + "\n\n".join(f"**{clean_line(who)}**: {clean_text(text)}" for who, text in notes)
        )
    return "\n\n".join(parts) + "\n"


def _plan(entry: ExperimentEntry) -> str:
    experiment, hypothesis = entry.experiment, entry.experiment.hypothesis
    origin = f"{hypothesis.researcher}, {hypothesis.kind}"
    if hypothesis.source:
        origin += f"; prior: {clean_line(hypothesis.source)}"
    lines = [
        f"# {clean_line(hypothesis.title)}",
        "",
        f"- Experiment: `{experiment.experiment_id}`, commit `{experiment.commit[:12]}`",
        f"- Parent: `{experiment.parent_experiment_id or 'none, this is the target as it came'}`",
        f"- Proposed by: {origin}",
    ]
    if hypothesis.builds_on:
        lines.append("- Builds on: " + ", ".join(f"`{name}`" for name in hypothesis.builds_on))
    lines += ["", "## Hypothesis", "", clean_text(hypothesis.rationale), "", "## Prediction", ""]
    prediction = hypothesis.prediction
    if prediction is None:
        lines.append("None.")
    else:
        spread = f" +- {prediction.sd_bpb:.4f}" if prediction.sd_bpb else ""
        lines.append(f"val_bpb changes by {prediction.delta_bpb:+.4f}{spread} (negative is better).")
    return "\n".join(lines)


def _change(entry: ExperimentEntry) -> str:
    experiment = entry.experiment
    lines = ["## Change", ""]
    if isinstance(experiment.hypothesis.edit, ConstantsEdit):
        lines += [
            f"- `{name}` = `{value!r}`" for name, value in experiment.hypothesis.edit.overrides.items()
        ] + [""]
    if not experiment.diff:
        return "\n".join([*lines, "Nothing is changed."])
    diff = clean_text(experiment.diff).rstrip("\n").splitlines()
    left_out = len(diff) - _MAX_DIFF_LINES
    shown = diff[:_MAX_DIFF_LINES] + ([f"... {left_out} more lines in diff.patch"] if left_out > 0 else [])
    # A fence must be longer than any row of backticks inside.
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", experiment.diff)), default=0))
    return "\n".join([*lines, f"{fence}diff", *shown, fence])


def _outcome(entry: ExperimentEntry) -> str:
    lines = [
        "## Outcome",
        "",
        "| run | seed | status | val_bpb | steps | charged s |",
        "|---|---|---|---|---|---|",
    ]
    lines += [_result_line(result) for result in entry.results]
    for decision in entry.decisions:
        lines += ["", f"**{decision.verdict.value}**: {clean_line(decision.reason)}"]
    if entry.decision is not None:
        lines += ["", *_numbers(entry, entry.decision)]
    return "\n".join(lines)


def _result_line(result: RunResult) -> str:
    score = "-" if result.val_bpb is None else f"{result.val_bpb:.6f}"
    status = result.status.value + (f": {clean_line(result.reason)}" if result.reason else "")
    status = status.replace("|", "\\|")
    effort = f"{result.num_steps} | {result.charged_s:.1f}"
    return f"| {result.run_id} | {result.seed} | {status} | {score} | {effort} |"


def _numbers(entry: ExperimentEntry, decision: Decision) -> list[str]:
    """The figures behind the last decision, each on a line."""
    figures = [
        ("mean val_bpb", _figure(decision.mean_bpb, ".6f")),
        ("champion's mean", _figure(decision.champion_mean_bpb, ".6f")),
        ("gain (positive is better)", _figure(decision.gain_bpb, "+.6f")),
        ("its standard error", _figure(decision.gain_sd_bpb, ".6f")),
        ("threshold", _figure(decision.threshold_bpb, ".6f")),
        ("P(better)", _figure(decision.probability_better, ".3f")),
        ("noise between runs", _figure(decision.noise.sd_bpb if decision.noise else None, ".6f")),
    ]
    prediction = entry.experiment.hypothesis.prediction
    if prediction is not None and decision.gain_bpb is not None:
        figures.append(("predicted gain", _figure(-prediction.delta_bpb, "+.6f")))
    return [f"- {name}: {value}" for name, value in figures if value is not None]


def _figure(value: float | None, form: str) -> str | None:
    return None if value is None else format(value, form)
