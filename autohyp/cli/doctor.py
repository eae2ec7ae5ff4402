"""`autohyp doctor`: is everything here that a campaign needs, and is a campaign's journal whole?

Each check looks at the real thing (torch is imported, in a process of its own; a sandbox is tried out) and
says in one line what it found and, where something is wrong, what to do. The exit code is that of the first
failed check.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from autohyp import __version__
from autohyp.cli.journal_check import JournalHealth, inspect_journal, repair_journal
from autohyp.cli.options import JsonOption, ResearchOption, TagOption, console, examples, print_json
from autohyp.errors import (
    AutohypError,
    CampaignError,
    ClusterError,
    DataError,
    JournalError,
    SandboxUnavailableError,
    WorkspaceError,
)
from autohyp.hardware import detect_hardware
from autohyp.paths import CampaignPaths, find_campaign, list_campaigns
from autohyp.views.text import clean_line

__all__ = ["Check", "register"]

LOW_DISK_GB, NO_DISK_GB = 10.0, 1.0
_NAMES_SHOWN = 6
_SIGNS = {"ok": ("✔", "green"), "note": ("·", "dim"), "warning": ("!", "yellow"), "failed": ("✗", "bold red")}


@dataclass(frozen=True)
class Check:
    """One finding; `exit_code` is 0 unless `status` is failed."""

    name: str
    status: str
    found: str
    advice: str = ""
    exit_code: int = 0


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    lines = ("autohyp doctor", "autohyp doctor --tag mar8", "autohyp doctor --tag mar8 --repair")
    app.command(epilog=examples(*lines))(doctor)


def doctor(
    research: ResearchOption = Path("research"),
    tag: TagOption = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Set the damaged rest of the campaign's journal aside and keep what is whole."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check this machine, and the journal of a campaign.

    A damaged journal is named with file and line, and with the experiments that it costs. --repair moves
    everything from there on, later segments included, into journal.damaged-N.jsonl; the campaign then goes on
    from the last whole line.
    """
    campaign = find_campaign(research, tag) if tag or repair or list_campaigns(research) else None
    checks = list(_machine_checks(research))
    if campaign is not None:
        checks.append(_repair(campaign) if repair else _journal_check(campaign))
    if as_json:
        print_json({"checks": [asdict(check) for check in checks]})
    else:
        _print(checks)
    raise typer.Exit(next((check.exit_code for check in checks if check.exit_code), 0))


def _print(checks: list[Check]) -> None:
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        sign, style = _SIGNS[check.status]
        text = Text(clean_line(check.found))
        if check.advice:
            text.append(f"\n→ {check.advice}")
        table.add_row(Text(sign, style=style), Text(check.name), text)
    console().print(table)


# ---------------------------------------------------------------------------------------------
# The machine


def _machine_checks(research: Path) -> Iterator[Check]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Check("autohyp", "ok", f"{__version__} on Python {version}")
    yield _hardware()
    yield _torch()
    yield _package("ray", ClusterError)
    yield _git()
    yield from _sandboxes()
    yield _data()
    yield _disk(research)


def _hardware() -> Check:
    hardware = detect_hardware()
    found = f"{hardware.cpus} cores, {hardware.memory_gb:g} GiB memory"
    if hardware.gpus:
        return Check("hardware", "ok", f"{found}, {len(hardware.gpus)} GPU(s): {', '.join(hardware.gpus)}")
    return Check("hardware", "ok", f"{found}, no GPU: the cpu profile is used")


