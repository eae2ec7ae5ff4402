"""The campaign folder: the older tools' fields, the same bytes for the same journal, nothing rewritten."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autohyp.journal import CampaignState, read_journal, replay
from autohyp.journal import events as ev
from autohyp.journal import experiments as experiments_module
from autohyp.paths import CampaignPaths
from autohyp.records import Verdict
from autohyp.testing.campaigns import CampaignShape, campaign_entries, campaign_state, write_campaign
from autohyp.views import sync as sync_module
from autohyp.views.sync import FolderSync, sync_all
from autohyp.views.tables import Tables

# Field names as the older tools know them (shared formats, in their order).
PLAN = ["experiment_id", "created_at", "based_on_commit", "worker_id", "hypothesis"]
PLAN_HYPOTHESIS = ["hypothesis_id", "title", "rationale", "outcome"]
CONFIG = [
    *("aspect_ratio", "head_dim", "window_pattern", "total_batch_size", "embedding_lr", "unembedding_lr"),
    *("matrix_lr", "scalar_lr", "weight_decay", "adam_betas", "warmup_ratio", "warmdown_ratio"),
    *("final_lr_frac", "depth", "device_batch_size", "notes"),
]
METADATA = {
    "recorded_at": None,
    "run": ["worker_id", "gpu_id", "hypothesis_id", "rationale"],
    "runtime": ["commit", "parent_commit", "gpu_name", "diff_stat", "diff_hash"],
    "metrics": None,
}
RESULT = [
    *("status", "decision_status", "recorded_at", "commit", "parent_commit", "title", "analysis", "outcome"),
    "metrics",
]
METRICS = [
    *("val_bpb", "peak_vram_mb", "num_steps", "training_seconds", "total_seconds", "mfu_percent"),
    *("total_tokens_M", "num_params_M", "depth", "train_bpb", "bpb_at_checkpoints", "tokens_per_second"),
]
EVENT = ["event_type", "recorded_at", "run_id", "worker_id", "node_id", "gpu_id", "payload"]
ROW = [
    *("id", "ordinal", "commit", "parent_commit", "timestamp", "status", "description", "val_bpb", "delta"),
    *("num_steps", "training_seconds", "total_seconds", "mfu_percent", "total_tokens_M", "peak_vram_gb"),
    *("num_params_M", "depth", "execution_status", "decision_status", "train_bpb", "bpb_at_checkpoints"),
    *("still_improving", "improvement_rate", "tokens_per_second", "diff_stat", "diff_hash"),
    *("decision_markdown_path", "decision_markdown", "gpu_name", "model_dim", "n_heads", "head_dim"),
    *("window_pattern", "total_batch_size", "device_batch_size", "matrix_lr", "embedding_lr", "weight_decay"),
    *(
        "warmdown_ratio",
        "adam_betas",
        "worker_id",
        "gpu_id",
        "hypothesis_id",
        "rationale",
        "outcome",
        "notes",
    ),
]
WORKER = [
    *("worker_id", "gpu_id", "branch", "worktree_path", "prompt_path", "current_run_id"),
    *("current_hypothesis_id", "current_title"),
]
MANIFEST = [
    *("tag", "created_at", "repository_root", "shared_research_dir", "observer_prompt_path"),
    *("tool_builder_prompt_path", "workers"),
]
BRIEF = [
    *("generated_at", "repository", "objective", "constraints", "current_config", "best_result", "findings"),
    *("open_questions", "hypothesis_queue", "notes"),
]
QUEUED = [
    *("hypothesis_id", "title", "rationale", "config_overrides", "priority", "status", "assigned_worker"),
    "outcome",
]
TOOL = [
    *("tool_id", "title", "status", "requested_at", "requested_by", "problem", "path", "summary", "usage"),
    *("decided_at", "decided_by", "notes"),
]


@pytest.fixture(scope="module")
def synced(tmp_path_factory: pytest.TempPathFactory, shape: CampaignShape) -> CampaignPaths:
    """The whole folder of `state`, for tests that only read it."""
    paths = CampaignPaths(tmp_path_factory.mktemp("synced") / shape.tag)
    sync_all(paths, campaign_state(shape))
    return paths


@pytest.fixture
def folder(tmp_path: Path, synced: CampaignPaths) -> CampaignPaths:
    """A copy of it, to change."""
    shutil.copytree(synced.root, tmp_path / synced.tag)
    return CampaignPaths(tmp_path / synced.tag)


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def rows_of(paths: CampaignPaths) -> list[dict[str, Any]]:
    return [json.loads(line) for line in paths.experiments.read_text(encoding="utf-8").splitlines()]


def names(document: dict[str, Any]) -> list[str]:
    return list(document)


def files_of(root: Path) -> dict[str, bytes]:
    """What others read: all but the notes that a sync keeps for the next one."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files if ".sync" not in path.parts}


