"""From a run's result to the start of the same worker's next training process, with real training.

A campaign of tiny models runs through the command line and Ray, as a user's would, and is watched from
outside. The result is known when the evaluator ends (its verdict is its last line), the next run has
started when the process that becomes train.py is made (the kernel's own time, to 10 ms). Between the two, the
ledger's time stamps say where the time went. What the watch did not see whole is left out.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import yaml

from autohyp.journal import read_journal
from autohyp.journal.events import RunFinished, RunStarted
from autohyp.paths import CampaignPaths

from .figures import Figure, percentile

__all__ = ["measure_starting"]

BUDGET_S = 2.0
SCAN_S = 0.2
LIMIT_S = 1800
TINY_MODEL = {
    "DEPTH": 2,
    "ASPECT_RATIO": 16,
    "HEAD_DIM": 16,
    "TOTAL_BATCH_SIZE": 1024,
    "DEVICE_BATCH_SIZE": 16,
}


def measure_starting(folder: Path, num_experiments: int = 40, num_workers: int = 1) -> list[Figure]:
    """The whole way and its parts, median and p99, of a campaign of so many experiments."""
    research = folder / "starting"
    _lay_out(research, num_experiments, num_workers)
    with _Watch(research.resolve()) as watch, (research / "campaign.log").open("wb") as log:
        done = subprocess.run(
            [sys.executable, "-m", "autohyp.cli.main", "run"],
            cwd=research,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=LIMIT_S,
            check=False,
        )
    if done.returncode:
        last_lines = (research / "campaign.log").read_text(errors="replace")[-2000:]
        raise AssertionError(f"the campaign ended with code {done.returncode}: {last_lines}")
    return _figures(
        _transitions(CampaignPaths(research / "research" / "bench"), watch), num_workers, num_experiments // 2
    )


def _lay_out(folder: Path, num_experiments: int, num_workers: int) -> None:
    """A campaign's folder with small data: Python's own modules, rows of 64 tokens."""
    command = [sys.executable, "-m", "autohyp.cli.main", "init", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    text = str(Path(os.__file__).parent / "[a-m]*.py")
    sizes = ["--vocab-size", "512", "--sequence-len", "64", "--eval-tokens", "4096"]
    prepare = [sys.executable, str(folder / "prepare.py"), "--source", "files", "--paths", text, *sizes]
    subprocess.run(
        [*prepare, "--profile", "cpu", "--data", str(folder / "data")],
        check=True,
        capture_output=True,
        timeout=LIMIT_S,
    )
    config: dict[str, Any] = {
        "tag": "bench",
        "profile": "cpu",
        "data": {"directory": str(folder / "data")},
        "run": {"budget_s": BUDGET_S, "constants": TINY_MODEL},
        "workers": {"count": num_workers},
        "limits": {"max_experiments": num_experiments},
        "ray": {"dashboard": False},
    }
    (folder / "campaign.yaml").write_text(yaml.safe_dump(config))


# ---------------------------------------------------------------------------------------------
# Watching


@dataclass
class _Seen:
    """A run's two processes, in seconds since 1970; `training_end_s` is that of its whole tree."""

    worker_pid: int
    worker_id: str = ""
    evaluator_end_s: float = 0.0
    training_start_s: float = 0.0
    training_end_s: float = 0.0


@dataclass
class _Watch:
    """Finds every evaluator and training process while it lives, and waits for its end.

    Runs of a campaign elsewhere on the machine keep an empty `worker_id`.
    """

    folder: Path
    runs: list[_Seen] = field(default_factory=list)

    def __enter__(self) -> _Watch:
        self._over = threading.Event()
        self._poll = select.poll()
        self._ends: dict[int, tuple[_Seen, str]] = {}  # by pidfd: whose end, and of what
        self._known: set[tuple[int, float]] = set()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        next_scan_s = 0.0
        while not self._over.is_set():
            if time.monotonic() >= next_scan_s:
                self._scan()
                next_scan_s = time.monotonic() + SCAN_S
            for descriptor, _ in self._poll.poll(1000 * SCAN_S):
                seen, what = self._ends.pop(descriptor)
                setattr(seen, what, time.time())
                self._poll.unregister(descriptor)
                os.close(descriptor)

    def _scan(self) -> None:
        for process in psutil.process_iter(["pid", "ppid", "cmdline", "create_time"]):
            told = process.info
            words, identity = told["cmdline"] or [], (told["pid"], told["create_time"])
            if identity in self._known:
                continue
            try:
                if "autohyp.execution.evaluator" in words:
                    seen = _Seen(told["ppid"])
                    self._await(told["pid"], seen, "evaluator_end_s")
                    self.runs.append(seen)
                elif words[1:] == ["-s", "train.py"]:
                    self._training_began(process)
                else:
                    continue
            except (psutil.Error, OSError):
                continue  # gone meanwhile; what is incomplete is left out
            self._known.add(identity)

    def _training_began(self, process: psutil.Process) -> None:
        """It belongs to the newest run of the worker that it descends from, and works in that one's place."""
        place = Path(process.cwd())
        pids = [process.pid, *(parent.pid for parent in process.parents())]
        seen = next((run for run in reversed(self.runs) if run.worker_pid in pids), None)
        if seen is not None and not seen.worker_id and place.is_relative_to(self.folder):
            seen.worker_id = place.parent.name.partition(".")[0]  # behind it stands the node
            seen.training_start_s = _started_s(process.pid)
            self._await(pids[pids.index(seen.worker_pid) - 1], seen, "training_end_s")  # the supervisor's

    def _await(self, pid: int, seen: _Seen, what: str) -> None:
        descriptor = os.pidfd_open(pid)
        self._ends[descriptor] = (seen, what)
        self._poll.register(descriptor, select.POLLIN)


