"""A whole campaign of many simulated workers, from the command line: does anything but training cost time?

The runs of 1 s take no processor; observer, ledger, journal, repository, scribe and live view are the real
ones and share this machine's cores. All figures come from the journal's times, so that a lost second is found
wherever it was lost.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import yaml

from autohyp.journal import Entry, read_journal
from autohyp.journal.events import RunFinished, RunStarted
from autohyp.paths import CampaignPaths
from autohyp.testing.objectives import write_target

from .figures import Figure, percentile
from .profile import profiled

__all__ = ["measure_whole"]

TAG = "whole"
RUN_S = 1.0
WARM_UP_S = 3.0
TIMEOUT_S = 600.0


def measure_whole(folder: Path, num_workers: int = 200, runs_per_worker: int = 30) -> list[Figure]:
    """Begin a campaign of so many runs, and compare the time it took with the time that the runs took."""
    paths = _lay_out(folder / "whole", num_workers, num_workers * runs_per_worker)
    command = [sys.executable, "-m", "autohyp.cli.main", "run", str(paths.root.parents[1] / "campaign.yaml")]
    with (folder / "whole.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--research", str(paths.root.parent)], stdout=log, stderr=subprocess.STDOUT
        )
        try:
            with profiled(process.pid) as profile:
                code = process.wait(TIMEOUT_S)
        finally:
            process.terminate()  # nothing when it has ended; else it cleans up
            process.wait()
    if code:
        raise RuntimeError(f"the campaign ended with {code}:\n{(folder / 'whole.log').read_text()[-2000:]}")
    window = _Window.of(read_journal(paths.journal), num_workers)
    what = f"{num_workers} simulated workers, runs of {RUN_S:g} s"
    cores = profile.words(window.begin, window.end)
    note = f"{window.num_finished:,} runs in {window.lasts_s:.1f} s; {cores}"
    return [
        Figure(f"{what}: wall time over ideal", 100 * window.overhead, "%", 5, note=note),
        Figure(f"{what}: from the first start until all work", window.ramp_up_s, "s"),
        Figure(f"{what}: result to next start, p99", 1000 * percentile(window.gaps_s, 99), "ms", 1000),
        Figure("the same, median", 1000 * percentile(window.gaps_s, 50), "ms"),
    ]


def _lay_out(folder: Path, num_workers: int, max_runs: int) -> CampaignPaths:
    write_target(folder)
    config = {
        "tag": TAG,
        "profile": "cpu",
        "researchers": ["random"],
        "simulation": {"trainer": "autohyp.testing.objectives:bowl", "workers_per_process": num_workers},
        "workers": {"count": num_workers},
        "run": {"budget_s": RUN_S},
        "limits": {"max_runs": max_runs},
        "ray": {"dashboard": False},
    }
    (folder / "campaign.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return CampaignPaths(folder / "research" / TAG)


@dataclass(frozen=True)
class _Window:
    """The time in which every worker should have been at work; `begin` and `end` are wall times."""

    begin: float
    end: float
    num_finished: int
    num_workers: int
    ramp_up_s: float
    gaps_s: Sequence[float]

    @property
    def lasts_s(self) -> float:
        return self.end - self.begin

    @property
    def overhead(self) -> float:
        """The share by which it took longer than the same runs without a gap between them."""
        return self.lasts_s * self.num_workers / (self.num_finished * RUN_S) - 1

    @classmethod
    def of(cls, entries: Sequence[Entry], num_workers: int) -> _Window:
        """From a little after all workers were busy for the first time until the last run began."""
        starts = [(_seconds(e.ts), e.event.run) for e in entries if isinstance(e.event, RunStarted)]
        results = [(_seconds(e.ts), e.event.result) for e in entries if isinstance(e.event, RunFinished)]
        seen: set[str] = set()
        full = next(at for at, run in starts if len(seen := seen | {run.worker_id}) == num_workers)
        begin, end = full + WARM_UP_S, starts[-1][0]
        if end - begin < 10 * RUN_S:
            raise RuntimeError(f"all workers were busy for {end - full:.1f} s only: give them more runs")
        ended_at: dict[str, float] = {}
        gaps_s = []
        moments = [(at, 1, run.worker_id) for at, run in starts]
        moments += [(at, 0, result.worker_id) for at, result in results]
        for at, begins, worker_id in sorted(moments):
            if begins and worker_id in ended_at and begin <= at <= end:
                gaps_s.append(at - ended_at[worker_id])
            if not begins:
                ended_at[worker_id] = at
        num_finished = sum(begin <= at <= end for at, _ in results)
        return cls(begin, end, num_finished, num_workers, full - starts[0][0], gaps_s)


def _seconds(ts: str) -> float:
    return datetime.fromisoformat(ts).timestamp()