def decided(state: CampaignState, *verdicts: Verdict) -> list[str]:
    return [entry.experiment_id for entry in state.decided() if entry.verdict in verdicts]


# The fields ----------------------------------------------------------------------------------


def test_plan_has_the_older_fields(synced: CampaignPaths, state: CampaignState) -> None:
    for name in state.experiments:
        plan = load(synced.plans / f"{name}.json")
        assert names(plan) == PLAN
        assert names(plan["hypothesis"]) == PLAN_HYPOTHESIS
        assert plan["created_at"].endswith("+00:00")
        assert "." not in plan["created_at"]
        assert (synced.plans / f"{name}.md").read_text(encoding="utf-8").startswith("# ")


def test_run_files_have_the_older_fields(synced: CampaignPaths, state: CampaignState) -> None:
    for entry in state.decided():
        run = synced.runs / entry.experiment_id
        config, metadata, result = (load(run / f"{name}.json") for name in ("config", "metadata", "result"))
        assert [name for name in config if name in CONFIG] == CONFIG
        assert names(metadata) == list(METADATA)
        assert names(metadata["run"]) == METADATA["run"]
        assert names(metadata["runtime"]) == METADATA["runtime"]
        assert names(result) == RESULT
        assert names(result["metrics"])[: len(METRICS)] == METRICS
        assert result["status"] in ("completed", "failed")
        assert result["decision_status"] in ("keep", "discard", "crash", "replicate")
        assert (run / "diff.patch").read_text(encoding="utf-8") == entry.experiment.diff
        events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
        assert all(names(event) == EVENT for event in events)
        assert events[0]["event_type"] == "run_started"
        assert events[-1]["event_type"] in ("run_completed", "run_failed")


def test_tables_have_the_older_fields(synced: CampaignPaths, state: CampaignState) -> None:
    rows = rows_of(synced)
    assert [row["id"] for row in rows] == state.decision_order
    assert [row["ordinal"] for row in rows] == list(range(1, len(rows) + 1))
    assert all(names(row) == ROW for row in rows)
    with synced.results.open(newline="", encoding="utf-8") as file:
        table = list(csv.reader(file, delimiter="\t"))
    assert table[0] == ["commit", "val_bpb", "memory_gb", "status", "description"]
    for row, line in zip(rows, table[1:], strict=True):
        assert line == [
            row["commit"][:7],
            f"{row['val_bpb']:.6f}",
            f"{row['peak_vram_gb']:.1f}",
            row["status"],
            row["description"],
        ]


def test_shared_files_have_the_older_fields(synced: CampaignPaths, state: CampaignState) -> None:
    manifest, brief = load(synced.fleet / "manifest.json"), load(synced.root / "research_brief.json")
    registry = load(synced.tools / "registry.json")
    assert names(manifest) == MANIFEST
    assert [worker["branch"] for worker in manifest["workers"]] == [
        "autoresearch/mar8-gpu0",
        "autoresearch/mar8-gpu1",
    ]
    assert all(names(worker) == WORKER for worker in manifest["workers"])
    assert {worker["current_run_id"] for worker in manifest["workers"]} == set(state.in_flight)
    assert names(brief) == BRIEF
    assert all(names(item) == QUEUED for item in brief["hypothesis_queue"])
    statuses = {item["status"] for item in brief["hypothesis_queue"]}
    assert {"pending", "dispatched", "completed"} <= statuses
    assert {finding["confidence"] for finding in brief["findings"]} <= {"high", "medium", "low"}
    assert names(registry) == ["updated_at", "shared_tools_dir", "tools"]
    assert all(names(tool)[: len(TOOL)] == TOOL for tool in registry["tools"])
    for name in ("observer-agent.md", "tool-builder.md", "worker-prompts/worker-0.md"):
        assert (synced.fleet / name).read_text(encoding="utf-8").startswith("# ")
    assert "champion" in (synced.root / "search_model.md").read_text(encoding="utf-8")


