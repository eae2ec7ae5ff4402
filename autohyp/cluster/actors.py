"""The four roles as Ray actors: each a thin wrapper that adds concurrency and nothing else.

| actor | concurrency | after a restart |
|---|---|---|
| LedgerActor | asyncio; what arrives during an fsync is committed with the next | replays its journal |
| ObserverActor | a thread for the loop, one for the scribe | goes on from the ledger |
| ToolBuilderActor | a thread for the loop | goes on from the ledger |
| WorkerActor | threads: asked and cancelled while it runs | is free again; its run is requeued |
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from autohyp.agents.base import RunOrder
from autohyp.agents.campaign import data_facts
from autohyp.agents.ledger import Ledger, Request
from autohyp.agents.observer import Observer
from autohyp.agents.scribe import Scribe
from autohyp.agents.tool_builder import ToolBuilder
from autohyp.agents.worker import Slot, Worker
from autohyp.cluster.clients import ActorHandle, ObjectRef, RayLedger
from autohyp.cluster.fleet import RayFleet
from autohyp.config import CampaignConfig
from autohyp.execution.sandbox.select import select_sandbox
from autohyp.execution.workspace import Workspace
from autohyp.hardware import detect_hardware
from autohyp.journal import Draft
from autohyp.paths import CampaignPaths
from autohyp.records import WorkerLive
from autohyp.researchers import make_researcher

__all__ = ["LedgerActor", "ObserverActor", "ToolBuilderActor", "WorkerActor", "as_actor"]

log = logging.getLogger(__name__)

OBSERVER_WAIT_S = 1.0
SCRIBE_INTERVAL_S = 2.0
TOOL_BUILDER_INTERVAL_S = 5.0


def as_actor(role: type[Any], name: str, **resources: float) -> Any:
    """The role as a detached actor class, named within the campaign's namespace and restarted for ever.

    Control roles take no cores; calls to a restarted role are sent again, but for a worker's, whose run
    would then be repeated behind the observer's back.
    """
    is_worker = role is WorkerActor
    remote_class: Any = ray.remote(role)
    return remote_class.options(
        name=name,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        max_task_retries=0 if is_worker else -1,
        # The ledger is asynchronous and has its own default; the others use threads.
        **({} if role is LedgerActor else {"max_concurrency": 4}),
        **(resources if is_worker else {"num_cpus": 0}),
    )


def _see_no_gpu() -> None:
    """Ray leaves the GPUs visible to an actor that asked for none."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


class LedgerActor:
    """The campaign's one writer (`autohyp.agents.ledger`)."""

    def __init__(self, root: Path) -> None:
        _see_no_gpu()
        self._ledger = Ledger(CampaignPaths(root))
        self._waiting: list[tuple[Request, asyncio.Future[None]]] = []
        self._commits = asyncio.Lock()
        self._published: tuple[int, list[ObjectRef]] = (-1, [])

    async def append(self, drafts: Sequence[Draft]) -> None:
        """Return once the drafts are durable; everybody who waits is served by one commit."""
        request, done = Request(drafts), asyncio.get_running_loop().create_future()
        self._waiting.append((request, done))
        async with self._commits:
            batch, self._waiting = self._waiting, []
            if batch:
                await self._commit(batch)
        await done
        if request.error is not None:
            raise request.error

    async def _commit(self, batch: list[tuple[Request, asyncio.Future[None]]]) -> None:
        try:
            await asyncio.to_thread(self._ledger.commit, [request for request, _ in batch])
        except Exception as error:
            for _, done in batch:
                done.set_exception(error)
        else:
            for _, done in batch:
                done.set_result(None)

    async def state(self) -> tuple[int, list[ObjectRef]]:
        """The newest durable version, and a reference to its state, an immutable object.

        The reference is in a list, because Ray would hand on the object itself otherwise.
        """
        async with self._commits:
            version = self._ledger.state.version
            if self._published[0] != version:
                self._published = (version, [ray.put(self._ledger.state)])
            return self._published

    async def heartbeat(self, live: WorkerLive) -> None:
        """See `Ledger.heartbeat`."""
        self._ledger.heartbeat(live)

    async def close(self) -> None:
        """Release the journal; called when the campaign's session is over."""
        async with self._commits:
            self._ledger.close()

    def __repr__(self) -> str:
        return f"Ledger({self._ledger.state.tag})"