def _started_s(pid: int) -> float:
    """When a process was made; psutil would give it relative to a boot time of whole seconds."""
    ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - age_s


# ---------------------------------------------------------------------------------------------
# Where the time went


@dataclass(frozen=True)
class _Transition:
    """Seconds of each part between one run's result and the next one's start."""

    exit_s: float
    record_s: float
    turn_s: float
    launch_s: float
    is_new_experiment: bool

    @property
    def total_s(self) -> float:
        return self.exit_s + self.record_s + self.turn_s + self.launch_s


def _transitions(paths: CampaignPaths, watch: _Watch) -> list[_Transition]:
    """Of each worker, what lies between one run's end and its next run's start."""
    events: dict[str, list[tuple[float, RunStarted | RunFinished]]] = {}
    for entry in read_journal(paths.journal):
        if isinstance(entry.event, RunStarted | RunFinished):
            told = entry.event.run if isinstance(entry.event, RunStarted) else entry.event.result
            at_s = datetime.fromisoformat(entry.ts).timestamp()
            events.setdefault(told.worker_id, []).append((at_s, entry.event))
    found = []
    for worker_id, told_here in events.items():
        seen = [run for run in watch.runs if run.worker_id == worker_id and run.evaluator_end_s]
        for (end_s, end), (start_s, start) in pairwise(told_here):
            if isinstance(end, RunFinished) and isinstance(start, RunStarted):
                last = max((run for run in seen if 0 < run.training_end_s <= end_s), key=_start, default=None)
                following = min((run for run in seen if _start(run) >= start_s), key=_start, default=None)
                if last is not None and following is not None:
                    is_new = start.run.experiment_id != end.result.experiment_id
                    found.append(_between(last, end_s, start_s, following, is_new))
    return found


def _start(run: _Seen) -> float:
    return run.training_start_s


def _between(last: _Seen, end_s: float, start_s: float, following: _Seen, is_new: bool) -> _Transition:
    return _Transition(
        exit_s=last.training_end_s - last.evaluator_end_s,
        record_s=end_s - last.training_end_s,
        turn_s=start_s - end_s,
        launch_s=following.training_start_s - start_s,
        is_new_experiment=is_new,
    )


def _figures(transitions: list[_Transition], num_workers: int, at_least: int) -> list[Figure]:
    if len(transitions) < at_least:
        raise AssertionError(f"only {len(transitions)} transitions could be followed")
    note = f"{len(transitions)}, workers: {num_workers}, real training of {BUDGET_S:g} s"
    totals = [each.total_s for each in transitions]
    figures = [
        Figure("result to next start, p99", percentile(totals, 99), "s", 1, note=note),
        Figure("result to next start, median", percentile(totals, 50), "s"),
    ]
    parts = {
        "train.py ends after the verdict": [each.exit_s for each in transitions],
        "the result is recorded": [each.record_s for each in transitions],
        "the observer's turn": [each.turn_s for each in transitions],
        "the observer's turn, with a new experiment": [t.turn_s for t in transitions if t.is_new_experiment],
        "order, checkout, sandbox": [each.launch_s for each in transitions],
    }
    for what, values in parts.items():
        if values:
            p99 = f"p99 {1000 * percentile(values, 99):.0f} ms of {len(values)}"
            figures.append(Figure(f"of it: {what}, median", 1000 * percentile(values, 50), "ms", note=p99))
    return figures
