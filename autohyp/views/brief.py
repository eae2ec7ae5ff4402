"""What is read before proposing: research_brief.json, search_model.md, tools/registry.json.

All three are computed from the state, so a copied journal rebuilds them. They are views: editing them
changes nothing in the campaign (`autohyp sync` writes them again).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from autohyp.journal import CampaignState, ExperimentEntry
from autohyp.records import BASELINE_KIND, ConstantsEdit, Finding, Hypothesis, Verdict
from autohyp.views import facts
from autohyp.views.exports import config_document, metrics, outcome
from autohyp.views.text import clean_line, signed_bpb, to_seconds

__all__ = ["open_questions", "research_brief", "search_model", "tool_registry"]

_PAST_SHOWN = 50
"""Completed and abandoned hypotheses in the brief: it is read in one go, the rest is in experiments.jsonl."""


def research_brief(state: CampaignState) -> dict[str, Any]:
    """research_brief.json; generated, it says, at the last event, so equal journals give equal briefs."""
    champion = state.champion
    return {
        "generated_at": to_seconds(facts.last_ts(state)),
        "repository": state.tag,
        "objective": state.created.objective if state.created else "",
        "constraints": _constraints(state),
        "current_config": config_document(champion) if champion else {},
        "best_result": _best_result(champion) if champion else {},
        "findings": [_finding(finding) for finding in state.findings.values()],
        "open_questions": open_questions(state),
        "hypothesis_queue": list(_queue(state)),
        "notes": [clean_line(note.text) for _, note in state.notes if note.experiment_id is None],
    }


def _constraints(state: CampaignState) -> list[str]:
    budget_s = facts.config_value(state, "run", "budget_s")
    return [
        "Only train.py may change; prepare.py, the data and the evaluation are fixed.",
        "The measure is val_bpb, computed by an evaluator outside the run; lower is better.",
        f"A run trains for {budget_s:g} seconds."
        if isinstance(budget_s, int | float)
        else "The budget is fixed.",
        "total_batch_size must be a multiple of device_batch_size times the sequence length.",
    ]


def _best_result(champion: ExperimentEntry) -> dict[str, Any]:
    measured = metrics(champion)
    return {
        "commit": champion.experiment.commit,
        "val_bpb": measured.get("val_bpb", 0.0),
        "memory_gb": round(measured.get("peak_vram_mb", 0.0) / 1024, 3),
        "status": "keep",
        "description": champion.experiment.hypothesis.title,
    }


def _finding(finding: Finding) -> dict[str, Any]:
    """The older tools know three degrees of confidence; ours is beside it as `probability`."""
    degree = "high" if finding.confidence >= 0.9 else "medium" if finding.confidence >= 0.6 else "low"
    return {
        "finding_id": finding.finding_id,
        "title": finding.title,
        "evidence": finding.evidence,
        "confidence": degree,
        "mechanism": finding.mechanism,
        "implication": finding.implication,
        "probability": finding.confidence,
    }


def open_questions(state: CampaignState) -> list[str]:
    """What the campaign is about to find out, and what its results leave open."""
    questions = []
    if facts.noise_floor(state) is None:
        questions.append("How much do two runs of the same source differ on this machine?")
    for entry in facts.undecided(state):
        decision = entry.decision
        if decision is not None and decision.verdict is Verdict.REPLICATE and decision.gain_bpb is not None:
            title = clean_line(entry.experiment.hypothesis.title)
            questions.append(
                f"Is '{title}' real? So far {decision.gain_bpb:+.5f} bpb over {decision.num_runs} run(s)."
            )
    tried = state.kinds.keys() | {entry.experiment.hypothesis.kind for entry in state.open_experiments()}
    waiting = dict.fromkeys(hypothesis.kind for hypothesis in state.queue.values())
    questions += [
        f"Does anything of the kind '{clean_line(kind)}' help?" for kind in waiting if kind not in tried
    ]
    return questions


def _queue(state: CampaignState) -> Iterator[dict[str, Any]]:
    """Pending by priority, then in flight, then the latest decided and refused."""
    for hypothesis in sorted(state.queue.values(), key=lambda h: (-h.priority, h.hypothesis_id)):
        yield _queued(hypothesis, "pending")
    for entry in facts.undecided(state):
        worker = next((run.worker_id for run in entry.active.values()), None)
        yield _queued(entry.experiment.hypothesis, "dispatched", worker, outcome(entry) or None)
    for experiment_id in state.decision_order[-_PAST_SHOWN:]:
        entry = state.experiments[experiment_id]
        worker = entry.results[-1].worker_id if entry.results else None
        yield _queued(entry.experiment.hypothesis, "completed", worker, outcome(entry))
    for refusal in list(state.refused.values())[-_PAST_SHOWN:]:
        yield _queued(refusal.hypothesis, "abandoned", None, refusal.reason)


def _queued(
    hypothesis: Hypothesis, status: str, worker: str | None = None, result: str | None = None
) -> dict[str, Any]:
    overrides = hypothesis.edit.overrides if isinstance(hypothesis.edit, ConstantsEdit) else {}
    return {
        "hypothesis_id": hypothesis.hypothesis_id,
        "title": hypothesis.title,
        "rationale": hypothesis.rationale,
        "config_overrides": {name.lower(): value for name, value in overrides.items()},
        "priority": hypothesis.priority,
        "status": status,
        "assigned_worker": worker,
        "outcome": result,
    }


def tool_registry(state: CampaignState) -> dict[str, Any]:
    """tools/registry.json."""
    tools = list(state.tools.values())
    times = [time for tool in tools for time in (tool.requested_at, tool.decided_at) if time]
    created = state.created.created_at if state.created else ""
    return {
        "updated_at": to_seconds(max(times, default=created)),
        "shared_tools_dir": "research/tools/published",
        "tools": [
            {
                "tool_id": tool.tool_id,
                "title": tool.title,
                "status": tool.status.value,
                "requested_at": tool.requested_at,
                "requested_by": tool.requested_by,
                "problem": tool.problem,
                "path": tool.path or None,
                "summary": tool.summary,
                "usage": tool.usage,
                "decided_at": tool.decided_at or None,
                "decided_by": tool.decided_by or None,
                "notes": tool.notes,
                "worth": tool.worth,
            }
            for tool in tools
        ],
    }


# ---------------------------------------------------------------------------------------------
# search_model.md


def search_model(state: CampaignState) -> str:
    """The observer's beliefs: the theory, the phase of the search, what each kind of change was worth."""
    sections = [
        "# Search model",
        "Written from the journal; editing it changes nothing. Gains are in bpb, positive is better.",
        "## Active theory",
        _theory(state),
        "## Search phase",
        _phase(state),
        "## Beliefs by kind of change",
        _beliefs(state),
        "## Next",
        _next(state),
    ]
    return "\n\n".join(sections) + "\n"