def test_the_older_tools_reject_no_terminal_experiment(synced: CampaignPaths, state: CampaignState) -> None:
    """Their rule: a commit, a parent_commit, a config and a numeric val_bpb, else `artifact_invalid`."""
    assert {entry.verdict for entry in state.decided()} >= set(Verdict) - {Verdict.REPLICATE}
    for name in state.decision_order:
        run = synced.runs / name
        result, runtime = load(run / "result.json"), load(run / "metadata.json")["runtime"]
        assert result["commit"]
        assert result["parent_commit"]
        assert runtime["commit"]
        assert runtime["parent_commit"]
        assert load(run / "config.json")
        assert type(result["metrics"]["val_bpb"]) is float


# The meaning ---------------------------------------------------------------------------------


def test_delta_is_against_the_best_kept_before(synced: CampaignPaths) -> None:
    best: float | None = None
    for row in rows_of(synced):
        if best is None or row["status"] == "crash":
            assert row["delta"] == 0.0
        else:
            assert row["delta"] == pytest.approx(row["val_bpb"] - best, abs=1e-8)
        if row["status"] == "keep":
            best = row["val_bpb"] if best is None else min(best, row["val_bpb"])


def test_a_crash_has_no_score_and_no_memory(synced: CampaignPaths, state: CampaignState) -> None:
    failures = decided(state, Verdict.CRASH, Verdict.INVALID)
    by_name = {row["id"]: row for row in rows_of(synced)}
    for name in failures:
        result = load(synced.runs / name / "result.json")
        assert (result["status"], result["decision_status"]) == ("failed", "crash")
        assert (result["metrics"]["val_bpb"], result["metrics"]["peak_vram_mb"]) == (0.0, 0.0)
        assert (by_name[name]["val_bpb"], by_name[name]["peak_vram_gb"]) == (0.0, 0.0)
    for name in decided(state, Verdict.INVALID):
        assert load(synced.runs / name / "result.json")["analysis"].startswith("invalid: a loss depends")


def test_scores_are_means_over_runs(synced: CampaignPaths, state: CampaignState) -> None:
    baseline = state.baseline
    assert baseline is not None
    scores = [result.val_bpb for result in baseline.results]
    assert len(scores) == 3
    row = rows_of(synced)[0]
    assert row["val_bpb"] == pytest.approx(sum(scores) / 3)
    assert row["parent_commit"] == row["commit"]
    assert (row["model_dim"], row["n_heads"]) == (128, 4)


def test_an_experiment_is_written_as_far_as_it_is_known(tmp_path: Path, state: CampaignState) -> None:
    paths = CampaignPaths(tmp_path / "c")
    running = next(iter(state.in_flight.values())).experiment_id
    sync_all(paths, state)
    assert not (paths.runs / running / "result.json").exists()
    events = (paths.runs / running / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["event_type"] for line in events] == ["run_started"]
    note = (paths.plans / f"{running}.md").read_text()
    assert "## Prediction" in note
    assert "## Outcome" not in note

    entry = state.experiments.open(state.decision_order.pop(1))
    first = entry.decisions[0].model_copy(update={"verdict": Verdict.REPLICATE})
    entry.decisions[:] = [first]
    sync_all(paths, state)
    assert load(paths.runs / entry.experiment_id / "result.json")["decision_status"] == "replicate"
    entry.decisions.clear()
    sync_all(paths, state)
    assert load(paths.runs / entry.experiment_id / "result.json")["decision_status"] == ""


def test_the_note_keeps_the_plan_next_to_the_outcome(synced: CampaignPaths, state: CampaignState) -> None:
    name = decided(state, Verdict.DISCARD)[0]
    note = (synced.plans / f"{name}.md").read_text(encoding="utf-8")
    order = [
        note.index(part)
        for part in ("## Hypothesis", "## Prediction", "## Change", "## Outcome", "**discard**")
    ]
    assert order == sorted(order)
    assert "predicted gain" in note


