"""A small journal on disk, and drafts to make others from."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from autohyp.journal import Draft, JournalWriter
from autohyp.journal.events import CampaignCreated, NoteWritten


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