class ObserverActor:
    """The loop of `autohyp.agents.observer`, with the scribe beside it."""

    def __init__(self, root: Path, config: CampaignConfig, data_dir: Path, ledger: ActorHandle) -> None:
        _see_no_gpu()
        paths = CampaignPaths(root)
        self._ledger_actor = ledger
        self._scribe = Scribe(paths)
        workspace = Workspace(paths.repository)
        self._fleet = RayFleet(config, root, data_dir, ledger)
        self._observer = Observer(
            config,
            RayLedger(ledger),
            self._fleet,
            workspace,
            [make_researcher(name) for name in config.researchers],
            sequence_len=int(data_facts(data_dir)["sequence_len"]),
        )
        self._error: str | None = None
        self._over = threading.Event()
        threading.Thread(target=self._observe, name="observer", daemon=True).start()
        self._writing = threading.Thread(target=self._write, name="scribe", daemon=True)
        self._writing.start()

    def stop(self, reason: str, now: bool) -> None:
        """See `Observer.stop`."""
        self._observer.stop(reason, now=now)

    def finished(self) -> tuple[str | None, str | None]:
        """(reason, error) once the loop is over and all files are written, else (None, None)."""
        if not self._over.is_set() or self._writing.is_alive():
            return None, None
        return self._observer.finished or "the observer failed", self._error

    def _observe(self) -> None:
        try:
            while self._observer.finished is None:
                self._observer.step(OBSERVER_WAIT_S)
        except Exception as error:
            log.exception("the observer failed")
            self._error = f"{type(error).__name__}: {error}"
        finally:
            self._over.set()

    def _write(self) -> None:
        """Follow the ledger; the last state is written after the loop is over."""
        ledger = RayLedger(self._ledger_actor)
        is_last = False
        while not is_last:
            is_last = self._over.wait(SCRIBE_INTERVAL_S)
            try:
                self._scribe.write(ledger.state())
            except Exception:
                log.exception("the scribe failed")

    def __repr__(self) -> str:
        return f"Observer({self._fleet.num_workers()} workers)"


class ToolBuilderActor:
    """The loop of `autohyp.agents.tool_builder`."""

    def __init__(self, root: Path, ledger: ActorHandle) -> None:
        _see_no_gpu()
        self._builder = ToolBuilder(RayLedger(ledger), CampaignPaths(root))
        self._over = threading.Event()
        threading.Thread(target=self._build, name="tool-builder", daemon=True).start()

    def ping(self) -> None:
        """Return when the actor is up."""

    def _build(self) -> None:
        while not self._over.wait(TOOL_BUILDER_INTERVAL_S):
            try:
                self._builder.step()
            except Exception:
                log.exception("a tool could not be built")

    def __repr__(self) -> str:
        return "ToolBuilder"


class WorkerActor:
    """A worker (`autohyp.agents.worker`) on the GPU or the cores that Ray gave this actor."""

    def __init__(
        self,
        worker_id: str,
        root: Path,
        config: CampaignConfig,
        data_dir: Path,
        ledger: ActorHandle,
    ) -> None:
        gpus = ray.get_gpu_ids()
        names = detect_hardware().gpus
        gpu_index = int(gpus[0]) if gpus else None
        slot = Slot(
            worker_id=worker_id,
            node_id=ray.get_runtime_context().get_node_id()[:12],
            threads=config.workers.cpus_per_worker,
            gpu_index=gpu_index,
            gpu_name=names[0] if gpus and names else "cpu",
        )
        sandbox = select_sandbox(config.sandbox.backend)
        self._worker = Worker(slot, config, CampaignPaths(root), data_dir, RayLedger(ledger), sandbox)
        self._running = threading.Lock()

    def run(self, order: RunOrder) -> None:
        """Carry out an order; see `Worker.run`."""
        with self._running:
            self._worker.run(order)

    def cancel(self) -> None:
        """See `Worker.cancel`."""
        self._worker.cancel()

    def describe(self) -> WorkerLive:
        """What the worker is and does now."""
        return self._worker.live

    def settle(self) -> None:
        """Return when no order is being carried out."""
        with self._running:
            return

    def __repr__(self) -> str:
        live = self._worker.live
        place = f"GPU {live.gpu_id}" if live.gpu_id else f"{self._worker.slot.threads} cpu"
        return f"Worker({live.worker_id}, {place}, {live.experiment_id or 'idle'})"
