"""`autohyp stop`, `pause` and `unpause`: steering a campaign that runs, from another terminal.

Each becomes an event in the campaign's journal, so what was asked is known to whoever takes over from a role
that dies meanwhile. Only `stop --now` has a second way, for a cluster that does not answer: a signal to the
driver.
"""

from __future__ import annotations

import getpass
import signal
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from rich.console import Console
from rich.text import Text

from autohyp.agents.driver import driver_facts, driver_process
from autohyp.cli.options import ResearchOption, TagOption, console, examples
from autohyp.errors import CampaignError, ClusterError, JournalError
from autohyp.journal import CampaignState, Draft
from autohyp.journal.events import Event, PauseChanged, StopRequested
from autohyp.journal.follow import Follower
from autohyp.paths import CampaignPaths, find_campaign
from autohyp.views.text import clean_line

__all__ = ["register"]

START_WAIT_S = 60.0
NOW_WAIT_S = 120.0
TIMEOUT_S = 60.0
"""A cluster that answers does so within 3 s; a machine with far too much to do may take ten times that."""
HURRY_S = 30.0
"""With `--now` there is another way, so a silent cluster is not waited for as long."""
POLL_S = 0.2


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command(
        epilog=examples(
            "autohyp stop    let finish what runs, then end",
            "autohyp stop --now    end at once; what runs is run again on resume",
            "autohyp stop --no-wait --tag nov23",
        )
    )(stop)
    app.command(epilog=examples("autohyp pause", "autohyp pause --tag nov23"))(pause)
    app.command(epilog=examples("autohyp unpause"))(unpause)


def stop(
    research: ResearchOption = Path("research"),
    tag: TagOption = None,
    now: Annotated[bool, typer.Option("--now", help="Give up what runs; it is run again on resume.")] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return at once; it ends by itself.")] = False,
) -> None:
    """End a campaign that runs on this machine: what runs is let finish, nothing new starts.

    Nothing that was measured is lost; `autohyp resume` goes on. A second `stop --now` ends a stop that takes
    too long.
    """
    running = _Running(find_campaign(research, tag))
    screen = console()
    try:
        running.tell(
            "stop",
            lambda session_id, who: StopRequested(
                session_id=session_id, now=now, author=who, reason=f"it was stopped by {who}"
            ),
            HURRY_S if now else TIMEOUT_S,
        )
    except (ClusterError, JournalError) as error:
        if running.has_ended():
            pass  # by itself, while this was asked
        elif now:
            screen.print(Text(f"{error}: ending process {running.process.pid}"), soft_wrap=True)
            running.process.send_signal(signal.SIGTERM)
        else:
            raise type(error)(f"{error}; `autohyp stop --now` ends its driver all the same") from None
    if no_wait:
        screen.print(f"campaign {running.paths.tag} ends {'now' if now else 'when what runs has finished'}")
        return
    _await_end(running, screen, NOW_WAIT_S if now else None)


def pause(research: ResearchOption = Path("research"), tag: TagOption = None) -> None:
    """Pause a campaign that runs on this machine: what runs is let finish, nothing new starts.

    Its driver, its cluster and its GPUs stay; `autohyp unpause` lets it go on, at once.
    """
    running = _Running(find_campaign(research, tag))
    if running.state().paused:
        raise CampaignError(
            f"campaign {running.paths.tag} is paused already; `autohyp unpause` lets it go on"
        )
    running.tell("pause", lambda _, who: PauseChanged(paused=True, author=who))
    runs = len(running.state().in_flight)
    rest = f"{runs} {'run is' if runs == 1 else 'runs are'} let finish" if runs else "nothing runs"
    tag = running.paths.tag
    words = (
        f"campaign {tag} is paused: {rest}, nothing new starts; `autohyp unpause --tag {tag}` lets it go on"
    )
    console().print(Text(words), soft_wrap=True)


