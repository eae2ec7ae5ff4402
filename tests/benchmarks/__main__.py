"""Run the benchmarks one after the other and print one table; generating the campaigns is not counted."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from autohyp.paths import CampaignPaths
from autohyp.testing.campaigns import CampaignShape, write_campaign

from .figures import Figure, machine, table
from .reopening import measure_reopening
from .transitions import measure_ledger_alone, measure_through_ray
from .views import measure_views

PARTS = ("ledger", "reopen", "views")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--experiments", type=int, default=20_000, help="size of the long campaign")
    parser.add_argument("--folder", type=Path, help="a disk to measure on (default: the temporary folder)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="run these parts")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="autohyp-bench-", dir=chosen.folder) as name:
        folder = Path(name)
        print(machine(folder), flush=True)
        print(table(list(measure(folder, chosen.only, chosen.experiments))))


def measure(folder: Path, parts: tuple[str, ...], num_experiments: int) -> list[Figure]:
    """All figures of these parts, measured in `folder`."""
    figures: list[Figure] = []
    if "ledger" in parts:
        for part in (measure_through_ray, measure_ledger_alone):
            figures += _say(part.__name__, lambda part=part: part(folder))
    long_parts: dict[str, Callable[[CampaignPaths, int], list[Figure]]] = {
        "reopen": measure_reopening,
        "views": measure_views,
    }
    if any(name in parts for name in long_parts):
        print(f"... a campaign of {num_experiments:,} experiments", flush=True)
        paths = write_campaign(folder / "long", CampaignShape(num_experiments=num_experiments))
        for name, long_part in long_parts.items():
            if name in parts:
                figures += _say(name, lambda part=long_part: part(paths, num_experiments))
    return figures


def _say(name: str, work: Callable[[], list[Figure]]) -> list[Figure]:
    """What is measured now, and each value as soon as it is known."""
    print(f"... {name}", flush=True)
    figures = work()
    for figure in figures:
        print(f"    {figure.what}: {figure.value:.4g} {figure.unit}", flush=True)
    return figures


if __name__ == "__main__":
    main()
