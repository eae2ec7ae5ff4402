"""The end of a campaign, or how far it came: what is best, how sure that is, what was learnt, what it cost.

`report_document` is plain data (for `--json` and other programs), `render_report` draws it. Both are
functions of the journal alone.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from autohyp.journal.state import CampaignState
from autohyp.paths import CampaignPaths
from autohyp.records import Verdict
from autohyp.views import facts
from autohyp.views.live import verdict_mark
from autohyp.views.status import experiment_summary
from autohyp.views.text import clean_line, duration, sureness

__all__ = ["print_report", "render_report", "report_document"]

_LISTED = 12
"""Rejected ideas and failures shown on the screen; the document has them all."""


def report_document(state: CampaignState) -> dict[str, Any]:
    """The campaign in figures; gains are positive when val_bpb fell, times are seconds."""
    champion, baseline = state.champion, state.baseline
    comparison = facts.champion_against_baseline(state)
    noise = facts.noise_floor(state)
    elapsed = facts.elapsed_s(state)
    num_workers = facts.num_workers(state)
    decided = state.decided()
    return {
        "tag": state.tag,
        "objective": state.created.objective if state.created else "",
        "profile": facts.config_value(state, "profile"),
        "sandbox": state.sessions[-1].started.sandbox if state.sessions else "",
        "end_reason": state.ended or (state.sessions[-1].end_reason if state.sessions else ""),
        "champion": experiment_summary(champion) if champion else None,
        "baseline": experiment_summary(baseline) if baseline else None,
        "gain_bpb": comparison.gain_bpb if comparison else None,
        "gain_standard_error_bpb": comparison.standard_error_bpb if comparison else None,
        "gain_in_noise": comparison.gain_in_noise if comparison else None,
        "noise_sd_bpb": noise.sd_bpb if noise else None,
        "noise_degrees_of_freedom": noise.degrees_of_freedom if noise else None,
        "lineage": [experiment_summary(state.experiments[name]) for name in state.lineage],
        "findings": [finding.model_dump(mode="json") for finding in state.findings.values()],
        "rejected": [experiment_summary(entry) for entry in decided if entry.verdict is Verdict.DISCARD],
        "failed": [
            experiment_summary(entry)
            for entry in decided
            if entry.verdict in (Verdict.CRASH, Verdict.INVALID)
        ],
        "verdicts": facts.verdict_counts(state),
        "experiments": len(state.experiments),
        "finished_runs": state.num_results,
        "begun_runs": state.num_begun,
        "refused_hypotheses": len(state.refused),
        "queued_hypotheses": len(state.queue),
        "wall_s": round(elapsed, 3),
        "worker_wall_s": round(elapsed * num_workers, 3),
        "workers": num_workers,
        "charged_s": round(state.charged_s, 3),
        "run_total_s": round(state.worker_s, 3),
        "training_fraction": round(state.charged_s / (elapsed * num_workers), 4) if elapsed else None,
    }


def render_report(document: dict[str, Any], paths: CampaignPaths) -> RenderableType:
    """The document as a page for a terminal of 80 columns or more."""
    parts: list[RenderableType] = [
        Rule(Text(f"campaign {document['tag']}", style="bold"), align="left"),
        _result(document),
        *([Text(f"ended     {clean_line(document['end_reason'])}")] if document["end_reason"] else []),
        *_section("how it got there", _lineage(document)),
        *_section("what was learnt", _findings(document)),
        *_section("tried and rejected", _tried(document["rejected"])),
    ]
    if document["failed"]:
        parts += _section("crashed or invalid", _tried(document["failed"]))
    parts += _section("cost", _cost(document))
    parts += _section("where it is, and what next", _where(document, paths))
    return Padding(Group(*parts), (0, 1))


def print_report(paths: CampaignPaths, state: CampaignState, console: Console) -> None:
    """Print the report of a campaign."""
    console.print(render_report(report_document(state), paths))


def _section(title: str, content: RenderableType) -> list[RenderableType]:
    return [Text(), Rule(title, align="left", style="dim"), content]


def _result(document: dict[str, Any]) -> RenderableType:
    champion, baseline = document["champion"], document["baseline"]
    if champion is None or champion["val_bpb"] is None:
        return Text("No champion: the baseline was not measured.")
    lines = [
        Text.assemble(
            "champion  ", (f"{champion['val_bpb']:.6f}", "bold green"), f" val_bpb  {champion['title']}"
        ),
        Text(
            f"          {champion['experiment_id']}, {champion['num_runs']} run(s), "
            f"commit {champion['commit'][:12]}"
        ),
    ]
    if baseline and baseline["val_bpb"] is not None:
        lines.append(Text(f"baseline  {baseline['val_bpb']:.6f} val_bpb  ({baseline['num_runs']} runs)"))
    if document["gain_bpb"] is not None:
        gain = Text.assemble("gain      ", (f"{document['gain_bpb']:.6f}", "bold"))
        if document["gain_standard_error_bpb"] is not None:
            gain.append(f" ± {document['gain_standard_error_bpb']:.6f} (standard error)")
        if document["gain_in_noise"] is not None:
            gain.append(f", {document['gain_in_noise']:.1f} × the noise")
        lines.append(gain)
    else:
        lines.append(Text("gain      none: no change beat the baseline"))
    if document["noise_sd_bpb"] is not None:
        freedom = document["noise_degrees_of_freedom"]
        lines.append(
            Text(
                f"noise     {document['noise_sd_bpb']:.6f} between equal runs ({freedom} degrees of freedom)"
            )
        )
    if document["sandbox"] == "none":
        lines.append(Text("NO SANDBOX: these numbers were measured without confinement", style="bold red"))
    if document["sandbox"] == "simulated":
        lines.append(Text("SIMULATED: nothing was trained, these numbers are made up", style="bold red"))
    return Group(*lines)


def _lineage(document: dict[str, Any]) -> RenderableType:
    if not document["lineage"]:
        return Text("nothing was kept", style="dim")
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(no_wrap=True, justify="right")
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    for entry in document["lineage"]:
        mean = "-" if entry["val_bpb"] is None else f"{entry['val_bpb']:.6f}"
        table.add_row(Text(mean), Text(_gain(entry)), Text(f"{entry['title']}  [{entry['experiment_id']}]"))
    return table


def _gain(entry: dict[str, Any]) -> str:
    if entry["gain_bpb"] is None:
        return ""
    error = f" ± {entry['gain_sd_bpb']:.5f}" if entry["gain_sd_bpb"] is not None else ""
    return f"{entry['gain_bpb']:+.5f}{error}"


def _findings(document: dict[str, Any]) -> RenderableType:
    if not document["findings"]:
        return Text("nothing recorded", style="dim")
    lines = []
    for finding in sorted(document["findings"], key=lambda f: -float(f["confidence"]))[:_LISTED]:
        text = Text(f"• {clean_line(finding['title'])} ({sureness(finding['confidence'])} sure)")
        if finding["evidence"]:
            text.append(f"\n  {clean_line(finding['evidence'])}", style="dim")
        lines.append(text)
    left = len(document["findings"]) - len(lines)
    return Group(*lines, *([Text(f"… {left} more in research_brief.json", style="dim")] if left > 0 else []))


def _tried(entries: list[dict[str, Any]]) -> RenderableType:
    if not entries:
        return Text("nothing", style="dim")
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(ratio=3, no_wrap=True, overflow="ellipsis")
    table.add_column(ratio=4, no_wrap=True, overflow="ellipsis", style="dim")
    ranked = sorted(entries, key=lambda e: -(e["gain_bpb"] if e["gain_bpb"] is not None else -1e9))
    for entry in ranked[:_LISTED]:
        gain = "" if entry["gain_bpb"] is None else f"{entry['gain_bpb']:+.5f}"
        table.add_row(
            verdict_mark(Verdict(entry["verdict"])), Text(gain), Text(entry["title"]), Text(entry["reason"])
        )
    left = len(entries) - _LISTED
    return Group(table, *([Text(f"… {left} more in results.tsv", style="dim")] if left > 0 else []))


def _cost(document: dict[str, Any]) -> RenderableType:
    counts = document["verdicts"]
    kept = f"the baseline, {counts['keep'] - 1} kept, " if counts["keep"] else ""
    tried = f"{document['experiments']} experiments: {kept}{counts['discard']} discarded, "
    tried += f"{counts['crash']} crashed, {counts['invalid']} invalid"
    tried += f"; {document['refused_hypotheses']} ideas refused before they ran"
    lost = document["begun_runs"] - document["finished_runs"]
    runs = f"{document['finished_runs']} runs" + (f", {lost} lost or open" if lost else "")
    device = "GPU" if document["profile"] == "gpu" else "CPU"
    time = f"{duration(document['charged_s'])} of training on {document['workers']} {device} worker(s)"
    time += f" in {duration(document['wall_s'])}"
    if document["training_fraction"] is not None:
        time += f": {document['training_fraction']:.0%} of the worker time trained"
    return Group(Text(tried), Text(f"{runs}; {time}"))


def _where(document: dict[str, Any], paths: CampaignPaths) -> RenderableType:
    tag = document["tag"]
    rows = [
        ("the folder", str(paths.root)),
        ("a picture", str(paths.progress_picture)),
        ("all results", str(paths.results)),
        ("why, one by one", f"{paths.plans}/"),
        ("the winning train.py", f"autohyp best --tag {tag} --source > train.py"),
        ("one experiment", f"autohyp show champion --tag {tag}"),
        ("its change", f"autohyp diff champion --tag {tag}"),
        ("go on", f"autohyp resume --tag {tag}"),
    ]
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    return table
