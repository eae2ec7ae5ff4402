"""The roles as Ray actors: each a thin wrapper that adds concurrency and nothing else.

| actor | concurrency | after a restart |
|---|---|---|
| LedgerActor | asyncio; what arrives during an fsync is committed with the next | replays its journal |
| ObserverActor | a thread for the loop | goes on from the ledger |
| ScribeActor | a thread for the loop | goes on from the ledger |
| ToolBuilderActor | a thread for the loop | goes on from the ledger |
| WorkerActor | threads: asked and cancelled while it runs | the fleet starts it anew; its run is requeued |
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from autohyp.agents.base import RunOrder
from autohyp.agents.books import Books
from autohyp.agents.campaign import campaign_facts
from autohyp.agents.ledger import Ledger, Request
from autohyp.agents.observer import Observer
from autohyp.agents.scribe import Scribe
from autohyp.agents.tool_builder import ToolBuilder
from autohyp.agents.worker import Slot, Worker
from autohyp.cluster.clients import ActorHandle, ObjectRef, RayLedger, WireNews
from autohyp.cluster.fleet import RayFleet
from autohyp.config import CampaignConfig
from autohyp.errors import JournalError
from autohyp.execution.sandbox.select import select_sandbox
from autohyp.execution.workspace import Workspace
from autohyp.hardware import detect_hardware
from autohyp.journal import Draft
from autohyp.journal.events import WireDraft
from autohyp.paths import CampaignPaths, has_room
from autohyp.records import Tool, WorkerLive
from autohyp.researchers import make_researcher

__all__ = ["LedgerActor", "ObserverActor", "ScribeActor", "ToolBuilderActor", "WorkerActor", "as_actor"]

log = logging.getLogger(__name__)

OBSERVER_WAIT_S = 1.0
SWITCH_S = 0.0005
SCRIBE_INTERVAL_S = 2.0
SCRIBE_NICENESS = 19
SCRIBE_RESTS = 9.0
"""Seconds of rest for each second of writing: creating files delays the fsync of the journal, too."""
TOOL_BUILDER_INTERVAL_S = 5.0


def as_actor(role: type[Any], name: str) -> Any:
    """The control role as a detached actor class: named within the campaign's namespace, restarted for ever.

    It takes no cores, and calls to it are sent again when it was restarted meanwhile.
    """
    remote_class: Any = ray.remote(role)
    return remote_class.options(
        name=name,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        max_task_retries=-1,
        num_cpus=0,
        scheduling_strategy=_here(),
        # The ledger is asyncio and has a default of its own; the others use threads.
        **({} if role is LedgerActor else {"max_concurrency": 4}),
    )


def _here() -> NodeAffinitySchedulingStrategy:
    """The driver's node: the campaign's folder is there, and what ends that node ends the driver too.

    Elsewhere a role would be missed for as long as Ray takes to notice that its node is gone.
    """
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def _see_no_gpu() -> None:
    """Ray leaves the GPUs visible to an actor that asked for none."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


@dataclass
class _Waiting:
    """A call that waits for its commit; `since` as in `LedgerClient.append`."""

    request: Request
    since: int | None
    answer: asyncio.Future[WireNews]


class LedgerActor:
    """The campaign's one writer (`autohyp.agents.ledger`).

    A commit holds up the event loop: a thread for it would wait for this one twice, and nothing may be read
    meanwhile anyway. What arrives until its fsync is over shares the next commit.
    """

    def __init__(self, root: Path) -> None:
        _see_no_gpu()
        self._ledger = Ledger(CampaignPaths(root))
        self._waiting: list[_Waiting] = []
        self._published: tuple[int, list[ObjectRef]] = (-1, [])
        # What was replayed stays: the collector need not look through it again and again.
        gc.collect()
        gc.freeze()

    async def append(self, drafts: Sequence[WireDraft], since: int | None = None) -> WireNews:
        """Return once the drafts are durable."""
        try:
            request = Request([Draft.from_wire(draft) for draft in drafts])
        except ValueError as error:
            raise JournalError(f"not an event: {' '.join(str(error).split())[:200]}") from None
        loop = asyncio.get_running_loop()
        waiting = _Waiting(request, since, loop.create_future())
        self._waiting.append(waiting)
        if len(self._waiting) == 1:
            loop.call_soon(self._commit)  # behind the calls that have arrived by now
        return await waiting.answer

    def _commit(self) -> None:
        batch, self._waiting = self._waiting, []
        try:
            self._ledger.commit([waiting.request for waiting in batch])
        except Exception as error:
            for waiting in batch:
                waiting.request.error = waiting.request.error or JournalError(repr(error))
        for waiting in batch:
            if waiting.answer.done():  # whoever waited is gone
                continue
            try:
                waiting.answer.set_result(self._answer(waiting))
            except JournalError as error:
                waiting.answer.set_exception(error)

    def _answer(self, waiting: _Waiting) -> WireNews:
        if waiting.request.error is not None:
            raise waiting.request.error
        return ([], []) if waiting.since is None else self._news(waiting.since)

    async def news(self, since: int) -> WireNews:
        """See `LedgerClient.news`."""
        return self._news(since)

    def _news(self, since: int) -> WireNews:
        """The entries, or a reference to the whole state, an immutable object."""
        entries = self._ledger.news(since)
        if entries is not None:
            return entries, []
        version = self._ledger.state.version
        if self._published[0] != version:
            self._published = (version, [ray.put(self._ledger.state)])
        return [], self._published[1]

    async def tools(self) -> list[Tool]:
        """See `LedgerClient.tools`."""
        return list(self._ledger.state.tools.values())

    async def heartbeat(self, lives: Sequence[WorkerLive]) -> None:
        """See `Ledger.heartbeat`; the files of hundreds of workers must not keep callers waiting."""
        await asyncio.to_thread(self._show, lives)

    def _show(self, lives: Sequence[WorkerLive]) -> None:
        for live in lives:
            self._ledger.heartbeat(live)

    async def close(self) -> None:
        """Release the journal; called when the campaign's session is over."""
        self._ledger.close()

    def __repr__(self) -> str:
        return f"Ledger({self._ledger.state.tag})"


