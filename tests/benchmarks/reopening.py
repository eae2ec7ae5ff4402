"""Opening the ledger of a long campaign: how long it takes, and what its process then holds in memory."""

from __future__ import annotations

import gc
import multiprocessing
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from autohyp.agents.ledger import Ledger
from autohyp.paths import CampaignPaths

from .figures import Figure

__all__ = ["measure_reopening"]


@dataclass(frozen=True)
class _Opened:
    elapsed_s: float
    rss_mb: float
    num_events: int


def measure_reopening(paths: CampaignPaths, num_experiments: int) -> list[Figure]:
    """Open it twice, each time in a process of its own, as after a crash. The files may be in the page cache.

    The first time there is nothing but the journal; the second time also what the first one left.
    """
    replayed, again = _open_apart(paths), _open_apart(paths)
    note = f"{again.num_events:,} events, {_size_mb(paths.root):,.0f} MB of journal and snapshot"
    known = f"{num_experiments:,} experiments"
    at_size = num_experiments == 100_000
    return [
        Figure(f"opening the ledger, {known}", again.elapsed_s, "s", 3 if at_size else None, note=note),
        Figure(f"the same from the journal alone, {known}", replayed.elapsed_s, "s"),
        Figure(
            f"memory of the ledger, {known}", again.rss_mb, "MB", note=f"{replayed.rss_mb:,.0f} MB at first"
        ),
    ]


def _open_apart(paths: CampaignPaths) -> _Opened:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_open, (paths,))


def _open(paths: CampaignPaths) -> _Opened:
    process = psutil.Process()
    gc.collect()
    before = process.memory_info().rss
    start = time.perf_counter()
    ledger = Ledger(paths)
    elapsed_s = time.perf_counter() - start
    gc.collect()
    rss_mb = (process.memory_info().rss - before) / 1e6
    version = ledger.state.version
    ledger.close()
    return _Opened(elapsed_s, rss_mb, version)


def _size_mb(root: Path) -> float:
    return sum(path.stat().st_size for path in root.iterdir() if path.is_file()) / 1e6
