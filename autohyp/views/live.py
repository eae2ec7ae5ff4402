"""A running campaign on one calm screen, and the same campaign as plain lines for a pipe or a log.

`render_live` draws a snapshot: nothing in it depends on colour, it fits 80 columns and grows with the
terminal, and drawing costs about a millisecond (the state is read, never copied). `PlainFeed` says what
happened since it was last asked, one line a fact, in about the order in which it happened. Experiment text
is data here: it is cleaned and never read as markup.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from autohyp.journal import CampaignState, ExperimentEntry
from autohyp.journal.events import StopRequested
from autohyp.paths import CampaignPaths
from autohyp.records import RunResult, Verdict, WorkerLive, utc_now
from autohyp.views import facts
from autohyp.views.status import AT_WORK, UNKNOWN, standing
from autohyp.views.text import clean_line, clock_time, duration, sparkline, sureness
from autohyp.views.workers import Present, is_fresh, read_present, read_workers

__all__ = ["VERDICT_STYLES", "LiveScreen", "PlainFeed", "plain_lines", "render_live", "verdict_mark"]

VERDICT_STYLES = {
    Verdict.KEEP: ("✔", "bold green"),
    Verdict.DISCARD: ("·", "dim"),
    Verdict.CRASH: ("✗", "red"),
    Verdict.INVALID: ("!", "bold red"),
    Verdict.REPLICATE: ("↻", "yellow"),
}
"""A sign and a style per verdict; the word itself is always beside them."""

_STANDING_STYLES = {
    "running": "bold green",
    "silent": "bold yellow",
    "paused": "bold yellow reverse",
    "stopping": "bold yellow",
}
_SPARK_WIDTH = 40
_MAX_WORKERS = 16


def verdict_mark(verdict: Verdict | None) -> Text:
    """The verdict as its sign and its word."""
    if verdict is None:
        return Text("… open", style="cyan")
    sign, style = VERDICT_STYLES[verdict]
    return Text(f"{sign} {verdict.value}", style=style)


# ---------------------------------------------------------------------------------------------
# The screen


def render_live(
    state: CampaignState,
    workers: list[WorkerLive],
    now: str,
    present: Present = UNKNOWN,
    *,
    num_decisions: int = 6,
) -> RenderableType:
    """The campaign at the time `now` (ISO 8601)."""
    parts: list[RenderableType] = [_header(state, workers, now, present), Text()]
    parts += [_best(state), Text(), Rule("workers", align="left", style="dim"), _workers(state, workers, now)]
    parts += [Rule("decisions", align="left", style="dim"), _decisions(state, num_decisions), _footer(state)]
    return Padding(Group(*parts), (0, 1))


def _header(state: CampaignState, workers: list[WorkerLive], now: str, present: Present) -> RenderableType:
    how = standing(state, workers, now, present)
    elapsed = facts.elapsed_s(state, now if how in AT_WORK else None)
    title = Text.assemble(("autohyp ", "bold"), (state.tag, "bold cyan"), "  ")
    title.append(how.upper() if how == "paused" else how, style=_STANDING_STYLES.get(how, "bold"))
    title.append(_standing_words(state, how))
    if present.disk_is_full:
        title.append("  ").append("DISK FULL", style="bold red reverse").append(" nothing new starts")
    budget_s = facts.config_value(state, "run", "budget_s")
    words = [str(facts.config_value(state, "profile") or ""), f"{facts.num_workers(state)} worker(s)"]
    if isinstance(budget_s, int | float):
        words.append(f"{budget_s:g} s a run")
    words += [f"{duration(elapsed)} so far", facts.limits_line(state)]
    line = Text(" · ".join(word for word in words if word), style="dim")
    sandbox = facts.sandbox_name(state)
    if sandbox in facts.LOUD_SANDBOXES.values():
        title.append("  ").append(sandbox, style="bold red reverse")
    elif sandbox:
        line.append(f" · sandbox {sandbox}")
    return Group(title, line)


def _standing_words(state: CampaignState, how: str) -> str:
    """What a standing means here, behind its word."""
    if how in ("stopped", "ended"):
        return f": {clean_line(state.ended or state.sessions[-1].end_reason)}"
    if how == "silent":
        return ": nothing heard of its driver; `autohyp resume` goes on"
    if how == "paused":
        return f": {_let_finish(state)}; `autohyp unpause` goes on"
    if how == "stopping" and state.stop is not None:
        return f": {clean_line(state.stop.reason)}, {'at once' if state.stop.now else _let_finish(state)}"
    return ""


def _let_finish(state: CampaignState) -> str:
    runs = len(state.in_flight)
    return f"{runs} {'run' if runs == 1 else 'runs'} let finish" if runs else "nothing runs"


def _best(state: CampaignState) -> RenderableType:
    champion, baseline = state.champion, state.baseline
    if champion is None or champion.mean_bpb is None:
        done, wanted = (len(baseline.results), len(baseline.seeds)) if baseline else (0, 0)
        return Text(
            f"measuring the baseline and its noise: {done} of {wanted} runs" if wanted else "preparing"
        )
    line = Text.assemble("best ", (f"{champion.mean_bpb:.6f}", "bold green"), " val_bpb")
    comparison = facts.champion_against_baseline(state)
    if comparison is not None:
        line.append(f", {comparison.gain_bpb:+.6f} over the baseline")
        if comparison.gain_in_noise is not None:
            line.append(f" ({comparison.gain_in_noise:.1f} × noise)")
    else:
        line.append(" (the baseline)")
    title = Text(
        f"     {clean_line(champion.experiment.hypothesis.title)}",
        style="dim",
        no_wrap=True,
        overflow="ellipsis",
    )
    noise = facts.noise_floor(state)
    values = [value for _, value in facts.running_best(state)]
    trend = Text(f"     {sparkline(values, _SPARK_WIDTH)}", style="green")
    if noise is not None:
        trend.append(f"  noise ±{noise.sd_bpb:.6f} ({noise.degrees_of_freedom} d.f.)", style="dim")
    return Group(line, title, trend)


def _workers(state: CampaignState, workers: list[WorkerLive], now: str) -> RenderableType:
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(no_wrap=True, max_width=12)
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column(no_wrap=True, width=10)
    table.add_column(no_wrap=True, width=12)
    table.add_column(no_wrap=True, justify="right", width=11)
    for worker in workers[:_MAX_WORKERS]:
        table.add_row(*_worker_cells(worker, now, state.drained.get(worker.worker_id)))
    left_out = Counter(worker.state if is_fresh(worker, now) else "gone" for worker in workers[_MAX_WORKERS:])
    if left_out:
        states = ", ".join(f"{number} {name}" for name, number in sorted(left_out.items()))
        table.add_row(Text("…"), Text(f"{left_out.total()} more: {states}", style="dim"))
    if not workers:
        for run in state.in_flight.values():
            title = clean_line(state.experiments[run.experiment_id].experiment.hypothesis.title)
            table.add_row(Text(run.worker_id), Text(title), Text("running"), Text(""), Text(""))
    if table.row_count == 0:
        return Text("no worker at work", style="dim")
    return table


def _worker_cells(worker: WorkerLive, now: str, drained: str | None) -> tuple[RenderableType, ...]:
    name = Text(worker.worker_id)
    progress = worker.progress
    if drained is not None:
        return name, Text(clean_line(drained), style="red"), Text("drained", style="red"), Text(""), Text("")
    if not is_fresh(worker, now):
        return name, Text("no sign of life", style="yellow"), Text("gone"), Text(""), Text("")
    if progress is None or not worker.run_id:
        return (
            name,
            Text(clean_line(worker.title), style="dim"),
            Text(worker.state, style="dim"),
            Text(""),
            Text(""),
        )
    loss = f"loss {progress.loss:.3f}" if progress.loss is not None else ""
    bar = ProgressBar(
        total=1.0,
        completed=min(1.0, progress.progress),
        width=12,
        complete_style="cyan",
        finished_style="cyan",
        style="dim",
    )
    return name, Text(clean_line(worker.title)), Text(progress.phase), bar, Text(loss)


def _decisions(state: CampaignState, count: int) -> RenderableType:
    entries = state.decided()[-count:]
    if not entries:
        return Text("none yet", style="dim")
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(no_wrap=True, width=9)
    table.add_column(no_wrap=True, justify="right", width=9)
    table.add_column(ratio=3, no_wrap=True, overflow="ellipsis")
    table.add_column(ratio=4, no_wrap=True, overflow="ellipsis", style="dim")
    for entry in reversed(entries):
        gain = facts.experiment_gain(entry)
        reason = clean_line(entry.decision.reason) if entry.decision else ""
        table.add_row(
            verdict_mark(entry.verdict),
            Text("" if gain is None else f"{gain:+.5f}"),
            Text(clean_line(entry.experiment.hypothesis.title)),
            Text(reason),
        )
    return table


def _footer(state: CampaignState) -> RenderableType:
    counts = facts.verdict_counts(state)
    kept = f"the baseline, {counts['keep'] - 1} kept, " if counts["keep"] else ""
    words = [f"{len(state.decision_order)} decided: {kept}{counts['discard']} discarded"]
    failed = counts["crash"] + counts["invalid"]
    if failed:
        words.append(f"{failed} failed")
    waiting = len(facts.undecided(state)) - len({run.experiment_id for run in state.in_flight.values()})
    words.append(f"{len(state.queue)} queued" + (f", {waiting} waiting for a worker" if waiting > 0 else ""))
    words.append(f"{state.num_results} runs, {duration(state.charged_s)} of training")
    return Padding(Text(" · ".join(words), style="dim"), (1, 0, 0, 0))


class LiveScreen:
    """A context manager that shows a campaign: the screen on a terminal, plain lines elsewhere.

    Draws only in `update`, so it costs nothing in between; the last screen stays when the context ends.
    """

    def __init__(self, paths: CampaignPaths, console: Console) -> None:
        self._paths = paths
        self._console = console
        self._feed = PlainFeed()
        self._was_full = False
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def update(self, state: CampaignState) -> None:
        """Show the state as it is now."""
        if self._live is not None:
            screen = render_live(state, read_workers(self._paths), utc_now(), read_present(self._paths))
            self._live.update(screen, refresh=True)
            return
        lines = self._feed.lines(state)
        is_full = read_present(self._paths).disk_is_full
        if is_full != self._was_full:
            self._was_full = is_full
            words = "DISK FULL: nothing new starts until there is room" if is_full else "there is room again"
            lines.append(f"{clock_time(utc_now())} {words}")
        for line in lines:
            self._console.print(Text(line), soft_wrap=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()


# ---------------------------------------------------------------------------------------------
# Plain lines


_News = tuple[str, str]
"""(time in ISO 8601, what happened then)"""


class PlainFeed:
    """Remembers what it has said of a campaign; `lines` says what is new.

    Only what can still change is looked at again, so a call costs the same at 10 and at 10,000 experiments.
    """

    def __init__(self) -> None:
        self._version = 0
        self._num = {"sessions": 0, "experiments": 0, "notes": 0}
        self._said: dict[str, tuple[int, int, frozenset[str]]] = {}
        self._open: list[str] = []
        self._known: set[tuple[str, str]] = set()
        self._ended: str | None = None
        self._asked: tuple[bool, StopRequested | None] = (False, None)

    def lines(self, state: CampaignState) -> list[str]:
        """One line for each thing that happened since the last call, in time."""
        if state.version == self._version:
            return []
        self._version = state.version
        news = self._session_starts(state)
        news += self._experiment_news(state)
        news += self._lessons(state)
        news += self._requests(state)
        news += self._endings(state)
        return [f"{clock_time(when)} {line}" for when, line in sorted(news, key=lambda item: item[0])]

    def _session_starts(self, state: CampaignState) -> list[_News]:
        news = []
        for session in state.sessions[self._num["sessions"] :]:
            start = session.started
            sandbox = facts.sandbox_words(start.sandbox)
            line = f"session on {clean_line(start.host)}: {start.hardware.cpus} cores, {sandbox}"
            news.append((session.started_at, line))
        self._num["sessions"] = len(state.sessions)
        return news

    def _experiment_news(self, state: CampaignState) -> list[_News]:
        """Of experiments that are new, were open when last seen, or are open now."""
        new: set[str] = set()
        if len(state.experiments) > self._num["experiments"]:
            new.update(islice(state.experiments, self._num["experiments"], None))
            self._num["experiments"] = len(state.experiments)
        news: list[_News] = []
        for name in dict.fromkeys([*self._open, *sorted(new), *state.open]):
            entry = state.experiments[name]
            news += _news(entry, self._said.get(name, (0, 0, frozenset())), name in new)
            self._said[name] = (len(entry.results), len(entry.decisions), frozenset(entry.active))
        self._open = list(state.open)
        return news

    def _lessons(self, state: CampaignState) -> list[_News]:
        """Findings, tools and notes; the first two carry no time of their own."""
        now = facts.last_ts(state)
        news = []
        for finding in state.findings.values():
            if self._is_new("finding", f"{finding.finding_id} {finding.title} {finding.evidence}"):
                sure = sureness(finding.confidence)
                news.append((now, f"learnt: {clean_line(finding.title)} ({sure} sure)"))
        for tool in state.tools.values():
            if self._is_new("tool", f"{tool.tool_id} {tool.status}"):
                news.append((now, f"tool {tool.status.value}: {clean_line(tool.title)}"))
        for when, note in state.notes[self._num["notes"] :]:
            news.append((when, f"note by {clean_line(note.author)}: {clean_line(note.text)}"))
        self._num["notes"] = len(state.notes)
        return news

    def _requests(self, state: CampaignState) -> list[_News]:
        """Somebody paused it, let it go on or stopped it; a worker was given up."""
        now, news = facts.last_ts(state), []
        was_paused, stop_before = self._asked
        self._asked = (state.paused, state.stop)
        if state.paused != was_paused:
            news.append((now, "PAUSED: nothing new starts" if state.paused else "goes on after a pause"))
        if state.stop is not None and state.stop != stop_before:
            how = "at once" if state.stop.now else "when what runs has finished"
            news.append((now, f"stopping {how}: {clean_line(state.stop.reason)}"))
        for worker_id, reason in state.drained.items():
            if self._is_new("drained", f"{len(state.sessions)} {worker_id}"):
                news.append((now, f"{worker_id} gets no more runs: {clean_line(reason)}"))
        return news

    def _endings(self, state: CampaignState) -> list[_News]:
        news = []
        if state.ended != self._ended:
            self._ended = state.ended
            if state.ended:
                news.append((facts.last_ts(state), f"ended: {clean_line(state.ended)}"))
        for session in state.sessions:
            if session.end_reason and self._is_new("session", session.started.session_id):
                news.append((session.last_ts, f"session over: {clean_line(session.end_reason)}"))
        return news

    def _is_new(self, kind: str, fact: str) -> bool:
        if (kind, fact) in self._known:
            return False
        self._known.add((kind, fact))
        return True


def _news(entry: ExperimentEntry, said: tuple[int, int, frozenset[str]], is_new: bool) -> list[_News]:
    """What happened to one experiment beyond the results, decisions and runs already told."""
    name, title = entry.experiment_id, clean_line(entry.experiment.hypothesis.title)
    news = [(entry.experiment.created_at, f"{name}: {title}")] if is_new else []
    for run in entry.active.values():
        if run.run_id not in said[2]:
            news.append((run.started_at, f"{name} seed {run.seed} starts on {run.worker_id}"))
    news += [(result.finished_at, f"{name} {_result_line(result)}") for result in entry.results[said[0] :]]
    for decision in entry.decisions[said[1] :]:
        gain = "" if decision.gain_bpb is None else f" {decision.gain_bpb:+.6f}"
        news.append(
            (decision.decided_at, f"{name} {decision.verdict.value}{gain}: {clean_line(decision.reason)}")
        )
    return news


def _result_line(result: RunResult) -> str:
    if result.val_bpb is None:
        return f"seed {result.seed} {result.status.value}: {clean_line(result.reason)}"
    effort = f"{result.num_steps} steps, {result.charged_s:.1f} s"
    return f"seed {result.seed} val_bpb {result.val_bpb:.6f} ({effort})"


def plain_lines(previous: CampaignState | None, state: CampaignState) -> list[str]:
    """What happened between two states (two objects: one that was changed in place needs a `PlainFeed`)."""
    feed = PlainFeed()
    if previous is not None:
        feed.lines(previous)
    return feed.lines(state)
