"""Transitions per second through the real ledger, and how long one waits for its acknowledgement.

A transition is the result of a run that is in flight (`run_finished`, about 2 kB): the state checks it, the
journal writes it, and it is acknowledged after its fsync. Callers are processes of their own, as workers are,
and share the machine's cores with the ledger and with Ray. They send as the simulated workers do: what ends
while a call is under way goes with the next. No result is sent twice.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from autohyp.agents.ledger import Ledger, Request
from autohyp.agents.simulated import BatchedLedger
from autohyp.cluster.actors import LedgerActor, as_actor
from autohyp.cluster.clients import RayLedger
from autohyp.cluster.session import local_cluster
from autohyp.config import CampaignConfig
from autohyp.journal import Draft, read_journal, replay
from autohyp.journal.events import RunFinished
from autohyp.paths import CampaignPaths
from autohyp.testing.campaigns import CampaignShape, write_campaign

from .figures import Figure, percentile

__all__ = ["measure_ledger_alone", "measure_through_ray"]

NUM_CALLERS = 4
NUM_SIMULATED_WORKERS = 200
SETTLE_S = 5.0


def measure_through_ray(folder: Path) -> list[Figure]:
    """Throughput and acknowledgement through the ledger's actor, on a cluster of this machine."""
    config = CampaignConfig.model_validate(
        {"tag": "bench", "ray": {"dashboard": False}, "simulation": {"trainer": "unused:unused"}}
    )
    with local_cluster(config):
        callers = [_CALLER.remote() for _ in range(NUM_CALLERS)]
        return [
            *_measure_throughput(folder, callers),
            *_measure_acknowledgement(folder, callers[:1]),
            *_measure_acknowledgement(folder, callers),
        ]


def _measure_throughput(folder: Path, callers: list[Any], num_results: int = 12_000) -> list[Figure]:
    """Every worker sends the next result as soon as the last one is acknowledged."""
    paths, drafts = _prepare(folder / "throughput", num_results)
    num_here = NUM_SIMULATED_WORKERS // len(callers)
    with _ledger(paths) as ledger:
        _hand_out(callers, ledger, drafts)
        start = time.perf_counter()
        num_calls = sum(ray.get([caller.send_all.remote(num_here) for caller in callers]))
        elapsed_s = time.perf_counter() - start
        plain = _plain_calls(callers)
    _check(paths, num_results)
    note = f"{NUM_CALLERS} processes of {num_here} workers, {num_results / num_calls:.0f} results a call"
    what = "durable transitions through the ledger actor"
    return [Figure(what, num_results / elapsed_s, "/s", 3000, True, note), plain]


def _plain_calls(callers: list[Any], num_calls: int = 1024, num_in_flight: int = 64) -> Figure:
    """What Ray alone allows: the same actor and callers, with nothing to check, write or fsync."""
    start = time.perf_counter()
    ray.get([caller.send_nothing.remote(num_calls, num_in_flight) for caller in callers])
    elapsed_s = time.perf_counter() - start
    return Figure("calls that change nothing, to the same actor", len(callers) * num_calls / elapsed_s, "/s")


def _measure_acknowledgement(
    folder: Path, callers: list[Any], per_second: int = 200, seconds: int = 20
) -> list[Figure]:
    """Every worker sends at random times; the time from a result to its acknowledgement."""
    paths, drafts = _prepare(folder / f"acknowledgement-{len(callers)}", per_second * seconds)
    rate, num_here = per_second / NUM_SIMULATED_WORKERS, NUM_SIMULATED_WORKERS // len(callers)
    with _ledger(paths) as ledger:
        _hand_out(callers, ledger, drafts)
        lists = ray.get([caller.send_at_rate.remote(num_here, rate) for caller in callers])
    _check(paths, len(drafts))
    times_ms = [1000 * time_s for times in lists for time_s in times]
    where = "one process" if len(callers) == 1 else f"{len(callers)} processes"
    what = f"acknowledgement, {NUM_SIMULATED_WORKERS} simulated workers in {where}, {per_second} results/s"
    note = f"of {len(times_ms):,} results; the longest took {max(times_ms):.0f} ms"
    return [
        Figure(f"{what}, p99", percentile(times_ms, 99), "ms", 20, note=note),
        Figure("the same, median", percentile(times_ms, 50), "ms"),
    ]


