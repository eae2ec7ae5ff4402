"""Writing a long campaign's folder: all anew, all again, one experiment more; and the disk's part."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from autohyp.agents.scribe import Scribe
from autohyp.journal import CampaignState, Entry
from autohyp.journal.events import ExperimentCreated
from autohyp.journal.file import JournalReader, collector_paused
from autohyp.paths import CampaignPaths
from autohyp.views.sync import FolderSync

from .figures import Figure

__all__ = ["measure_views"]

FILES_PER_EXPERIMENT = 7
PROBED = 5_000
"""Experiments whose files are made without content worth the name, to see what the file system charges."""


def measure_views(paths: CampaignPaths, num_experiments: int) -> list[Figure]:
    """In a process of its own, with one thread as `autohyp sync` has, so that it may use both cores.

    The files' contents are written without fsync: all of them follow from the journal.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
        return apart.submit(_measure, paths, num_experiments).result()


def _measure(paths: CampaignPaths, num_experiments: int) -> list[Figure]:
    figures = _disk_alone(paths.root.parent / "probe", num_experiments)
    state, last = _before_the_last(paths, num_experiments)
    known = f"{num_experiments:,} experiments"
    goal = 2 if num_experiments == 100_000 else None
    folder = FolderSync(paths)
    with _stopwatch() as first:
        folder.experiments(state)
    with _stopwatch() as told:
        folder.shared(state)
    with _stopwatch() as again:
        FolderSync(paths).experiments(state)
    with _stopwatch() as told_again:
        folder.shared(state)
    return [
        *figures,
        Figure(
            f"experiments and tables into an empty folder, {known}", first.wall_s, "s", goal, note=first.note
        ),
        Figure(f"brief, beliefs, fleet, picture, {known}", told.wall_s, "s", goal, note=told.note),
        Figure(f"the same when nothing changed, {known}", told_again.wall_s, "s", note=told_again.note),
        Figure(f"sync when nothing changed, {known}", again.wall_s, "s", goal, note=again.note),
        *_one_more(paths, state, last, num_experiments),
    ]


def _one_more(
    paths: CampaignPaths, state: CampaignState, entries: list[Entry], num_experiments: int
) -> list[Figure]:
    """What the running scribe needs after one more experiment; the picture, drawn every 30 s, is left out."""
    scribe = Scribe(paths, clock=lambda: 0.0)
    scribe.write(state)
    touched = {name for entry in entries if (name := state.apply(entry)) is not None}
    with _stopwatch() as more:
        scribe.write(state, touched)
    state.version += 1
    with _stopwatch() as old:
        scribe.write(state, [state.decision_order[num_experiments // 2]])
    known = f"{num_experiments:,} known"
    return [
        Figure(f"scribe after one more experiment, {known}", 1000 * more.wall_s, "ms", 50, note=more.note),
        Figure(f"scribe looks at one from the middle again, {known}", 1000 * old.wall_s, "ms", note=old.note),
    ]


# ---------------------------------------------------------------------------------------------
# The disk alone


def _disk_alone(folder: Path, num_experiments: int) -> list[Figure]:
    """The least that as many files and a table of that size can cost from Python: open, write, close."""
    count = min(PROBED, num_experiments)
    figures = []
    for processes in (1, 2):
        with _stopwatch() as made:
            _in_forks(processes, lambda part, of: _make_files(folder, range(part, count, of)))
        shutil.rmtree(folder)
        per_file = made.wall_s / count / FILES_PER_EXPERIMENT
        what = f"making a file of 1 kB with {processes} process{'es' if processes > 1 else ''}"
        note = f"{per_file * FILES_PER_EXPERIMENT * 1e5:,.0f} s for the 700,000 of 100,000 experiments"
        figures.append(Figure(what, 1e6 * per_file, "us", note=note))
    with _stopwatch() as written, folder.open("wb") as file:
        for _ in range(num_experiments):
            file.write(b"x" * 2400)
    folder.unlink()
    size = f"{2400 * num_experiments / 1e6:,.0f} MB"
    return [*figures, Figure(f"writing the bytes of the tables, {size}", written.wall_s, "s")]


def _make_files(folder: Path, numbers: range) -> None:
    content = b"x" * 1000
    for number in numbers:
        here = f"{folder}/runs/{number}"
        os.makedirs(here)
        for name in range(FILES_PER_EXPERIMENT):
            fd = os.open(f"{here}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            os.write(fd, content)
            os.close(fd)


def _in_forks(processes: int, work: Callable[[int, int], None]) -> None:
    children = []
    for part in range(processes):
        child = os.fork()
        if not child:
            work(part, processes)
            os._exit(0)
        children.append(child)
    for child in children:
        if os.waitpid(child, 0)[1]:
            raise AssertionError("a process could not make its files")


# ---------------------------------------------------------------------------------------------
# Means


@dataclass
class _Stopwatch:
    """Wall time, which needs a quiet machine, and the processor time of this process and its children."""

    wall_s: float = 0.0
    cpu_s: float = 0.0

    @property
    def note(self) -> str:
        return f"{self.cpu_s:.3g} s of processor time"


@contextmanager
def _stopwatch() -> Iterator[_Stopwatch]:
    watch, begun, start = _Stopwatch(), os.times(), time.perf_counter()
    yield watch
    watch.wall_s, ended = time.perf_counter() - start, os.times()
    watch.cpu_s = sum(ended[:4]) - sum(begun[:4])


def _before_the_last(paths: CampaignPaths, num_experiments: int) -> tuple[CampaignState, list[Entry]]:
    """The state before the last experiment was created, and what followed."""
    state, entries = CampaignState(), JournalReader(paths.journal).read()
    with collector_paused():
        for entry in entries:
            event = entry.event
            if isinstance(event, ExperimentCreated) and event.experiment.ordinal == num_experiments:
                return state, [entry, *entries]
            state.apply(entry)
    raise ValueError(f"{paths.journal}: there is no experiment {num_experiments}")