class ObserverActor:
    """The loop of `autohyp.agents.observer`."""

    def __init__(self, root: Path, config: CampaignConfig, data_dir: Path, ledger: ActorHandle) -> None:
        _see_no_gpu()
        paths = CampaignPaths(root)
        books = Books(RayLedger(ledger))
        self._fleet = RayFleet(config, root, data_dir, ledger, books.state.drained)
        self._observer = Observer(
            config,
            books,
            self._fleet,
            Workspace(paths.repository),
            [make_researcher(name) for name in config.researchers],
            sequence_len=int(campaign_facts(config)["sequence_len"]),
            has_room=lambda: has_room(root),
        )
        self._error: str | None = None
        self._over = threading.Event()
        # The thread that writes commits waits for files most of the time, and would wait as long again for
        # this one to let it take the next: 5 ms a file, four files an experiment.
        sys.setswitchinterval(SWITCH_S)
        threading.Thread(target=self._observe, name="observer", daemon=True).start()

    def finished(self) -> tuple[str | None, str | None]:
        """(reason, error) once the loop is over, else (None, None)."""
        if not self._over.is_set():
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

    def __repr__(self) -> str:
        return f"Observer({self._fleet.num_workers()} workers)"


class ScribeActor:
    """Follows the ledger and has `autohyp.agents.scribe` write what changed.

    A process of its own that gives way to all others: the readable files may come later, decisions may not.
    """

    def __init__(self, root: Path, ledger: ActorHandle) -> None:
        _see_no_gpu()
        os.nice(SCRIBE_NICENESS)
        self._scribe = Scribe(CampaignPaths(root))
        self._books = Books(RayLedger(ledger))
        self._over = threading.Event()
        self._writing = threading.Thread(target=self._write, name="scribe", daemon=True)
        self._writing.start()

    def finish(self) -> None:
        """Return when the state that the ledger has now is written."""
        self._over.set()
        self._writing.join()

    def _write(self) -> None:
        is_last, rest_s = False, SCRIBE_INTERVAL_S
        while not is_last:
            is_last = self._over.wait(rest_s)
            began_s = time.monotonic()
            try:
                self._scribe.write(self._books.refresh(), self._books.take_touched(), is_last)
            except Exception:
                log.exception("the scribe failed")
            rest_s = max(SCRIBE_INTERVAL_S, SCRIBE_RESTS * (time.monotonic() - began_s))

    def __repr__(self) -> str:
        return "Scribe"


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
    """A worker (`autohyp.agents.worker`) on the GPU or the cores that Ray gave this actor.

    The one worker of its process: `worker_id` says so to callers that know processes with many.
    """

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

    def run(self, worker_id: str, order: RunOrder) -> None:
        """Carry out an order; see `Worker.run`."""
        with self._running:
            self._worker.run(order)

    def cancel(self, worker_id: str | None = None) -> None:
        """See `Worker.cancel`."""
        self._worker.cancel()

    def describe(self, worker_id: str) -> WorkerLive:
        """What the worker is and does now."""
        return self._worker.live

    def settle(self, worker_id: str) -> None:
        """Return when no order is being carried out."""
        with self._running:
            return

    def __repr__(self) -> str:
        live = self._worker.live
        place = f"GPU {live.gpu_id}" if live.gpu_id else f"{self._worker.slot.threads} cpu"
        return f"Worker({live.worker_id}, {place}, {live.experiment_id or 'idle'})"
