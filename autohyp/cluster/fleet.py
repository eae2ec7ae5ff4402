"""The workers as Ray actors: made, found again after an observer's restart, handed orders, and waited for."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayError

from autohyp.agents.base import RunEnded, RunOrder
from autohyp.cluster.clients import ActorHandle, ObjectRef, last_line
from autohyp.config import CampaignConfig
from autohyp.errors import ClusterError
from autohyp.records import WorkerLive

__all__ = ["RayFleet", "worker_name"]


def worker_name(index: int) -> str:
    """The actor's name, unique in the campaign's namespace."""
    return f"worker-{index}"


@dataclass
class _Member:
    """A worker, and what is awaited of it (`pending`): a describe, a settle or a run; None when idle."""

    actor: ActorHandle
    pending: ObjectRef
    live: WorkerLive | None = None
    run_id: str | None = None


class RayFleet:
    """A `Fleet` of one worker actor a GPU, or one per share of this machine's cores."""

    def __init__(self, config: CampaignConfig, root: Path, data_dir: Path, ledger: ActorHandle) -> None:
        from autohyp.cluster.actors import WorkerActor, as_actor  # they name one another

        self._members: dict[str, _Member] = {}
        gpu = config.profile == "gpu"
        resources = {"num_gpus": 1} if gpu else {"num_cpus": config.workers.cpus_per_worker}
        for index in range(config.workers.count or 1):
            name = worker_name(index)
            actor = as_actor(WorkerActor, name, **resources).remote(name, root, config, data_dir, ledger)
            self._members[name] = _Member(actor, actor.describe.remote())
        self._adopt()

    def _adopt(self) -> None:
        """Take over the orders that workers of an earlier observer still carry out."""
        described = [member.pending for member in self._members.values()]
        ready, _ = ray.wait(described, num_returns=len(described), timeout=0.2)
        for member in list(self._members.values()):
            if member.pending in ready:
                self._welcome(member)

    def idle(self) -> list[WorkerLive]:
        """See `Fleet.idle`; a worker that is still starting is not idle."""
        return [m.live for m in self._members.values() if m.live is not None and m.pending is None]

    def busy(self) -> dict[str, str]:
        """See `Fleet.busy`."""
        return {name: member.run_id for name, member in self._members.items() if member.run_id is not None}

    def num_workers(self) -> int:
        """See `Fleet.num_workers`."""
        return len(self._members)

    def assign(self, worker_id: str, order: RunOrder) -> None:
        """See `Fleet.assign`."""
        member = self._members[worker_id]
        member.run_id = order.run.run_id
        member.pending = member.actor.run.remote(order)

    def wait(self, timeout_s: float) -> list[RunEnded]:
        """See `Fleet.wait`; a worker that died is awaited anew, Ray restarts it.

        Raises ClusterError when no worker is left that could be started.
        """
        awaited = {
            member.pending: name for name, member in self._members.items() if member.pending is not None
        }
        if not awaited:
            time.sleep(timeout_s)
            return []
        ready, _ = ray.wait(list(awaited), timeout=timeout_s)
        ended = (self._end(awaited[reference]) for reference in ready)
        return [end for end in ended if end is not None]

    def cancel_all(self) -> None:
        """See `Fleet.cancel_all`."""
        for member in self._members.values():
            member.actor.cancel.remote()

    def _end(self, name: str) -> RunEnded | None:
        member = self._members[name]
        run_id, member.run_id = member.run_id, None
        if run_id is None:
            self._welcome(member)
            return None
        try:
            ray.get(member.pending)
            member.pending = None
            return RunEnded(name, run_id)
        except RayError as error:
            member.pending, member.live = member.actor.describe.remote(), None
            return RunEnded(name, run_id, f"its worker failed: {last_line(error)}")

    def _welcome(self, member: _Member) -> None:
        """The worker answered who it is: it can take orders, or still carries one out."""
        try:
            live: Any = ray.get(member.pending)
        except ActorUnavailableError:
            member.pending = member.actor.describe.remote()
        except RayError as error:
            self._members = {name: other for name, other in self._members.items() if other is not member}
            if not self._members:
                raise ClusterError(f"no worker could be started: {last_line(error)}") from None
        else:
            member.live, member.run_id = live, live.run_id or None
            member.pending = member.actor.settle.remote() if member.run_id else None
