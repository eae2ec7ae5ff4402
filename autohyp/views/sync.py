"""Write a campaign's folder from its journal: all but the journal, the repository and the logs is a view.

`sync_experiment` writes the files of one experiment and is called as things happen, `sync_tables` (or a
`TableWriter`, which remembers what it rendered) the two tables, `sync_picture` the picture, `sync_all`
everything. The same journal gives the same bytes on every machine (no present time, no path, nothing of the
host), files are replaced whole, and a file that would not change is left alone. Views never delete: logs,
`live/` and what others put beside are not touched.
"""

from __future__ import annotations

from dataclasses import dataclass

from autohyp.errors import CampaignError
from autohyp.journal.state import CampaignState, ExperimentEntry
from autohyp.paths import CampaignPaths
from autohyp.views.brief import research_brief, search_model, tool_registry
from autohyp.views.exports import (
    TSV_HEAD,
    config_document,
    jsonl,
    metadata_document,
    metrics,
    result_document,
    run_events,
    table_row,
    tsv_row,
)
from autohyp.views.files import FileWriter, json_text
from autohyp.views.fleet import fleet_files, fleet_manifest
from autohyp.views.picture import draw_progress, picture_data, picture_is_current
from autohyp.views.plans import notes_by_experiment, plan_document, plan_note

__all__ = ["SyncReport", "TableWriter", "sync_all", "sync_experiment", "sync_picture", "sync_tables"]


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


def sync_experiment(paths: CampaignPaths, state: CampaignState, experiment_id: str) -> SyncReport:
    """Write plans/<id>.json and .md, and runs/<id>/. Raises CampaignError when there is no experiment."""
    entry = state.experiments.get(experiment_id)
    if entry is None:
        raise CampaignError(f"no experiment {experiment_id} in campaign {state.tag}")
    notes = [(note.author, note.text) for _, note in state.notes if note.experiment_id == experiment_id]
    files = FileWriter(paths.root)
    _write_experiment(files, entry, notes)
    return SyncReport(1, files.num_written, files.num_unchanged)


def sync_tables(paths: CampaignPaths, state: CampaignState) -> SyncReport:
    """Write experiments.jsonl and results.tsv."""
    return TableWriter(paths).sync(state)


class TableWriter:
    """Writes the two tables again and again: what it rendered once it keeps, until the experiment changes."""

    def __init__(self, paths: CampaignPaths) -> None:
        self._paths = paths
        self._lines: dict[str, _Lines] = {}

    def sync(self, state: CampaignState) -> SyncReport:
        """Bring both files to this state."""
        notes = notes_by_experiment(state)
        best: float | None = None
        lines = []
        for ordinal, entry in enumerate(state.decided(), start=1):
            line = self._render(entry, ordinal, best, notes.get(entry.experiment_id, []))
            lines.append(line)
            if line.kept_bpb is not None:
                best = line.kept_bpb if best is None else min(best, line.kept_bpb)
        files = FileWriter(self._paths.root)
        files.text("experiments.jsonl", "".join(line.jsonl for line in lines))
        files.text("results.tsv", TSV_HEAD + "".join(line.tsv for line in lines))
        return SyncReport(len(lines), files.num_written, files.num_unchanged)

    def _render(
        self, entry: ExperimentEntry, ordinal: int, best: float | None, notes: list[tuple[str, str]]
    ) -> _Lines:
        mark = (len(entry.results), len(entry.decisions), len(notes), ordinal, best)
        known = self._lines.get(entry.experiment_id)
        if known is not None and known.mark == mark:
            return known
        row = table_row(entry, metrics(entry), ordinal, best, plan_note(entry, notes))
        kept_bpb = row["val_bpb"] if row["status"] == "keep" and row["val_bpb"] else None
        lines = _Lines(mark, jsonl([row]), tsv_row(row), kept_bpb)
        self._lines[entry.experiment_id] = lines
        return lines


@dataclass(frozen=True)
class _Lines:
    """An experiment's lines in the tables; `mark` is all that they depend on beside the experiment itself."""

    mark: tuple[object, ...]
    jsonl: str
    tsv: str
    kept_bpb: float | None


def sync_picture(paths: CampaignPaths, state: CampaignState) -> SyncReport:
    """Draw progress.png, unless it shows this already or nothing was kept yet."""
    files = FileWriter(paths.root)
    _write_picture(files, paths, state)
    return SyncReport(len(state.decision_order), files.num_written, files.num_unchanged)


def sync_all(paths: CampaignPaths, state: CampaignState) -> SyncReport:
    """Write every view of the campaign."""
    notes = notes_by_experiment(state)
    files = FileWriter(paths.root)
    for name, entry in state.experiments.items():
        _write_experiment(files, entry, notes.get(name))
    tables = sync_tables(paths, state)
    files.text("tools/registry.json", json_text(tool_registry(state)))
    files.text("research_brief.json", json_text(research_brief(state)))
    files.text("search_model.md", search_model(state))
    files.text("fleet/manifest.json", json_text(fleet_manifest(state)))
    for path, text in fleet_files(state).items():
        files.text(path, text)
    _write_picture(files, paths, state)
    written, unchanged = files.num_written + tables.num_written, files.num_unchanged + tables.num_unchanged
    return SyncReport(len(state.experiments), written, unchanged)


def _write_experiment(files: FileWriter, entry: ExperimentEntry, notes: list[tuple[str, str]] | None) -> None:
    name, measured = entry.experiment_id, metrics(entry)
    files.text(f"plans/{name}.json", json_text(plan_document(entry)))
    files.text(f"plans/{name}.md", plan_note(entry, notes))
    files.text(f"runs/{name}/config.json", json_text(config_document(entry)))
    files.text(f"runs/{name}/diff.patch", entry.experiment.diff)
    if not entry.results and not entry.active:
        return
    files.text(f"runs/{name}/metadata.json", json_text(metadata_document(entry, measured)))
    files.text(f"runs/{name}/events.jsonl", jsonl(run_events(entry)))
    result = result_document(entry, measured)
    if result is not None:
        files.text(f"runs/{name}/result.json", json_text(result))


def _write_picture(files: FileWriter, paths: CampaignPaths, state: CampaignState) -> None:
    data = picture_data(state)
    if not data.kept:
        return
    if picture_is_current(paths.progress_picture, data):
        files.num_unchanged += 1
    else:
        files.data(paths.progress_picture.name, draw_progress(data))
