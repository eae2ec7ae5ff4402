"""Journals of every older version are read, and go on; each version has a file that proves it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from autohyp.errors import JournalDamagedError
from autohyp.journal import CampaignState, Draft, JournalWriter, read_journal, replay
from autohyp.journal import events as ev
from autohyp.journal.migrations import MIGRATIONS, migrate

DATA = Path(__file__).parent / "data"
OLDER = range(1, ev.FORMAT_VERSION)
NEW_IN = {2: {"pause_changed", "stop_requested", "worker_drained"}}
"""Event types that a version added; an older journal has all others."""


def facts(state: CampaignState) -> dict[str, Any]:
    """What a journal says, without this version's way of keeping it."""
    return {
        "tag": state.tag,
        "version": state.version,
        "ended": state.ended,
        "charged_s": round(state.charged_s, 6),
        "sessions": [[session.started.session_id, session.end_reason] for session in state.sessions],
        "champion": state.champion.experiment_id if state.champion else None,
        "queue": list(state.queue),
        "refused": list(state.refused),
        "in_flight": sorted(state.in_flight),
        "findings": {finding.finding_id: finding.title for finding in state.findings.values()},
        "tools": {tool.tool_id: tool.status.value for tool in state.tools.values()},
        "notes": [note.text for _, note in state.notes],
        "experiments": {
            experiment_id: {
                "title": entry.experiment.hypothesis.title,
                "commit": entry.experiment.commit,
                "seeds": entry.seeds,
                "results": [[result.seed, result.status.value, result.val_bpb] for result in entry.results],
                "verdicts": [[decision.verdict.value, decision.reason] for decision in entry.decisions],
                "faults": {str(seed): number for seed, number in entry.num_faults.items()},
            }
            for experiment_id, entry in state.experiments.items()
        },
    }


@pytest.fixture(params=OLDER, ids=lambda version: f"v{version}")
def old(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[int, Path]:
    """A format version and a journal written in it, to be changed."""
    path = tmp_path / "journal.jsonl"
    shutil.copyfile(DATA / f"v{request.param}.jsonl", path)
    return request.param, path


def test_every_older_version_has_a_migration_and_a_journal() -> None:
    """Fails when FORMAT_VERSION is raised and nothing else: see `autohyp.journal.migrations`."""
    assert set(MIGRATIONS) == set(OLDER)
    for version in OLDER:
        assert (DATA / f"v{version}.jsonl").is_file()
        assert (DATA / f"v{version}.expected.json").is_file()


def test_the_old_journal_holds_every_event_of_its_version(old: tuple[int, Path]) -> None:
    version, path = old
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert {line["v"] for line in lines} == {version}
    added = [types for number, types in NEW_IN.items() if number > version]
    assert {line["type"] for line in lines} == set(ev.EVENT_TYPES).difference(*added)


def test_an_old_journal_means_what_it_meant(old: tuple[int, Path]) -> None:
    version, path = old
    expected = json.loads((DATA / f"v{version}.expected.json").read_text())
    assert facts(replay(read_journal(path))) == expected


def test_an_old_journal_goes_on_in_the_present_version(old: tuple[int, Path]) -> None:
    version, path = old
    before = path.read_bytes()
    num_lines = before.count(b"\n")
    with JournalWriter(path) as writer:
        assert len(writer.entries) == num_lines
        writer.append([Draft("p", ev.PauseChanged(paused=True, author="ann"))])
    with JournalWriter(path) as writer:
        writer.append([Draft("n", ev.NoteWritten(author="ann", text="goes on: ünïcode"))])
    content = path.read_bytes()
    assert content.startswith(before), "what was written is never written again"
    versions = [json.loads(line)["v"] for line in content.splitlines()]
    assert versions == [version] * num_lines + [ev.FORMAT_VERSION] * 2
    state = replay(read_journal(path))
    assert state.paused
    assert state.notes[-1][1].text == "goes on: ünïcode"


def test_a_changed_byte_in_an_old_line_is_noticed(old: tuple[int, Path]) -> None:
    path = old[1]
    intact = path.read_bytes()
    for position in range(0, len(intact), 701):
        changed = bytearray(intact)
        changed[position] ^= 1
        path.write_bytes(changed)
        line = intact[:position].count(b"\n") + 1
        with pytest.raises(JournalDamagedError, match=rf"line {line} is damaged"):
            read_journal(path)


def test_migrations_are_applied_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MIGRATIONS, 1, lambda kind, data: (kind, data | {"b": data["a"]}))
    monkeypatch.setitem(MIGRATIONS, 2, lambda kind, data: (f"new_{kind}", data | {"c": data["b"] + 1}))
    assert migrate(1, "x", {"a": 1}) == ("new_x", {"a": 1, "b": 1, "c": 2})
    assert migrate(2, "x", {"b": 4}) == ("new_x", {"b": 4, "c": 5})
    with pytest.raises(ValueError, match="format version 7 never was"):
        migrate(7, "x", {})


def test_what_a_migration_makes_is_what_is_read(
    old: tuple[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    version, path = old

    def shout(kind: str, data: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        return (kind, data | {"text": data["text"].upper()}) if kind == "note_written" else (kind, data)

    monkeypatch.setitem(MIGRATIONS, version, shout)
    assert replay(read_journal(path)).notes[0][1].text.startswith("ÜNÏCODE")