def measure_ledger_alone(folder: Path, num_results: int = 4000) -> list[Figure]:
    """The same transitions committed in this process: what is left when Ray costs nothing."""
    figures = []
    for size in (1, 50):
        paths, drafts = _prepare(folder / f"alone-{size}", num_results)
        ledger = Ledger(paths)
        requests = [Request([draft]) for draft in drafts]
        start = time.perf_counter()
        for first in range(0, num_results, size):
            ledger.commit(requests[first : first + size])
        elapsed_s = time.perf_counter() - start
        ledger.close()
        _check(paths, num_results)
        what = f"durable transitions without Ray, {size} a commit"
        figures.append(Figure(what, num_results / elapsed_s, "/s"))
    return figures


def _prepare(research: Path, num_runs: int) -> tuple[CampaignPaths, list[Draft]]:
    """A campaign with so many runs in flight, and a result for each."""
    paths = write_campaign(research, CampaignShape(num_experiments=20, num_running=num_runs))
    state = replay(read_journal(paths.journal))
    pattern = next(entry.measured[0] for entry in state.experiments.values() if entry.measured)
    drafts = []
    for run in state.in_flight.values():
        same = {"run_id": run.run_id, "experiment_id": run.experiment_id, "seed": run.seed}
        event = RunFinished(result=pattern.model_copy(update=same))
        drafts.append(Draft(f"result:{run.run_id}", event))
    return paths, drafts


def _check(paths: CampaignPaths, num_results: int) -> None:
    """Every acknowledged result is on disk, once."""
    finished = [entry.key for entry in read_journal(paths.journal) if entry.key.startswith("result:")]
    if not len(finished) == len(set(finished)) == num_results:
        raise AssertionError(f"{len(finished)} results recorded, {num_results} acknowledged")


@contextmanager
def _ledger(paths: CampaignPaths) -> Iterator[Any]:
    """The ledger's actor; the cluster is the caller's."""
    ledger = as_actor(LedgerActor, f"ledger-{paths.root.parent.name}").remote(paths.root.resolve())
    ray.get(ledger.__ray_ready__.remote())
    yield ledger
    ray.get(ledger.close.remote())
    ray.kill(ledger)


def _hand_out(callers: list[Any], ledger: Any, drafts: list[Draft]) -> None:
    """Deal the results out and return when every caller has them and Ray has started its spare processes."""
    ray.get([caller.take.remote(ledger, drafts[i :: len(callers)]) for i, caller in enumerate(callers)])
    time.sleep(SETTLE_S)


class _CountingLedger(RayLedger):
    """Counts the calls."""

    num_calls = 0

    def append(self, drafts: Sequence[Draft], since: int | None = None) -> Any:
        self.num_calls += 1
        return super().append(drafts, since)


class _Caller:
    """A process of workers that send results to the ledger."""

    async def take(self, ledger: Any, drafts: Sequence[Draft]) -> None:
        """What to send, and where; the first connection is made here."""
        self._actor, self._drafts = ledger, iter(drafts)
        self._calls = _CountingLedger(ledger)
        self._ledger = BatchedLedger(self._calls)
        await ledger.__ray_ready__.remote()

    async def send_all(self, num_workers: int) -> int:
        """So many workers, each sending all the time; the number of calls that it took."""

        async def work() -> None:
            for draft in self._drafts:
                await self._ledger.append(draft)

        await asyncio.gather(*(work() for _ in range(num_workers)))
        return self._calls.num_calls

    async def send_nothing(self, num_calls: int, num_in_flight: int) -> None:
        """So many calls that ask the ledger for next to nothing."""

        async def send() -> None:
            for _ in range(num_calls // num_in_flight):
                await self._actor.heartbeat.remote([])

        await asyncio.gather(*(send() for _ in range(num_in_flight)))

    async def send_at_rate(self, num_workers: int, per_second: float) -> list[float]:
        """So many workers, each sending at this rate with random pauses; the acknowledgements' times."""
        times: list[float] = []

        async def work(rng: random.Random) -> None:
            await asyncio.sleep(rng.uniform(0, 1 / per_second))
            for draft in self._drafts:
                start = time.perf_counter()
                await self._ledger.append(draft)
                times.append(time.perf_counter() - start)
                await asyncio.sleep(rng.uniform(0.5, 1.5) / per_second)

        await asyncio.gather(*(work(random.Random(seed)) for seed in range(num_workers)))
        return times


_CALLER: Any = ray.remote(num_cpus=0)(_Caller)
