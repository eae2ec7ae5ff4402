"""Run the benchmarks one after the other and print one table; generating the campaigns is not counted."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

from autohyp.paths import CampaignPaths
from autohyp.testing.campaigns import CampaignShape, write_campaign

from .cost import measure_cost
from .figures import Figure, machine, table
from .gpu import measure_gpu
from .keeps import measure_keeps
from .reopening import measure_reopening
from .starting import measure_starting
from .transitions import measure_ledger_alone, measure_through_ray
from .trust import measure_trust
from .views import measure_views
from .whole import measure_whole

SHORT_PARTS: dict[str, Callable[[Path], list[Figure]]] = {
    "ledger": measure_through_ray,
    "alone": measure_ledger_alone,
    "whole": measure_whole,
    "starting": measure_starting,
    "trust": measure_trust,
    "gpu": measure_gpu,
    "keeps": measure_keeps,
}
LONG_PARTS: dict[str, Callable[[CampaignPaths, int], list[Figure]]] = {
    "reopen": measure_reopening,
    "views": measure_views,
    "cost": measure_cost,  # last: it lengthens the journal
}
PARTS = (*SHORT_PARTS, *LONG_PARTS)
SIZES = (1_000, 10_000, 100_000)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "--experiments", type=int, nargs="+", default=SIZES, metavar="N", help="sizes of the long campaigns"
    )
    parser.add_argument("--folder", type=Path, help="a disk to measure on (default: the temporary folder)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="run these parts")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="autohyp-bench-", dir=chosen.folder) as name:
        folder = Path(name)
        print(machine(folder), flush=True)
        print(table(measure(folder, chosen.only, chosen.experiments)))


def measure(folder: Path, parts: Collection[str], sizes: Sequence[int]) -> list[Figure]:
    """All figures of these parts, measured in `folder`."""
    figures: list[Figure] = []
    for name, short_part in SHORT_PARTS.items():
        if name in parts:
            figures += _say(name, partial(short_part, folder))
    for size in sizes if any(name in parts for name in LONG_PARTS) else ():
        print(f"... a campaign of {size:,} experiments", flush=True)
        paths = write_campaign(folder / "long", _shape(size))
        for name, long_part in LONG_PARTS.items():
            if name in parts:
                figures += _say(name, partial(long_part, paths, size))
        shutil.rmtree(folder / "long")
    return figures


def _shape(size: int) -> CampaignShape:
    """As campaigns are in the long run: hardly anything is kept any more. Tools are few, so there is none."""
    return CampaignShape(num_experiments=size, keep_rate=0.01, num_queued=0, experiments_per_tool=size + 1)


def _say(name: str, work: Callable[[], list[Figure]]) -> list[Figure]:
    """What is measured now, and each value as soon as it is known."""
    print(f"... {name}", flush=True)
    figures = work()
    for figure in figures:
        print(f"    {figure.what}: {figure.value:.4g} {figure.unit} {figure.note}", flush=True)
    return figures


if __name__ == "__main__":
    main()
