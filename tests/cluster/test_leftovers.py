"""What the keeper of a dead driver does in the moment of that death."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from autohyp.cluster.leftovers import end_session_processes, session_processes


def test_an_ancestor_that_ends_while_it_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Before, the keeper failed here when its driver died between two looks at it."""
    parent_of = psutil.Process.parent

    def parent(process: psutil.Process) -> psutil.Process | None:
        if process.pid != os.getpid():
            raise psutil.NoSuchProcess(process.pid)
        return parent_of(process)

    monkeypatch.setattr(psutil.Process, "parent", parent)
    session = str(tmp_path / "session_2026-01-01_00-00-00_0_0")
    assert session_processes(session) == []
    assert end_session_processes(session)