def _theory(state: CampaignState) -> str:
    champion = state.champion
    if champion is None or champion.mean_bpb is None:
        return "No baseline yet."
    lines = [f"The champion is `{champion.experiment_id}` at val_bpb {champion.mean_bpb:.6f}."]
    noise = facts.noise_floor(state)
    if noise is not None:
        lines.append(f"Runs of one source differ by {noise.sd_bpb:.6f} (standard deviation).")
    steps = [state.experiments[name] for name in state.lineage[1:]]
    for entry in steps:
        hypothesis = entry.experiment.hypothesis
        lines.append(
            f"- {clean_line(hypothesis.title)}: {signed_bpb(facts.experiment_gain(entry))}. "
            f"{clean_line(hypothesis.rationale)}"
        )
    return "\n".join(lines)


def _phase(state: CampaignState) -> str:
    """The share of keeps among the last 20 decisions names the phase."""
    recent = [state.experiments[name] for name in state.decision_order[-20:]]
    keeps = sum(entry.verdict is Verdict.KEEP and not entry.experiment.is_baseline for entry in recent)
    if len(recent) < 8:
        phase = "broad exploration"
    elif keeps >= 3:
        phase = "focused exploitation"
    else:
        phase = "diminishing returns" if keeps else "stuck"
    return f"{phase}: {keeps} of the last {len(recent)} decisions were keeps."


def _beliefs(state: CampaignState) -> str:
    tallies = [(clean_line(kind), tally) for kind, tally in state.kinds.items() if kind != BASELINE_KIND]
    if not tallies:
        return "Nothing was tried yet."
    lines = ["| kind | measured | kept | failed | best gain | mean gain |", "|---|---|---|---|---|---|"]
    for kind, tally in sorted(tallies, key=lambda item: (-item[1].best_gain_bpb, item[0])):
        count = tally.num_measured
        best, mean = (tally.best_gain_bpb, tally.total_gain_bpb / count) if count else (None, None)
        gains = f"{signed_bpb(best)} | {signed_bpb(mean)}"
        lines.append(f"| {kind} | {count} | {tally.num_kept} | {tally.num_failed} | {gains} |")
    return "\n".join(lines)


def _next(state: CampaignState) -> str:
    queue = sorted(state.queue.values(), key=lambda h: (-h.priority, h.hypothesis_id))[:6]
    if not queue:
        return "The queue is empty."
    return "\n".join(f"- {clean_line(h.title)} (`{h.hypothesis_id}`, {h.researcher})" for h in queue)
