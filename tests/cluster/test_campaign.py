"""Whole campaigns on a real local Ray cluster: real data, real training, real git, real sandbox."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from autohyp.journal import read_journal, replay
from autohyp.paths import CampaignPaths
from autohyp.records import Verdict
from autohyp.views.sync import sync_all

from .conftest import Campaign

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]


def git(repository: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(repository), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_a_campaign_from_its_first_line_to_its_report(campaign: Campaign, tmp_path: Path) -> None:
    process = campaign.start("run")
    said = campaign.read_until(process, lambda line: "exp-0002" in line and "starts" in line)
    assert process.stdout is not None
    said += process.stdout.readlines()
    assert process.wait() == 0, "".join(said)

    state = replay(read_journal(campaign.root / "journal.jsonl"))
    assert state.ended == "the limit of 4 experiments is reached"
    assert len(state.decision_order) == len(state.experiments) == 4
    baseline = state.baseline
    assert baseline is not None
    assert baseline.verdict is Verdict.KEEP
    assert sorted(result.seed for result in baseline.measured) == [42, 43, 44]
    noise = state.experiments[state.decision_order[-1]].decisions[-1].noise
    assert noise is not None
    assert noise.sd_bpb > 0
    for entry in state.experiments.values():
        for result in entry.results:
            assert result.sandbox in ("bubblewrap", "landlock")
            assert (result.val_bpb is not None) == result.is_measured
    assert any(result.is_measured for entry in state.decided()[1:] for result in entry.results)

    # Git tells the story: a commit an experiment, discards included, and the champion's line.
    repository = campaign.root / "repo.git"
    branches = git(repository, "for-each-ref", "--format=%(refname:lstrip=2)", "refs/heads/experiments")
    assert sorted(branches.split()) == sorted(f"experiments/{name}" for name in state.experiments)
    assert state.champion is not None
    assert git(repository, "rev-parse", "champion").strip() == state.champion.experiment.commit
    assert "baseline" in git(repository, "log", "champion")

    # The tables come from the journal alone, byte for byte.
    copy = tmp_path / "copy" / "tiny"
    copy.mkdir(parents=True)
    shutil.copy(campaign.root / "journal.jsonl", copy)
    sync_all(CampaignPaths(copy), state)
    for name in ("experiments.jsonl", "results.tsv"):
        assert (copy / name).read_bytes() == (campaign.root / name).read_bytes()
    assert len((copy / "results.tsv").read_text().splitlines()) == 5

    for experiment_id in state.experiments:
        note = (campaign.root / "plans" / f"{experiment_id}.md").read_text()
        assert state.experiments[experiment_id].decisions[-1].reason in note
    assert (campaign.root / "progress.png").stat().st_size > 10_000

    # Anybody can make a number again, and only this one.
    journal = (campaign.root / "journal.jsonl").read_bytes()
    verified = campaign.run("verify", "champion", "--seeds", "1", "--json")
    found = json.loads(verified.stdout)
    assert verified.returncode == (8 if found["problems"] else 0), verified.stderr
    assert found["experiment_id"] == state.champion_id
    assert not {42, 43, 44} & set(found["seeds"])
    assert 0 < found["holdout_bpb"] != found["fresh_bpb"]
    assert "every hash right" in verified.stderr
    assert (campaign.root / "journal.jsonl").read_bytes() == journal
    assert campaign.left_behind() == []


def test_ctrl_c_loses_nothing_and_resume_goes_on(campaign: Campaign) -> None:
    process = campaign.start("run")
    campaign.read_until(process, lambda line: "val_bpb" in line)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: Ray's processes get it too
    assert process.stdout is not None
    said = process.stdout.read()
    assert process.wait() == 130, said
    assert campaign.left_behind() == []

    journal = campaign.root / "journal.jsonl"
    before = replay(read_journal(journal))
    assert before.num_results >= 1
    assert not before.in_flight
    assert before.ended is None

    done = campaign.run("resume")
    assert done.returncode == 0, done.stdout + done.stderr
    after = replay(read_journal(journal))
    assert after.ended == "the limit of 4 experiments is reached"
    for experiment_id, entry in before.experiments.items():
        kept = after.experiments[experiment_id].results[: len(entry.results)]
        assert kept == entry.results
    for entry in after.experiments.values():
        assert len({result.seed for result in entry.results}) == len(entry.results)


def test_another_terminal_cannot_drive_it_but_can_stop_it(campaign: Campaign) -> None:
    process = campaign.start("run")
    campaign.read_until(process, lambda line: "starts" in line)

    second = campaign.run("resume")
    assert second.returncode == 4
    assert len(second.stderr.strip().splitlines()) == 1
    assert "autohyp stop" in second.stderr
    status = json.loads(campaign.run("status", "--json").stdout)
    assert status["tag"] == "tiny"
    assert process.poll() is None

    assert f"process {process.pid}" in second.stderr

    done = campaign.run("stop")
    assert done.returncode == 0, done.stderr
    assert "resume" in done.stdout
    assert process.wait() == 0
    assert campaign.left_behind() == []
    again = campaign.run("stop")
    assert again.returncode == 4
    assert "not running" in again.stderr


def test_a_target_that_does_not_run_ends_at_once_and_says_why(campaign: Campaign) -> None:
    train = campaign.folder / "train.py"
    train.write_text(train.read_text().replace("def main() -> None:\n", "def main() -> None:\n    1 / 0\n"))
    done = campaign.run("run")
    assert done.returncode == 5, done.stdout + done.stderr
    assert "ZeroDivisionError" in done.stdout


def test_a_reader_that_goes_away_ends_it_cleanly(campaign: Campaign) -> None:
    process = campaign.start("run")
    campaign.read_until(process, lambda line: "starts" in line)
    assert process.stdout is not None
    process.stdout.close()  # as `autohyp run | head` does
    process.wait()
    state = replay(read_journal(campaign.root / "journal.jsonl"))
    assert not state.in_flight
    assert state.sessions[-1].end_reason == "the driver failed"
    assert campaign.left_behind() == []
