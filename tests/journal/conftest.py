"""A small journal on disk, and drafts to make others from."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from autohyp.journal import Draft, Entry, JournalWriter
from autohyp.journal.events import CampaignCreated, NoteWritten
from autohyp.journal.segments import sealed_numbers, sealed_path

PROPERTY = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def files_of(path: Path) -> list[Path]:
    """The segments in order, the one being written last."""
    sealed = [sealed_path(path, number) for number in sealed_numbers(path)]
    return [*sealed, path] if path.exists() else sealed


def all_bytes(path: Path) -> bytes:
    """The journal as if it were one file."""
    return b"".join(file.read_bytes() for file in files_of(path))


def keys(entries: list[Entry]) -> list[str]:
    return [entry.key for entry in entries]


def _note(number: int) -> Draft:
    return Draft(f"note-{number}", NoteWritten(author="tests", text=f"fact {number}: ünïcode"))


@pytest.fixture
def note() -> Callable[[int], Draft]:
    """A draft that can always follow, by number."""
    return _note


@pytest.fixture
def created() -> Draft:
    """The draft that every journal begins with."""
    event = CampaignCreated(
        tag="test", objective="o", config={}, target_sha256={}, data_sha256="d", created_at="2026-01-01"
    )
    return Draft("campaign", event)


@pytest.fixture
def journal(tmp_path: Path, created: Draft) -> Path:
    """A journal of three lines."""
    path = tmp_path / "journal.jsonl"
    with JournalWriter(path) as writer:
        writer.append([created])
        writer.append([_note(1), _note(2)])
    return path


@pytest.fixture
def segmented(tmp_path: Path, note: Callable[[int], Draft]) -> Path:
    """Lines 1-3, 4-6 and 7-9 sealed, 10 and 11 being written."""
    path = tmp_path / "journal.jsonl"
    with JournalWriter(path, segment_bytes=1) as writer:
        for first in (1, 4, 7):
            writer.append([note(first), note(first + 1), note(first + 2)])
        writer.append([note(10), note(11)])
    return path


@pytest.fixture
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that write a lot and are not about durability."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)
