"""What a benchmark gives back, the machine it ran on, and the table of both."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
import ray

from autohyp.hardware import detect_hardware

__all__ = ["Figure", "machine", "percentile", "table"]


@dataclass(frozen=True)
class Figure:
    """One measured value; `goal` is in the same unit, None where no goal was set."""

    what: str
    value: float
    unit: str
    goal: float | None = None
    more_is_better: bool = False
    note: str = ""

    @property
    def verdict(self) -> str:
        """Whether the goal was reached, and if not by what factor it was missed."""
        if self.goal is None:
            return ""
        factor = self.goal / self.value if self.more_is_better else self.value / self.goal
        return "reached" if factor <= 1 else f"missed, {factor:.1f} x"

    @property
    def goal_text(self) -> str:
        if self.goal is None:
            return ""
        return f"{'>=' if self.more_is_better else '<='} {_number(self.goal)} {self.unit}"


def table(figures: Sequence[Figure]) -> str:
    """A table in Markdown, columns aligned for the terminal."""
    rows = [["what", "measured", "goal", "", "note"]]
    rows += [
        [figure.what, f"{_number(figure.value)} {figure.unit}", figure.goal_text, figure.verdict, figure.note]
        for figure in figures
    ]
    widths = [max(3, *(len(row[column]) for row in rows)) for column in range(5)]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |"
        for row in rows
    )


def machine(folder: Path) -> str:
    """One line on what the figures depend on; the disk's fsync is measured in `folder`."""
    hardware = detect_hardware()
    load = os.getloadavg()[0]
    return (
        f"{datetime.now(UTC):%Y-%m-%d}: {os.cpu_count()} cores of {hardware.cpu_name}, "
        f"{hardware.memory_gb:.0f} GB, Python {platform.python_version()}, Ray {ray.__version__}; "
        f"{_file_system(folder)}, fsync of 2 kB {1000 * _fsync_s(folder):.2f} ms; load before: {load:.1f}"
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100).__trunc__() - 1)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _file_system(folder: Path) -> str:
    """The type of the file system; on tmpfs an fsync costs nothing and the ledger's figures mean little."""
    mounts = [part for part in psutil.disk_partitions(all=True) if folder.is_relative_to(part.mountpoint)]
    return max(mounts, key=lambda part: len(part.mountpoint)).fstype if mounts else "unknown file system"


def _fsync_s(folder: Path) -> float:
    """Median time to append 2 kB and have it on disk."""
    times = []
    with (folder / "fsync.probe").open("ab", buffering=0) as file:
        for _ in range(100):
            start = time.perf_counter()
            file.write(b"x" * 2048)
            os.fsync(file.fileno())
            times.append(time.perf_counter() - start)
    return statistics.median(times)