def test_a_note_about_an_experiment_is_on_its_page(tmp_path: Path, state: CampaignState) -> None:
    name = state.decision_order[3]
    state.notes.append(
        ("2026-03-08T10:00:00Z", ev.NoteWritten(author="ann", text="try it larger", experiment_id=name))
    )
    paths = CampaignPaths(tmp_path / "c")
    sync_all(paths, state)
    assert "**ann**: try it larger" in (paths.plans / f"{name}.md").read_text()
    assert "try it larger" in rows_of(paths)[3]["decision_markdown"]


def test_hostile_text_breaks_no_table_and_no_fence(
    tmp_path: Path, state: CampaignState, retitle: Callable[..., None]
) -> None:
    name = state.decision_order[1]
    retitle(state, name, title="a\tb\nc\u2028d \x1b[31mred\x1b[0m", rationale="x\x1b]0;title\x07y")
    entry = state.experiments.open(name)
    patched = entry.experiment.model_copy(update={"diff": "+x = 1\n+````\n"})
    entry.experiment = patched
    paths = CampaignPaths(tmp_path / "c")
    sync_all(paths, state)
    assert len(paths.experiments.read_text(encoding="utf-8").splitlines()) == len(state.decision_order)
    lines = paths.results.read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(state.decision_order) + 1
    assert lines[2].endswith("\ta b c d red")
    note = (paths.plans / f"{name}.md").read_text(encoding="utf-8")
    assert "\x1b" not in note
    assert "`````diff\n+x = 1\n+````\n`````" in note
    assert (paths.runs / name / "diff.patch").read_text(encoding="utf-8") == "+x = 1\n+````\n"


# The files -----------------------------------------------------------------------------------


def test_a_copied_journal_gives_the_same_bytes(tmp_path: Path) -> None:
    first = write_campaign(tmp_path / "here", CampaignShape(num_experiments=12))
    sync_all(first, replay(read_journal(first.journal)))
    second = CampaignPaths(tmp_path / "else" / "where" / first.tag)
    second.root.mkdir(parents=True)
    shutil.copy(first.journal, second.journal)
    sync_all(second, replay(read_journal(second.journal)))
    assert files_of(first.root) == files_of(second.root)
    assert not [name for name, data in files_of(first.root).items() if str(tmp_path).encode() in data]


def test_nothing_is_written_twice(folder: CampaignPaths, state: CampaignState) -> None:
    before = {name: (folder.root / name).stat().st_mtime_ns for name in files_of(folder.root)}
    assert sync_all(folder, state).num_written == 0
    assert before == {name: (folder.root / name).stat().st_mtime_ns for name in files_of(folder.root)}


def test_what_is_missing_or_changed_is_written_again(folder: CampaignPaths, state: CampaignState) -> None:
    whole = files_of(folder.root)
    folder.results.unlink()
    folder.progress_picture.write_bytes(b"not a picture")
    shutil.rmtree(folder.plans)
    (folder.root / "search_model.md").write_text("mine")
    report = sync_all(folder, state)
    assert report.num_written == 4 + 2 * len(state.experiments), "both tables, two shared files, the plans"
    assert files_of(folder.root) == whole


def test_what_is_not_a_view_is_left_alone(folder: CampaignPaths, state: CampaignState) -> None:
    others = [
        folder.live_workers / "worker-0.json",
        folder.log(state.decision_order[0], "run"),
        folder.tools / "published" / "tool.py",
    ]
    for path in others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("kept")
    sync_all(folder, state)
    assert [path.read_text() for path in others] == ["kept"] * 3


# What is not done again ----------------------------------------------------------------------


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("this must not be needed")


