"""Many simulated workers in one process: each takes an order, lets the run's time pass, records its result.

They are coroutines of one event loop. Results that end while a call to the ledger is under way go together
with the next one, so their number per second is not limited by calls. What the workers do now is told for all
of them at once, every `workers.heartbeat_s`. As with a real worker, a result is durable before `run` returns.
Not covered: a trainer that does not return holds up all workers of its process.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from autohyp.agents.base import LedgerClient, RunOrder
from autohyp.config import CampaignConfig
from autohyp.errors import ConfigError, JournalError
from autohyp.execution.simulation import SIMULATED, SimulatedRun, Trainer, result_of, simulate
from autohyp.journal import Draft
from autohyp.journal.events import RunFinished, RunLost
from autohyp.records import RunStatus, WorkerLive

__all__ = ["BatchedLedger", "SimulatedWorkers"]


class BatchedLedger:
    """Appends of many coroutines as few calls: what waits when a call returns goes with the next."""

    def __init__(self, ledger: LedgerClient) -> None:
        self._ledger = ledger
        self._waiting: list[tuple[Draft, asyncio.Future[None]]] = []
        self._sending: asyncio.Task[None] | None = None

    async def append(self, draft: Draft) -> None:
        """Return once the draft is durable; raises what the ledger raised for it."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((draft, done))
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())
        await done

    async def _send(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            if not await self._sent(batch) and len(batch) > 1:
                # One draft was refused, which keeps those behind it from being recorded: each on its own.
                for pair in batch:
                    await self._sent([pair])
        self._sending = None

    async def _sent(self, batch: list[tuple[Draft, asyncio.Future[None]]]) -> bool:
        """Whether the outcome is known for all of a batch."""
        try:
            await asyncio.to_thread(self._ledger.append, [draft for draft, _ in batch])
        except Exception as error:
            if isinstance(error, JournalError) and len(batch) > 1:
                return False
            for _, done in batch:
                if not done.done():  # whoever waited may be gone
                    done.set_exception(error)
        else:
            for _, done in batch:
                if not done.done():
                    done.set_result(None)
        return True


@dataclass
class _Worker:
    """One simulated worker; `started_at` and `lasts_s` are real seconds."""

    worker_id: str
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    order: RunOrder | None = None
    simulated: SimulatedRun | None = None
    started_at: float = 0.0
    lasts_s: float = 0.0


class SimulatedWorkers:
    """The workers of one process; all methods belong to one event loop."""

    def __init__(
        self,
        worker_ids: Sequence[str],
        config: CampaignConfig,
        trainer: Trainer,
        ledger: LedgerClient,
        node_id: str = "",
    ) -> None:
        if config.simulation is None:
            raise ConfigError("simulation: the configuration has none; simulated workers need it")
        self._workers = {worker_id: _Worker(worker_id) for worker_id in worker_ids}
        self._budget_s = config.run.budget_s or 0.0
        self._time_scale = config.simulation.time_scale
        self._interval_s = config.workers.heartbeat_s
        self._trainer = trainer
        self._ledger = ledger
        self._results = BatchedLedger(ledger)
        self._node_id = node_id

    async def run(self, worker_id: str, order: RunOrder) -> None:
        """See `Worker.run`: raises only when the ledger cannot be reached or refuses the result."""
        worker = self._workers[worker_id]
        async with worker.busy:
            try:
                draft = await self._carry_out(worker, order)
            finally:
                worker.order = worker.simulated = None
            await self._results.append(draft)

    def cancel(self, worker_id: str | None = None) -> None:
        """See `Worker.cancel`; of one worker, or of all."""
        for worker in self._workers.values() if worker_id is None else [self._workers[worker_id]]:
            worker.cancelled.set()

    def describe(self, worker_id: str) -> WorkerLive:
        """What a worker is and does now."""
        worker = self._workers[worker_id]
        order, run = worker.order, worker.simulated
        facts = {"worker_id": worker_id, "node_id": self._node_id, "gpu_name": SIMULATED, "pid": os.getpid()}
        if order is None or run is None:
            return WorkerLive.model_validate(facts)
        elapsed_s = time.monotonic() - worker.started_at
        share = elapsed_s / worker.lasts_s if worker.lasts_s else 1.0
        facts |= {
            "state": "running",
            "run_id": order.run.run_id,
            "experiment_id": order.run.experiment_id,
            "hypothesis_id": order.hypothesis_id,
            "title": order.title,
            "commit": order.commit,
            "progress": run.progress(share, elapsed_s),
        }
        return WorkerLive.model_validate(facts)

    async def settle(self, worker_id: str) -> None:
        """Return when the worker carries out no order."""
        async with self._workers[worker_id].busy:
            return

    async def beat(self) -> None:
        """Tell what the workers do, now and then, for ever."""
        while True:
            self._ledger.heartbeat(*map(self.describe, self._workers))
            await asyncio.sleep(self._interval_s)

    async def _carry_out(self, worker: _Worker, order: RunOrder) -> Draft:
        """Let the run's time pass; what is then to be recorded."""
        try:
            simulated = simulate(self._trainer, order.constants, order.run.seed)
        except ConfigError as error:
            simulated = SimulatedRun(duration_s=0.0, status=RunStatus.CRASHED, reason=str(error))
        worker.order, worker.simulated = order, simulated
        worker.lasts_s = simulated.lasts_s(self._budget_s) * self._time_scale
        worker.started_at = time.monotonic()
        if not worker.cancelled.is_set() and worker.lasts_s > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(worker.cancelled.wait(), worker.lasts_s)
        run_id = order.run.run_id
        if worker.cancelled.is_set():
            lost = RunLost(run_id=run_id, reason="it was interrupted", at_fault=False)
            return Draft(f"lost:{run_id}", lost)
        result = result_of(simulated, order.run, self._budget_s)
        return Draft(f"finish:{run_id}", RunFinished(result=result))