def _run_quietly(command: list[str], timeout_s: float = 120.0) -> tuple[bool, str]:
    """(success, last line of the output)."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except FileNotFoundError:
        return False, f"{command[0]} is not installed"
    except subprocess.TimeoutExpired:
        return False, f"{command[0]} gave no answer in {timeout_s:g} s"
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return done.returncode == 0, lines[-1] if lines else ""


def _torch() -> Check:
    program = "import torch; print(torch.__version__, torch.cuda.device_count())"
    works, answer = _run_quietly([sys.executable, "-c", program])
    if not works:
        return Check("torch", "failed", answer, "install it again: pip install --force-reinstall torch", 1)
    version, _, gpus = answer.partition(" ")
    if detect_hardware().gpus and gpus == "0":
        return Check(
            "torch", "warning", f"{version} sees no GPU", "install a CUDA build of torch, or check the driver"
        )
    return Check("torch", "ok", version)


def _package(name: str, error: type[AutohypError]) -> Check:
    try:
        return Check(name, "ok", metadata.version(name))
    except metadata.PackageNotFoundError:
        return Check(name, "failed", "not installed", f"pip install '{name}'", error.exit_code)


def _git() -> Check:
    works, answer = _run_quietly(["git", "--version"])
    if works:
        return Check("git", "ok", answer.removeprefix("git version "))
    return Check("git", "failed", answer, "install git", WorkspaceError.exit_code)


def _sandboxes() -> Iterator[Check]:
    """One check a backend; none working is a failure, one is enough."""
    from autohyp.execution.sandbox.select import SANDBOX_NAMES, select_sandbox

    names = [name for name in SANDBOX_NAMES if name not in ("auto", "none")]
    problems = {name: _problem(lambda name=name: select_sandbox(name)) for name in names}  # type: ignore[misc]
    works = [name for name, problem in problems.items() if problem is None]
    for name, problem in problems.items():
        if problem is None:
            yield Check(
                f"sandbox {name}", "ok", "works" + (" and is used by default" if name == works[0] else "")
            )
        elif works:
            yield Check(f"sandbox {name}", "note", problem)
        else:
            advice = "install bubblewrap; `--sandbox none` runs without protection"
            yield Check(f"sandbox {name}", "failed", problem, advice, SandboxUnavailableError.exit_code)


def _problem(action: Callable[[], object]) -> str | None:
    try:
        action()
    except AutohypError as error:
        return str(error)
    return None


def _data() -> Check:
    """Prepared data folders, which `autohyp run` makes when they are missing."""
    named = os.environ.get("AUTOHYP_DATA")
    cache = Path(os.environ.get("AUTOHYP_CACHE") or Path.home() / ".cache" / "autohyp")
    folders = [Path(named)] if named else sorted(path.parent for path in cache.glob("*/meta.json"))
    if not folders:
        return Check("data", "note", f"none prepared in {cache}: `autohyp run` prepares it")
    try:
        facts = [json.loads((folder / "meta.json").read_text(encoding="utf-8")) for folder in folders]
        return Check("data", "ok", ", ".join(f"{fact['source']} ({fact['profile']})" for fact in facts))
    except (OSError, ValueError, KeyError, TypeError) as error:
        advice = "prepare it again: python prepare.py"
        return Check("data", "failed", f"{folders[0]} is incomplete: {error}", advice, DataError.exit_code)


def _disk(research: Path) -> Check:
    place = research.absolute()
    while not place.exists():
        place = place.parent
    free_gb = shutil.disk_usage(place).free / 1e9
    found = f"{free_gb:,.0f} GB free at {place}"
    if free_gb < NO_DISK_GB:
        return Check("disk", "failed", found, "make room, or name another folder with --research", 1)
    return Check("disk", "warning" if free_gb < LOW_DISK_GB else "ok", found)


# ---------------------------------------------------------------------------------------------
# The journal


def _journal_check(paths: CampaignPaths) -> Check:
    name = f"journal {paths.tag}"
    try:
        health = inspect_journal(paths.journal)
    except JournalError as error:
        return Check(name, "failed", str(error), exit_code=error.exit_code)
    if health.damaged_line is not None:
        found = f"{_damage(health)}: {health.reason}"
        advice = f"`autohyp doctor --tag {paths.tag} --repair` keeps the {health.num_intact} whole lines"
        return Check(name, "failed", found, advice, CampaignError.exit_code)
    found = f"{health.num_intact} lines{_in_segments(health)}, all whole"
    if health.torn_bytes:
        found += f", and {health.torn_bytes} bytes of an unfinished one, which the next start cuts off"
    return Check(name, "ok", found)


def _in_segments(health: JournalHealth) -> str:
    return f" in {health.end.segment} segments" if health.end.segment > 1 else ""


def _damage(health: JournalHealth) -> str:
    """Where it is damaged, and what was recorded from there on."""
    losses, file = health.losses, health.damaged_file
    found = (
        f"{file.name if file else ''} damaged from line {health.damaged_line} on, {losses.num_lines} line(s)"
    )
    named = {"result": "run_finished", "decision": "decision_made"}
    counts = [f"{losses.events[event]} {word}(s)" for word, event in named.items() if losses.events[event]]
    if losses.num_unreadable:
        counts.append(f"{losses.num_unreadable} unreadable")
    if counts:
        found += f" ({', '.join(counts)})"
    if losses.experiment_ids:
        found += f" about {_some(list(losses.experiment_ids))}"
    return found


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN])
    return f"{shown} and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else shown


def _repair(paths: CampaignPaths) -> Check:
    health, aside = repair_journal(paths.journal)
    if aside is None:
        return Check(f"journal {paths.tag}", "ok", f"{health.num_intact} lines, nothing to repair")
    found = f"{_damage(health)}: set aside in {aside.name}; {health.num_intact} lines are kept"
    return Check(
        f"journal {paths.tag}", "ok", found, f"`autohyp resume --tag {paths.tag}` goes on from there"
    )
