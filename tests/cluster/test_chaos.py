"""Campaigns under fire, the seeded short run: what `make chaos` does at length (`tests/chaos`)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from autohyp.journal import read_journal
from autohyp.testing.campaigns import CampaignShape, write_campaign

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_sixty_kills_lose_nothing_count_nothing_twice_and_leave_nothing(tmp_path: Path) -> None:
    log = tmp_path / "chaos.jsonl"
    command = [sys.executable, "-m", "tests.chaos", "--kills", "60", "--seed", "7", "--log", str(log)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=880, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "\n0 violations" in done.stdout
    happened = Counter(json.loads(line)["what"] for line in log.read_text().splitlines())
    assert happened["kill"] >= 60
    assert happened["campaign"] >= 2


def test_the_harness_notices_what_is_lost_and_what_is_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from tests.chaos.verify import verify_journal
    from tests.chaos.watch import JournalWatch

    paths = write_campaign(tmp_path, CampaignShape(num_experiments=6))
    entries = read_journal(paths.journal)
    finished = [entry.key for entry in entries if entry.event.type == "run_finished"]
    assert list(verify_journal(entries, Counter(finished))) == []

    [lost] = verify_journal([entry for entry in entries if entry.key != finished[0]], Counter(finished))[:1]
    assert lost == f"{finished[0]} was acknowledged and is not in the journal"
    doubled = list(verify_journal([*entries, entries[-1]], Counter(finished)))
    assert f"{entries[-1].key} is in the journal 2 times" in doubled

    watch = JournalWatch(paths.journal)
    assert watch.check_kept() == []
    lines = paths.journal.read_bytes().splitlines(keepends=True)
    paths.journal.write_bytes(b"".join(lines[:-2]))
    assert "2 lines of the journal are gone" in watch.check_kept()
