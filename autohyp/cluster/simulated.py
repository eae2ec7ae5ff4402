"""The Ray actor that hosts many simulated workers (`autohyp.agents.simulated`) in one process."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence

import ray

from autohyp.agents.base import RunOrder
from autohyp.agents.simulated import SimulatedWorkers
from autohyp.cluster.clients import ActorHandle, RayLedger
from autohyp.config import CampaignConfig
from autohyp.errors import ConfigError
from autohyp.execution.simulation import load_trainer
from autohyp.records import WorkerLive

__all__ = ["SimulatedWorkersActor", "hosts_of"]


def hosts_of(config: CampaignConfig, worker_ids: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """(actor name, its workers' ids) of every process that the simulated workers need, evenly filled."""
    if config.simulation is None:
        return
    num_hosts = math.ceil(len(worker_ids) / config.simulation.workers_per_process)
    for number in range(num_hosts):
        yield f"workers-{number}", list(worker_ids[number::num_hosts])


class SimulatedWorkersActor:
    """Asyncio: all of its workers' runs are under way at once, and it answers meanwhile."""

    def __init__(self, worker_ids: Sequence[str], config: CampaignConfig, ledger: ActorHandle) -> None:
        if config.simulation is None:
            raise ConfigError("simulation: the configuration has none; simulated workers need it")
        self._workers = SimulatedWorkers(
            worker_ids,
            config,
            load_trainer(config.simulation.trainer),
            RayLedger(ledger),
            node_id=ray.get_runtime_context().get_node_id()[:12],
        )
        self._num_workers = len(worker_ids)
        self._beating: asyncio.Task[None] | None = None

    async def run(self, worker_id: str, order: RunOrder) -> None:
        """Carry out an order; see `Worker.run`."""
        await self._workers.run(worker_id, order)

    async def cancel(self, worker_id: str | None = None) -> None:
        """See `Worker.cancel`; of one worker, or of all."""
        self._workers.cancel(worker_id)

    async def describe(self, worker_id: str) -> WorkerLive:
        """What a worker is and does now; the first call also starts the heartbeats."""
        if self._beating is None:
            self._beating = asyncio.create_task(self._workers.beat())
        return self._workers.describe(worker_id)

    async def settle(self, worker_id: str) -> None:
        """Return when the worker carries out no order."""
        await self._workers.settle(worker_id)

    def __repr__(self) -> str:
        return f"SimulatedWorkers({self._num_workers})"
