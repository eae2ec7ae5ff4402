"""Campaigns under fire, the seeded short run: what `make chaos` does at length (`tests/chaos`)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_sixty_kills_lose_nothing_count_nothing_twice_and_leave_nothing(tmp_path: Path) -> None:
    log = tmp_path / "chaos.jsonl"
    command = [sys.executable, "-m", "tests.chaos", "--kills", "60", "--seed", "7", "--log", str(log)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "0 violations" in done.stdout
    assert log.read_text().count('"what": "kill"') >= 60