def unpause(research: ResearchOption = Path("research"), tag: TagOption = None) -> None:
    """Let a paused campaign go on."""
    running = _Running(find_campaign(research, tag))
    if not running.state().paused:
        raise CampaignError(f"campaign {running.paths.tag} is not paused")
    running.tell("pause", lambda _, who: PauseChanged(paused=False, author=who))
    console().print(f"campaign {running.paths.tag} goes on")


class _Running:
    """A campaign with a living driver on this host; CampaignError when it has none."""

    def __init__(self, paths: CampaignPaths) -> None:
        self.paths = paths
        process = driver_process(paths)
        if process is None:
            raise CampaignError(_why_not_running(paths))
        self.process: psutil.Process = process
        self.state = Follower(paths.journal).update

    def is_alive(self) -> bool:
        """Whether the driver still drives: not its pid, which whoever started it may not have reaped."""
        return driver_process(self.paths) is not None

    def has_ended(self) -> bool:
        """Whether its session is over by the journal, though its driver may have things to put away."""
        sessions = self.state().sessions
        return bool(sessions and sessions[-1].end_reason)

    def tell(self, what: str, make_event: Callable[[str, str], Event], timeout_s: float = TIMEOUT_S) -> None:
        """Record the event that `make_event` makes of the session's id and this user's name."""
        from autohyp.cluster.remote import tell

        facts = self._await_cluster()
        event = make_event(facts["session_id"], _author())
        tell(facts, [Draft(f"{what}:{facts['session_id']}:{uuid.uuid4().hex[:12]}", event)], timeout_s)

    def _await_cluster(self) -> dict[str, Any]:
        """The driver's facts, once its cluster is up: starting it takes some seconds."""
        deadline = time.monotonic() + START_WAIT_S
        while self.is_alive() and time.monotonic() < deadline:
            facts = driver_facts(self.paths)
            if facts is not None and facts.get("ray_address"):
                return facts
            time.sleep(POLL_S)
        raise ClusterError(f"campaign {self.paths.tag} has no cluster yet")


def _why_not_running(paths: CampaignPaths) -> str:
    """One line for a campaign that nobody drives here."""
    facts = driver_facts(paths)
    where = f"its last driver ran on {facts['host']}, `autohyp resume` takes it up here" if facts else ""
    hint = where or "`autohyp resume` goes on with it"
    return f"campaign {paths.tag} is not running on this machine; {hint}"


def _author() -> str:
    """Who asks, for the journal."""
    try:
        return clean_line(getpass.getuser()) or "somebody"
    except (OSError, KeyError):
        return "somebody"


def _await_end(running: _Running, screen: Console, limit_s: float | None) -> None:
    """Return when the driver is gone, telling meanwhile what is waited for."""
    tag, told = running.paths.tag, ""
    deadline = None if limit_s is None else time.monotonic() + limit_s
    try:
        while running.is_alive():
            words = _awaited(running.state())
            if words != told:
                screen.print(Text(words), soft_wrap=True)
                told = words
            if deadline is not None and time.monotonic() > deadline:
                raise CampaignError(f"process {running.process.pid} did not end within {limit_s:g} s")
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        screen.print("not waiting any longer; it still ends when what runs has finished")
        raise
    state = running.state()
    reason = state.ended or (state.sessions[-1].end_reason if state.sessions else "")
    screen.print(Text(f"campaign {tag} has ended this session: {clean_line(reason) or 'its driver is gone'}; "
                      f"`autohyp resume --tag {tag}` goes on"), soft_wrap=True)  # fmt: skip


def _awaited(state: CampaignState) -> str:
    """What a stop waits for, in words."""
    runs = [f"{run.experiment_id} seed {run.seed} on {run.worker_id}" for run in state.in_flight.values()]
    if not runs:
        return "waiting for the session's end"
    more = f" and {len(runs) - 4} more" if len(runs) > 4 else ""
    return f"waiting for {', '.join(runs[:4])}{more}"
