"""The doctor's checks, and the repair of a journal."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

from autohyp.cli import doctor
from autohyp.cli.journal_check import inspect_journal, repair_journal
from autohyp.errors import JournalError, JournalLockedError, SandboxUnavailableError
from autohyp.execution.sandbox import select
from autohyp.journal import Draft, JournalWriter, read_journal
from autohyp.journal import events as ev
from autohyp.journal.segments import sealed_numbers, sealed_path
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
        assert health.end.offset == sum(map(len, lines[: line - 1]))
        assert health.end.offset + health.rest_bytes == len(original)
        assert health.damaged_file == campaign.journal
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
    assert health.losses.num_lines == 1
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
    with pytest.raises(JournalError, match="cannot be repaired: the machine died"):
        repair_journal(campaign.journal)
    assert campaign.journal.read_bytes() == before
    assert campaign.journal.with_name("journal.damaged-1.jsonl").read_bytes() == rest


@pytest.fixture
def segmented(campaign: CampaignPaths) -> CampaignPaths:
    """The same campaign in segments of 8 kB and more."""
    drafts = [Draft(entry.key, entry.event) for entry in read_journal(campaign.journal)]
    campaign.journal.unlink()
    with JournalWriter(campaign.journal, segment_bytes=8000) as writer:
        for draft in drafts:
            writer.append([draft])
    assert len(sealed_numbers(campaign.journal)) >= 4
    return campaign


def segment(paths: CampaignPaths, number: int) -> Path:
    file = sealed_path(paths.journal, number)
    file.chmod(0o644)
    return file


def all_bytes(paths: CampaignPaths) -> bytes:
    files = [sealed_path(paths.journal, number) for number in sealed_numbers(paths.journal)]
    return b"".join(file.read_bytes() for file in [*files, paths.journal] if file.exists())


def test_a_whole_journal_in_segments_says_so(call: Call, segmented: CampaignPaths) -> None:
    number = len(sealed_numbers(segmented.journal)) + 1
    assert (
        f"lines in {number} segments, all whole"
        in checks_of(call("doctor", "--json"))["journal mar8"]["found"]
    )
    assert call("status").code == 0


def test_damage_in_an_earlier_segment_is_explained(call: Call, segmented: CampaignPaths) -> None:
    entries = read_journal(segmented.journal)
    first_lost = segment(segmented, 1).read_bytes().count(b"\n") + 3
    damage(segment(segmented, 2), 3)
    check = checks_of(call("doctor", "--json"))["journal mar8"]
    lost = entries[first_lost - 1 :]
    whole = [entry.event for entry in lost[1:]]
    num_results = sum(isinstance(event, ev.RunFinished) for event in whole)
    num_decisions = sum(isinstance(event, ev.DecisionMade) for event in whole)
    assert (
        f"journal.000002.jsonl damaged from line 3 on, {len(lost)} line(s) "
        f"({num_results} result(s), {num_decisions} decision(s), 1 unreadable) about exp-"
    ) in check["found"]
    assert "journal.000002.jsonl: line 3 is damaged: its content does not match its hash" in check["found"]
    assert f"keeps the {first_lost - 1} whole lines" in check["advice"]
    health = inspect_journal(segmented.journal)
    created = {e.experiment.experiment_id for e in whole if isinstance(e, ev.ExperimentCreated)}
    measured = {e.result.experiment_id for e in whole if isinstance(e, ev.RunFinished)}
    decided = {e.decision.experiment_id for e in whole if isinstance(e, ev.DecisionMade)}
    assert set(health.losses.experiment_ids) >= created | measured | decided
    assert call("status").code == 4


def test_a_lost_run_of_which_only_the_loss_is_left_names_its_experiment(campaign: CampaignPaths) -> None:
    """run_lost says the run alone; which experiment that is stands in the whole part."""
    entries = read_journal(campaign.journal)
    started = next(n for n, entry in enumerate(entries) if isinstance(entry.event, ev.RunStarted))
    campaign.journal.unlink()
    run = entries[started].event.run
    with JournalWriter(campaign.journal) as writer:
        writer.append([Draft(entry.key, entry.event) for entry in entries[: started + 1]])
        writer.append([Draft("note", ev.NoteWritten(author="a", text="to be damaged"))])
        writer.append([Draft("lost", ev.RunLost(run_id=run.run_id, reason="gone"))])
    damage(campaign.journal, started + 2)
    losses = inspect_journal(campaign.journal).losses
    assert list(losses.experiment_ids) == [run.experiment_id]
    assert (losses.num_lines, losses.num_unreadable, dict(losses.events)) == (2, 1, {"run_lost": 1})


@pytest.mark.parametrize(
    "break_it",
    ["byte 1 1", "byte 2 3", "byte 3 1", "byte 0 1", "byte 0 2", "gone 2", "gone 3", "gone 0", "cut 2"],
)
def test_repair_keeps_all_before_the_damage_and_loses_no_byte(
    call: Call, segmented: CampaignPaths, break_it: str
) -> None:
    """Segment 0 is the one being written."""
    what, number, *line = break_it.split()
    before = all_bytes(segmented)
    file = segment(segmented, int(number)) if int(number) else segmented.journal
    if what == "byte":
        damage(file, int(line[0]))
    elif what == "gone":
        file.unlink()
    else:
        file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-1]))
    segmented.journal.with_name("journal.snapshot").write_bytes(b"of what is no longer true")
    broken = all_bytes(segmented)
    outcome = call("doctor", "--repair")
    assert (outcome.code, outcome.err) == (0, "")
    aside = segmented.journal.with_name("journal.damaged-1.jsonl").read_bytes()
    kept = all_bytes(segmented)
    assert kept + aside == broken
    assert before.startswith(kept)
    assert kept.count(b"\n") == next(
        (n for n, (a, b) in enumerate(zip_longest(before.splitlines(), broken.splitlines())) if a != b)
    )
    assert not segmented.journal.with_name("journal.snapshot").exists()
    assert inspect_journal(segmented.journal).damaged_line is None
    with JournalWriter(segmented.journal, segment_bytes=1) as writer:
        assert len(writer.entries) == kept.count(b"\n")
        again = ev.CampaignCreated.model_validate(json.loads(before.splitlines()[0])["data"])
        first = ev.NoteWritten(author="a", text="goes on") if writer.entries else again
        writer.append([Draft("again", first)])
        writer.append([Draft("n", ev.NoteWritten(author="a", text="and on"))])
    assert inspect_journal(segmented.journal).num_intact == kept.count(b"\n") + 2


def test_a_crash_in_the_middle_of_a_repair_loses_nothing_and_the_next_completes_it(
    segmented: CampaignPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(segment(segmented, 2), 3)
    broken, folder = all_bytes(segmented), segmented.root
    saved = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    num_kept = segment(segmented, 1).read_bytes().count(b"\n") + 2
    for step in range(100):
        for file in folder.iterdir():
            file.unlink()
        for name, content in saved.items():
            (folder / name).write_bytes(content)
        with monkeypatch.context() as patch:
            crash_at_fsync(patch, step)
            try:
                repair_journal(segmented.journal)
                break
            except KeyboardInterrupt:
                pass
        kept = inspect_journal(segmented.journal).num_intact
        asides = [file.read_bytes() for file in sorted(folder.glob("journal.damaged-*"))]
        lines = {line for part in (all_bytes(segmented), *asides) for line in part.splitlines()}
        assert lines >= set(broken.splitlines()), "every line is still somewhere"
        assert kept == num_kept
        repair_journal(segmented.journal)
        assert inspect_journal(segmented.journal).damaged_line is None
        assert inspect_journal(segmented.journal).num_intact == num_kept
    assert step > 5


def crash_at_fsync(patch: pytest.MonkeyPatch, step: int) -> None:
    """The process ends at the fsync number `step`."""
    real, calls = os.fsync, [0]

    def fsync(fd: int) -> None:
        calls[0] += 1
        if calls[0] > step:
            raise KeyboardInterrupt
        real(fd)

    patch.setattr(os, "fsync", fsync)


def test_what_a_newer_autohyp_wrote_is_not_damaged_and_not_set_aside(
    call: Call, campaign: CampaignPaths
) -> None:
    lines = campaign.journal.read_bytes().splitlines(keepends=True)
    body = lines[-1].partition(b',"hash":"')[0].replace(b'{"v":%d' % ev.FORMAT_VERSION, b'{"v":99', 1)
    newer = body + b',"hash":"' + hashlib.sha256(body).hexdigest().encode() + b'"}\n'
    campaign.journal.write_bytes(b"".join([*lines[:-1], newer]))
    before = campaign.journal.read_bytes()
    for command in (["doctor"], ["doctor", "--repair"], ["status"]):
        outcome = call(*command)
        assert outcome.code == 4
        words = " ".join((outcome.out + outcome.err).split())
        assert "has format version 99, and this autohyp reads up to" in words
        assert "install a newer autohyp" in words
    assert campaign.journal.read_bytes() == before


def test_no_journal_at_all(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="no journal there"):
        inspect_journal(tmp_path / "journal.jsonl")
    with pytest.raises(JournalError, match="cannot be repaired"):
        repair_journal(tmp_path / "journal.jsonl")
