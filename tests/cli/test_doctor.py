"""The doctor's checks, and the repair of a journal."""

from __future__ import annotations

import json
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autohyp.cli import doctor
from autohyp.cli.journal_check import inspect_journal, repair_journal
from autohyp.errors import JournalError, JournalLockedError, SandboxUnavailableError
from autohyp.execution.sandbox import select
from autohyp.journal import Draft, JournalWriter, read_journal
from autohyp.journal import events as ev
from autohyp.paths import CampaignPaths
from autohyp.records import Hardware

Call = Callable[..., Any]
ASK = doctor._run_quietly
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def healthy_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine where everything is there, without trying each thing out for seconds."""
    answers = {"git": (True, "git version 2.50")}
    monkeypatch.setattr(doctor, "_run_quietly", lambda command: answers.get(command[0], (True, "2.13.0 0")))
    monkeypatch.setattr(doctor, "detect_hardware", lambda: Hardware(cpus=2, memory_gb=8.0))
    monkeypatch.setattr(select, "select_sandbox", lambda name: name)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1e12, 0, 1e11))
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "2.60.0")
    monkeypatch.setenv("AUTOHYP_CACHE", str(tmp_path / "cache"))


def checks_of(outcome: Any) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in json.loads(outcome.out)["checks"]}


def damage(journal: Path, line: int) -> bytes:
    """Change a byte in a line (from 1); returns everything from that line on."""
    lines = journal.read_bytes().splitlines(keepends=True)
    middle = len(lines[line - 1]) // 2
    lines[line - 1] = lines[line - 1][:middle] + b"~" + lines[line - 1][middle + 1 :]
    journal.write_bytes(b"".join(lines))
    return b"".join(lines[line - 1 :])


# The machine ---------------------------------------------------------------------------------


def test_all_is_well(call: Call, campaign: CampaignPaths) -> None:
    outcome = call("doctor")
    assert (outcome.code, outcome.err) == (0, "")
    for words in ("torch", "ray", "git", "2 cores", "sandbox landlock", "all whole", "100 GB free"):
        assert words in outcome.out
    checks = checks_of(call("doctor", "--json"))
    assert {check["status"] for check in checks.values()} <= {"ok", "note"}


def test_without_a_campaign_the_machine_is_checked(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = call("doctor")
    assert outcome.code == 0
    assert "journal" not in outcome.out
    assert call("doctor", "--repair").code == 4


@pytest.mark.parametrize(
    ("command", "works", "answer"),
    [
        (["git", "--version"], True, "git version"),
        (["git", "no-such-command"], False, ""),
        (["no-such-program"], False, "no-such-program is not installed"),
        (["sleep", "60"], False, "sleep gave no answer in 0.05 s"),
    ],
)
def test_a_program_is_asked_quietly(command: list[str], works: bool, answer: str) -> None:
    result = ASK(command, timeout_s=0.05 if command[0] == "sleep" else 60.0)
    assert result[0] is works
    assert result[1].startswith(answer)


def no_answer(command: list[str]) -> tuple[bool, str]:
    return False, "ImportError: libtorch"


def refuse_sandbox(name: str) -> None:
    raise SandboxUnavailableError(f"{name}: refused by the kernel")


@pytest.mark.parametrize(
    ("break_it", "name", "code"),
    [
        (lambda m: m.setattr(doctor, "_run_quietly", no_answer), "torch", 1),
        (lambda m: m.setattr(select, "select_sandbox", refuse_sandbox), "sandbox landlock", 6),
        (lambda m: m.setattr(shutil, "disk_usage", lambda path: Usage(1e12, 0, 1e8)), "disk", 1),
        (lambda m: m.setattr(doctor.metadata, "version", missing_package), "ray", 7),
    ],
)
def test_what_is_missing_fails_with_advice(
    call: Call,
    campaign: CampaignPaths,
    monkeypatch: pytest.MonkeyPatch,
    break_it: Callable[[pytest.MonkeyPatch], None],
    name: str,
    code: int,
) -> None:
    break_it(monkeypatch)
    outcome = call("doctor", "--json")
    assert outcome.code == code
    check = checks_of(outcome)[name]
    assert check["status"] == "failed"
    assert check["advice"]


def missing_package(name: str) -> str:
    raise doctor.metadata.PackageNotFoundError(name)


def test_one_sandbox_is_enough(call: Call, campaign: CampaignPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        select, "select_sandbox", lambda name: refuse_sandbox(name) if name == "bubblewrap" else name
    )
    outcome = call("doctor", "--json")
    assert outcome.code == 0
    checks = checks_of(outcome)
    assert checks["sandbox bubblewrap"]["status"] == "note"
    assert "used by default" in checks["sandbox landlock"]["found"]


def test_data_folders(call: Call, campaign: CampaignPaths, tmp_path: Path) -> None:
    assert "none prepared" in checks_of(call("doctor", "--json"))["data"]["found"]
    meta = tmp_path / "cache" / "pystdlib-cpu" / "meta.json"
    meta.parent.mkdir(parents=True)
    meta.write_text('{"source": "pystdlib", "profile": "cpu"}')
    assert checks_of(call("doctor", "--json"))["data"]["found"] == "pystdlib (cpu)"
    meta.write_text("{")
    outcome = call("doctor", "--json")
    assert outcome.code == 3
    assert "incomplete" in checks_of(outcome)["data"]["found"]


# The journal ---------------------------------------------------------------------------------


def test_damage_is_named_with_its_line(call: Call, campaign: CampaignPaths) -> None:
    num_lines = len(campaign.journal.read_bytes().splitlines())
    damage(campaign.journal, 12)
    before = campaign.journal.read_bytes()
    outcome = call("doctor", "--json")
    assert outcome.code == 4
    check = checks_of(outcome)["journal mar8"]
    assert f"damaged from line 12 on, {num_lines - 11} line(s)" in check["found"]
    assert check["advice"] == "`autohyp doctor --tag mar8 --repair` keeps the 11 whole lines"
    assert campaign.journal.read_bytes() == before


def test_repair_keeps_what_is_whole_and_sets_the_rest_aside(call: Call, campaign: CampaignPaths) -> None:
    whole = campaign.journal.read_bytes().splitlines(keepends=True)[:11]
    rest = damage(campaign.journal, 12)
    outcome = call("doctor", "--repair")
    assert outcome.code == 0
    assert "journal.damaged-1.jsonl" in outcome.out
    assert campaign.journal.read_bytes() == b"".join(whole)
    assert campaign.journal.with_name("journal.damaged-1.jsonl").read_bytes() == rest
    assert call("status").code == 0
    with JournalWriter(campaign.journal) as writer:
        writer.append([Draft("n", ev.NoteWritten(author="a", text="goes on"))])
    assert len(read_journal(campaign.journal)) == 12
    assert "nothing to repair" in call("doctor", "--repair").out
    damage(campaign.journal, 12)
    assert "journal.damaged-2.jsonl" in call("doctor", "--repair").out


def test_every_changed_byte_is_found(campaign: CampaignPaths) -> None:
    original = campaign.journal.read_bytes()
    lines = original.splitlines(keepends=True)
    for line in (1, 2, len(lines)):
        damage(campaign.journal, line)
        health = inspect_journal(campaign.journal)
        assert (health.damaged_line, health.num_intact) == (line, line - 1)
        assert health.intact_bytes == sum(map(len, lines[: line - 1]))
        assert health.total_bytes == len(original)
        campaign.journal.write_bytes(original)
    campaign.journal.write_bytes(b"".join(lines[:4] + lines[5:]))
    assert inspect_journal(campaign.journal).damaged_line == 5


def test_a_torn_last_line_is_no_damage(call: Call, campaign: CampaignPaths) -> None:
    whole = campaign.journal.read_bytes()
    campaign.journal.write_bytes(whole + b'{"v":1,"seq":')
    health = inspect_journal(campaign.journal)
    assert (health.damaged_line, health.torn_bytes) == (None, 13)
    outcome = call("doctor")
    assert outcome.code == 0
    assert "13 bytes of an unfinished" in outcome.out
    assert repair_journal(campaign.journal)[1] is None


def test_an_event_that_cannot_follow_is_damage(campaign: CampaignPaths) -> None:
    with JournalWriter(campaign.journal) as writer:
        number = len(writer.entries) + 1
        writer.append([Draft("x", ev.RunLost(run_id="never", reason="x"))])
    assert inspect_journal(campaign.journal).damaged_line == number
    health, aside = repair_journal(campaign.journal)
    assert aside is not None
    assert health.num_lost_lines == 1
    assert inspect_journal(campaign.journal).damaged_line is None


def test_a_running_campaign_is_not_repaired(call: Call, campaign: CampaignPaths) -> None:
    with JournalWriter(campaign.journal):
        with pytest.raises(JournalLockedError, match="is running"):
            repair_journal(campaign.journal)
        assert call("doctor", "--repair").code == 4
        assert call("doctor").code == 0


def test_the_rest_is_on_disk_before_the_journal_is_cut(
    campaign: CampaignPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    rest = damage(campaign.journal, 12)
    before = campaign.journal.read_bytes()

    def crash(fd: int, size: int) -> None:
        raise OSError(5, "the machine died here")

    monkeypatch.setattr(os, "ftruncate", crash)
    with pytest.raises(OSError, match="died"):
        repair_journal(campaign.journal)
    assert campaign.journal.read_bytes() == before
    assert campaign.journal.with_name("journal.damaged-1.jsonl").read_bytes() == rest


def test_no_journal_at_all(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="no journal there"):
        inspect_journal(tmp_path / "journal.jsonl")
    with pytest.raises(JournalError, match="cannot be repaired"):
        repair_journal(tmp_path / "journal.jsonl")
