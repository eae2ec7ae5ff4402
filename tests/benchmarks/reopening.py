"""Opening the ledger of a long campaign: how long it takes, and what its process then holds in memory."""

from __future__ import annotations

import gc
import multiprocessing
import time
from dataclasses import dataclass

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
    """Open it in a process of its own, as after a crash. The journal may be in the page cache."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        opened = pool.apply(_open, (paths,))
    scale = 100_000 / num_experiments
    size_mb = paths.journal.stat().st_size / 1e6
    note = f"{opened.num_events:,} events, {size_mb:,.0f} MB of journal"
    return [
        Figure(f"opening the ledger, {num_experiments:,} experiments", opened.elapsed_s, "s", note=note),
        Figure(f"the same for 100,000{_how(scale)}", scale * opened.elapsed_s, "s", 3),
        Figure(f"memory per 100,000 experiments{_how(scale)}", scale * opened.rss_mb, "MB"),
    ]


def _how(scale: float) -> str:
    return "" if scale == 1 else f" (x {scale:g})"


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
