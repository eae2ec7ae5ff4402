"""Write a campaign's folder from its journal: everything but the journal, the repository and the logs is a
view.

`sync_experiment` writes the files of one experiment and is called as things happen, `sync_tables` the two
tables, `sync_all` everything, pictures included. The same journal gives the same bytes on every machine (no
present time, no path, nothing of the host), files are replaced whole, and a file that would not change is
left alone. Views never delete: logs, `live/` and what others put beside are not touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autohyp.errors import CampaignError
from autohyp.journal.state import CampaignState, ExperimentEntry
from autohyp.paths import CampaignPaths
from autohyp.views.brief import research_brief, search_model, tool_registry
from autohyp.views.exports import (
    config_document,
    jsonl,
    metadata_document,
    metrics,
    result_document,
    results_tsv,
    run_events,
    table_row,
)
from autohyp.views.files import FileWriter, json_text
from autohyp.views.fleet import fleet_files, fleet_manifest
from autohyp.views.picture import draw_progress, picture_data, picture_is_current
from autohyp.views.plans import notes_by_experiment, plan_document, plan_note

__all__ = ["SyncReport", "sync_all", "sync_experiment", "sync_picture", "sync_tables"]


@dataclass(frozen=True)
class SyncReport:
    """What a sync did, in files."""

    num_experiments: int
    num_written: int
    num_unchanged: int

    @property
    def summary(self) -> str:
        files = f"{self.num_written} files written, {self.num_unchanged} unchanged"
        return f"{self.num_experiments} experiments: {files}"


@dataclass(frozen=True)
class _Page:
    """What several files of one experiment say, computed once."""

    entry: ExperimentEntry
    measured: dict[str, Any]
    note: str


def _page(entry: ExperimentEntry, notes: list[tuple[str, str]] | None) -> _Page:
    return _Page(entry, metrics(entry), plan_note(entry, notes))


def sync_experiment(paths: CampaignPaths, state: CampaignState, experiment_id: str) -> SyncReport:
    """Write plans/<id>.json and .md, and runs/<id>/ of one experiment. Raises CampaignError when there is
    none.
    """
    entry = state.experiments.get(experiment_id)
    if entry is None:
        raise CampaignError(f"no experiment {experiment_id} in campaign {state.tag}")
    notes = [(note.author, note.text) for _, note in state.notes if note.experiment_id == experiment_id]
    files = FileWriter(paths.root)
    _write_experiment(files, _page(entry, notes))
    return SyncReport(1, files.num_written, files.num_unchanged)


def sync_tables(paths: CampaignPaths, state: CampaignState) -> SyncReport:
    """Write experiments.jsonl and results.tsv."""
    notes = notes_by_experiment(state)
    decided = [_page(entry, notes.get(entry.experiment_id)) for entry in state.decided()]
    files = FileWriter(paths.root)
    _write_tables(files, state, decided)
    return SyncReport(len(decided), files.num_written, files.num_unchanged)


def sync_picture(paths: CampaignPaths, state: CampaignState) -> SyncReport:
    """Draw progress.png, unless it shows this already or nothing was kept yet."""
    files = FileWriter(paths.root)
    _write_picture(files, paths, state)
    return SyncReport(len(state.decision_order), files.num_written, files.num_unchanged)


def sync_all(paths: CampaignPaths, state: CampaignState) -> SyncReport:
    """Write every view of the campaign."""
    notes = notes_by_experiment(state)
    pages = {name: _page(entry, notes.get(name)) for name, entry in state.experiments.items()}
    files = FileWriter(paths.root)
    for page in pages.values():
        _write_experiment(files, page)
    _write_tables(files, state, [pages[name] for name in state.decision_order])
    files.text("tools/registry.json", json_text(tool_registry(state)))
    files.text("research_brief.json", json_text(research_brief(state)))
    files.text("search_model.md", search_model(state))
    files.text("fleet/manifest.json", json_text(fleet_manifest(state)))
    for path, text in fleet_files(state).items():
        files.text(path, text)
    _write_picture(files, paths, state)
    return SyncReport(len(state.experiments), files.num_written, files.num_unchanged)


def _write_experiment(files: FileWriter, page: _Page) -> None:
    entry, name = page.entry, page.entry.experiment_id
    files.text(f"plans/{name}.json", json_text(plan_document(entry)))
    files.text(f"plans/{name}.md", page.note)
    files.text(f"runs/{name}/config.json", json_text(config_document(entry)))
    files.text(f"runs/{name}/diff.patch", entry.experiment.diff)
    if not entry.results and not entry.active:
        return
    files.text(f"runs/{name}/metadata.json", json_text(metadata_document(entry, page.measured)))
    files.text(f"runs/{name}/events.jsonl", jsonl(run_events(entry)))
    result = result_document(entry, page.measured)
    if result is not None:
        files.text(f"runs/{name}/result.json", json_text(result))


def _write_tables(files: FileWriter, state: CampaignState, decided: list[_Page]) -> None:
    rows, best = [], None
    for ordinal, page in enumerate(decided, start=1):
        row = table_row(page.entry, page.measured, ordinal, best, page.note)
        rows.append(row)
        if row["status"] == "keep" and row["val_bpb"]:
            best = row["val_bpb"] if best is None else min(best, row["val_bpb"])
    files.text("experiments.jsonl", jsonl(rows))
    files.text("results.tsv", results_tsv(state))


def _write_picture(files: FileWriter, paths: CampaignPaths, state: CampaignState) -> None:
    data = picture_data(state)
    if not data.kept:
        return
    if picture_is_current(paths.progress_picture, data):
        files.num_unchanged += 1
    else:
        files.data(paths.progress_picture.name, draw_progress(data))