def test_steps_are_as_if_written_once(tmp_path: Path, shape: CampaignShape) -> None:
    """Change by change, among them late runs of champions and notes on old experiments."""
    paths, fresh = CampaignPaths(tmp_path / "steps"), CampaignPaths(tmp_path / "fresh")
    folder, state, touched = FolderSync(paths), CampaignState(), set[str]()
    for number, entry in enumerate(campaign_entries(shape)):
        name = state.apply(entry)
        touched |= {name} - {None}
        if number % 40 == 20:
            about = state.decision_order[len(state.decision_order) // 2]
            note = ev.NoteWritten(author="ann", text="more", experiment_id=about)
            state.notes.append((entry.ts, note))
            touched.add(about)
        if isinstance(entry.event, ev.DecisionMade | ev.RunFinished | ev.RunStarted):
            folder.experiments(state, touched)
            touched.clear()
    folder.experiments(state, touched)
    folder.shared(state)
    sync_all(fresh, state)
    assert files_of(paths.root) == files_of(fresh.root)
    assert FolderSync(paths).experiments(state) == sync_module.SyncReport(0, 0, 0)


def test_what_did_not_change_is_not_even_decoded(
    folder: CampaignPaths, state: CampaignState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync_module, "_carry_out", refuse)
    monkeypatch.setattr(experiments_module, "unpack_entry", refuse)
    state.experiments._cache.clear()
    assert FolderSync(folder).experiments(state).num_experiments == 0


def test_one_change_costs_no_walk(
    folder: CampaignPaths, state: CampaignState, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed = FolderSync(folder)
    followed.experiments(state)
    monkeypatch.setattr(experiments_module.Experiments, "__iter__", refuse)
    monkeypatch.setattr(Tables, "load", refuse)
    assert followed.experiments(state, [state.decision_order[-1]]).num_unchanged == 7
    assert followed.experiments(state, []).num_experiments == 0


def test_a_settled_experiment_that_changed_is_noticed_without_being_told(
    folder: CampaignPaths, state: CampaignState, retitle: Callable[..., None], tmp_path: Path
) -> None:
    retitle(state, state.decision_order[7], title="another title")
    sync_all(folder, state)
    fresh = CampaignPaths(tmp_path / "fresh")
    sync_all(fresh, state)
    assert files_of(folder.root) == files_of(fresh.root)


@pytest.mark.parametrize("lost", ["result.json", "diff.patch", ""])
def test_what_was_deleted_of_an_experiment_comes_back(
    folder: CampaignPaths, state: CampaignState, lost: str
) -> None:
    whole = files_of(folder.root)
    run = folder.runs / state.decision_order[3]
    (run / lost).unlink() if lost else shutil.rmtree(run)
    (folder.plans / f"{state.decision_order[4]}.md").unlink()
    sync_all(folder, state)
    assert files_of(folder.root) == whole


def test_a_change_in_place_is_mended_by_force(folder: CampaignPaths, state: CampaignState) -> None:
    whole = files_of(folder.root)
    (folder.runs / state.decision_order[3] / "result.json").write_text("{}")
    sync_all(folder, state)
    assert files_of(folder.root) != whole
    sync_all(folder, state, force=True)
    assert files_of(folder.root) == whole


def test_after_a_machine_went_down_its_last_minute_is_compared(
    folder: CampaignPaths, state: CampaignState
) -> None:
    whole = files_of(folder.root)
    (folder.runs / state.decision_order[3] / "result.json").write_text("")
    (folder.root / ".sync" / "boot").write_text("another start of this machine")
    sync_all(folder, state)
    assert files_of(folder.root) == whole


@pytest.mark.parametrize("name", ["experiments.jsonl", "results.tsv", ".sync/rows", ".sync/experiments"])
@pytest.mark.parametrize("damage", ["gone", "empty", "half a line less", "half a line more", "another byte"])
def test_whatever_happened_to_a_table_or_its_index_is_mended(
    folder: CampaignPaths, state: CampaignState, name: str, damage: str
) -> None:
    """As a crash in the middle of a write, a full disk or a hand could leave it."""
    whole, path = files_of(folder.root), folder.root / name
    data = path.read_bytes()
    damaged = {
        "empty": b"",
        "half a line less": data[:-20],
        "half a line more": data + data[-30:-10],
        "another byte": data[:300] + bytes([data[300] ^ 1]) + data[301:],
    }
    path.unlink() if damage == "gone" else path.write_bytes(damaged[damage])
    sync_all(folder, state)
    assert files_of(folder.root) == whole
    assert FolderSync(folder).experiments(state).num_experiments == 0


def test_a_write_that_fails_is_made_up_for(
    folder: CampaignPaths, state: CampaignState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full in the middle of a table: what is there are whole lines of before, then the rest."""
    followed, name = FolderSync(folder), state.decision_order[12]
    followed.experiments(state)
    note = ev.NoteWritten(author="ann", text="more", experiment_id=name)
    state.notes.append(("2026-03-08T10:00:00Z", note))
    with monkeypatch.context() as patch:
        patch.setattr(Tables, "_append", no_space)
        with pytest.raises(OSError, match="No space"):
            followed.experiments(state, [name])
    assert [row["id"] for row in rows_of(folder)] == state.decision_order[:12]
    followed.experiments(state, [])
    sync_all(CampaignPaths(tmp_path / "fresh"), state)
    assert files_of(folder.root) == files_of(tmp_path / "fresh")


def no_space(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def test_a_file_that_could_not_be_replaced_stays(
    folder: CampaignPaths, state: CampaignState, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder.root / "search_model.md").write_text("old")
    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(OSError, match="No space"):
        sync_all(folder, state)
    assert (folder.root / "search_model.md").read_text() == "old"
    assert not [name for name in files_of(folder.root) if name.rpartition("/")[2].startswith(".")]


def test_two_who_sync_do_not_harm_each_other(tmp_path: Path, shape: CampaignShape) -> None:
    """Somebody brings the folder to an older state while another follows the campaign."""
    paths, fresh = CampaignPaths(tmp_path / "shared"), CampaignPaths(tmp_path / "fresh")
    entries = list(campaign_entries(shape))
    older, state = replay(entries[:150]), replay(entries[:200])
    followed = FolderSync(paths)
    followed.experiments(state)
    sync_all(paths, older)
    touched = {state.apply(entry) for entry in entries[200:]} - {None}
    followed.experiments(state, {name for name in touched if name})
    followed.shared(state)
    sync_all(fresh, state)
    assert files_of(paths.root) == files_of(fresh.root)


_IN_PARALLEL = """
import os, sys
from pathlib import Path
from autohyp.paths import CampaignPaths
from autohyp.testing.campaigns import CampaignShape, campaign_state
from autohyp.views import sync
sync._MIN_PARALLEL, sync._MIN_PARALLEL_LOOK, sync._CHUNK = 1, 1, 3
here = os.getpid()
def elsewhere(work):
    def watched(*arguments):
        assert os.getpid() != here, "not in another process"
        return work(*arguments)
    return watched
sync._carry_out = elsewhere(sync._carry_out)
sync.FolderSync._compare = elsewhere(sync.FolderSync._compare)
state, paths = campaign_state(eval(sys.argv[2])), CampaignPaths(Path(sys.argv[1]))
def written():
    report = sync.FolderSync(paths, processes=2).experiments(state)
    return report.num_experiments, report.num_written
assert written()[0] == len(state.experiments)
assert written() == (0, 0)
first, *_, last = state.experiments
for name in (first, last):
    (paths.plans / f"{name}.md").unlink()
assert written() == (2, 2), "exactly what is missing comes back"
"""


def test_processes_write_what_one_writes(tmp_path: Path, synced: CampaignPaths, shape: CampaignShape) -> None:
    command = [sys.executable, "-c", _IN_PARALLEL, str(tmp_path / "two"), repr(shape)]
    subprocess.run(command, check=True, timeout=120)
    whole, parts = files_of(synced.root), files_of(tmp_path / "two")
    assert {name: data for name, data in whole.items() if name in parts} == parts
    assert len(parts) > 6 * shape.num_experiments


def test_an_empty_campaign_has_empty_tables_and_no_picture(tmp_path: Path) -> None:
    paths = CampaignPaths(tmp_path / "c")
    state = campaign_state(CampaignShape(num_experiments=1))
    opening = CampaignState(created=state.created, sessions=state.sessions)
    sync_all(paths, opening)
    assert paths.experiments.read_text() == ""
    assert paths.results.read_text() == "commit\tval_bpb\tmemory_gb\tstatus\tdescription\n"
    assert not paths.progress_picture.exists()
    assert load(paths.root / "research_brief.json")["best_result"] == {}


def test_the_picture_is_drawn_once_for_what_it_shows(tmp_path: Path, state: CampaignState) -> None:
    paths = CampaignPaths(tmp_path / "c")
    sync_all(paths, state)
    assert paths.progress_picture.read_bytes().startswith(b"\x89PNG\r\n")
    drawn_at = paths.progress_picture.stat().st_mtime_ns
    sync_all(paths, state)
    assert paths.progress_picture.stat().st_mtime_ns == drawn_at
    state.decision_order.pop()
    sync_all(paths, state)
    assert paths.progress_picture.stat().st_mtime_ns != drawn_at
