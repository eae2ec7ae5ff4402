"""The workers of a campaign, wherever on the cluster: made, found again, handed orders, waited for, let go.

Guarantees: a worker that failed, or gave no sign of life for `workers.lost_after_s`, ends its run with an
error at once, and takes orders again when it is heard again; what it still carries out from before is waited
for, and the ledger refuses its result. On the gpu profile there is a worker for every GPU of the cluster, or
`workers.count` of them; a node that comes or goes changes that within `RECONCILE_S`. A worker that cannot be
started `workers.max_faults` times in a row is given up. Campaigns do not see each other: every actor's name
belongs to the campaign's namespace. Not thread-safe.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util import list_named_actors

from autohyp.agents.base import RunEnded, RunOrder
from autohyp.cluster.clients import ActorHandle, ObjectRef, RayLedger, last_line
from autohyp.cluster.hosts import Hearing, Host, Place, gpu_nodes, gpu_places, place_of, start_host
from autohyp.cluster.simulated import SimulatedWorkersActor, hosts_of
from autohyp.config import CampaignConfig
from autohyp.errors import AutohypError, ClusterError, JournalError
from autohyp.records import WorkerLive

__all__ = ["RayFleet"]

log = logging.getLogger(__name__)

LOOK_S = 0.25
RECONCILE_S = 2.0
RESTART_REST_S = 1.0
"""Before a process that died is started again."""

MAX_WORKER_THREADS = 4
"""A real worker's: it is asked and cancelled while it runs."""


@dataclass
class _Member:
    """A worker; `awaited` is who it is (while `live` is None) or the end of its run, None when it is idle."""

    worker_id: str
    live: WorkerLive | None = None
    run_id: str | None = None
    awaited: ObjectRef | None = None
    is_leaving: bool = False


@dataclass
class _Group:
    """A process with its workers."""

    host: Host
    members: list[_Member]
    is_silent: bool = False


class RayFleet:
    """A `Fleet` of one worker a GPU, or one per share of the cores, or many simulated ones."""

    def __init__(
        self,
        config: CampaignConfig,
        root: Path,
        data_dir: Path,
        ledger: ActorHandle,
        drained: Iterable[str] = (),
        role: type[Any] | None = None,
    ) -> None:
        """Take over what an earlier observer left running; `drained` workers get no successor.

        `role` replaces the class of the real workers' actors.
        """
        self._config = config
        self._arguments = (root, config, data_dir, ledger)
        self._role = role
        self._telling = RayLedger(ledger)
        self._hearing = Hearing()
        self._groups: dict[str, _Group] = {}
        self._members: dict[str, _Member] = {}
        self._hosts: dict[str, Host] = {}
        self._ended: list[RunEnded] = []
        self._spent: dict[str, str | None] = dict.fromkeys(drained)
        self._why_spent: dict[str, str] = dict.fromkeys(self._spent, "it was drained")
        self._failures: dict[str, int] = {}
        self._restart_at_s: list[tuple[float, Place]] = []
        self._reconciled_s = -RECONCILE_S
        self._fixed = self._fixed_places()
        existing = set(list_named_actors())
        for name in existing:
            place = place_of(name)
            if place is not None:
                self._start(place)
        self._look()
        self._adopt([name for name in self._groups if name in existing])

    # What the observer asks ------------------------------------------------------------------

    def idle(self) -> list[WorkerLive]:
        """See `Fleet.idle`; a worker that is still starting, silent or being let go is not idle."""
        return [
            member.live
            for group in self._groups.values()
            for member in group.members
            if not group.is_silent
            and not member.is_leaving
            and member.live is not None
            and member.awaited is None
        ]

    def busy(self) -> dict[str, str]:
        """See `Fleet.busy`."""
        return {name: member.run_id for name, member in self._members.items() if member.run_id is not None}

    def num_workers(self) -> int:
        """See `Fleet.num_workers`: those that start count, those that are silent or being let go do not."""
        heard = (group for group in self._groups.values() if not group.is_silent)
        return sum(not member.is_leaving for group in heard for member in group.members)

    def assign(self, worker_id: str, order: RunOrder) -> None:
        """See `Fleet.assign`."""
        member = self._members[worker_id]
        member.run_id = order.run.run_id
        member.awaited = self._hosts[worker_id].actor.run.remote(worker_id, order)

    def wait(self, timeout_s: float) -> list[RunEnded]:
        """See `Fleet.wait`. Raises ClusterError when no worker is left."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            self._look()
            left_s = deadline_s - time.monotonic()
            if self._ended or left_s <= 0:
                ended, self._ended = self._ended, []
                return ended
            self._sleep(min(LOOK_S, left_s))

    def cancel_all(self) -> None:
        """See `Fleet.cancel_all`."""
        for group in self._groups.values():
            group.host.actor.cancel.remote()

    def drain(self, worker_id: str) -> None:
        """See `Fleet.drain`; a process goes when all of its workers are let go."""
        self._spend([worker_id], "it was drained")
        group = next((g for g in self._groups.values() if worker_id in g.host.place.worker_ids), None)
        if group is None:
            return
        self._members[worker_id].is_leaving = True
        group.host.actor.cancel.remote(worker_id)
        if all(member.is_leaving for member in group.members):
            self._let_go(group, "its worker was let go")

    # One look around -------------------------------------------------------------------------

    def _look(self) -> None:
        self._hearing.look()
        self._take_answers()
        for group in list(self._groups.values()):
            self._listen(group)
        self._restart()
        if self._hearing.now_s - self._reconciled_s >= RECONCILE_S:
            self._reconciled_s = self._hearing.now_s
            self._reconcile()
        if not self._groups and not self._restart_at_s and self._spent:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in sorted(self._why_spent.items()))
            raise ClusterError(f"no worker is left: {reasons}")

    def _sleep(self, timeout_s: float) -> None:
        """Until something awaited happens, or the time is over."""
        awaited = [member.awaited for member in self._members.values() if member.awaited is not None]
        if awaited:
            ray.wait(awaited, timeout=timeout_s)
        else:
            time.sleep(timeout_s)

    def _take_answers(self) -> None:
        awaited = {m.awaited: m for m in self._members.values() if m.awaited is not None}
        if awaited:
            ready, _ = ray.wait(list(awaited), num_returns=len(awaited), timeout=0)
            for reference in ready:
                self._take(awaited[reference], reference)

    def _take(self, member: _Member, reference: ObjectRef) -> None:
        """A worker said who it is, or its run came to an end; one that could not answer is asked anew."""
        is_description, member.awaited = member.live is None, None
        try:
            answer: Any = ray.get(reference)
        except RayError as error:
            member.live = None
            self._end(member, _failure(error))
            return
        if is_description:
            member.live, member.run_id = answer, answer.run_id or None
            if member.run_id is not None:
                member.awaited = self._hosts[member.worker_id].actor.settle.remote(member.worker_id)
        else:
            self._end(member)

    def _end(self, member: _Member, error: str | None = None) -> None:
        if member.run_id is not None:
            self._ended.append(RunEnded(member.worker_id, member.run_id, error))
            member.run_id = None

    def _listen(self, group: _Group) -> None:
        host = group.host
        if host.listen(self._config.workers.heartbeat_s):
            group.is_silent = False
            for member in group.members:
                if member.live is None and member.awaited is None:
                    member.awaited = host.actor.describe.remote(member.worker_id)
        elif host.failure is not None:
            self._bury(group, host.failure)
        elif not group.is_silent and host.silence_s > self._config.workers.lost_after_s:
            group.is_silent = True
            self._lose(group.members, f"its worker was lost: no sign of life for {host.silence_s:.1f} s")

    def _lose(self, members: Iterable[_Member], reason: str) -> None:
        for member in members:
            if member.live is not None:
                self._telling.heartbeat(WorkerLive(worker_id=member.worker_id, state="gone"))
            self._end(member, reason)
            member.live = member.awaited = None

    # Processes that come and go --------------------------------------------------------------

    def _bury(self, group: _Group, reason: str) -> None:
        """A process died: it is started again, unless it never got as far as to answer, again and again."""
        place = group.host.place
        self._remove(group, f"its worker failed: {reason}")
        failures = 0 if group.host.was_heard else self._failures.get(place.name, 0) + 1
        self._failures[place.name] = failures
        if failures >= self._config.workers.max_faults:
            log.error("%s is given up: %s", place.name, reason)
            self._spend(place.worker_ids, f"it could not be started: {reason}", place.node_id)
        else:
            self._restart_at_s.append((self._hearing.now_s + RESTART_REST_S, place))

    def _restart(self) -> None:
        due = [place for at_s, place in self._restart_at_s if at_s <= self._hearing.now_s]
        self._restart_at_s = [(at_s, place) for at_s, place in self._restart_at_s if place not in due]
        for place in due:
            self._start(place)

    def _reconcile(self) -> None:
        """As many processes as there should be, where they should be."""
        if self._fixed is not None:
            wanted, self._fixed = self._fixed, []
        else:
            wanted = self._follow_nodes()
        for place in wanted:
            self._start(place)

    def _follow_nodes(self) -> list[Place]:
        nodes = gpu_nodes()
        for group in list(self._groups.values()):
            if group.host.place.node_id not in nodes:
                self._let_go(group, "its worker was lost: its node is gone")
        self._restart_at_s = [(at_s, place) for at_s, place in self._restart_at_s if place.node_id in nodes]
        present = [group.host.place for group in self._groups.values()]
        present += [place for _, place in self._restart_at_s]
        return gpu_places(nodes, present, self._spent, self._config.workers.count)

    def _fixed_places(self) -> list[Place] | None:
        """The places that do not depend on the cluster's nodes; None when all do."""
        config = self._config
        worker_ids = [f"worker-{number}" for number in range(config.workers.count or 1)]
        if config.simulation is not None:
            return [Place(name, tuple(hosted)) for name, hosted in hosts_of(config, worker_ids)]
        if config.profile == "gpu":
            return None
        return [Place(worker_id, (worker_id,)) for worker_id in worker_ids]

    def _start(self, place: Place) -> None:
        """Find or make the place's process, for those of its workers that were not given up."""
        left = tuple(worker_id for worker_id in place.worker_ids if worker_id not in self._spent)
        if not left:
            return
        place = replace(place, worker_ids=left)
        host = Host(place, self._actor(place), self._hearing)
        group = _Group(host, [_Member(worker_id) for worker_id in place.worker_ids])
        self._groups[place.name] = group
        for member in group.members:
            self._members[member.worker_id] = member
            self._hosts[member.worker_id] = host

    def _actor(self, place: Place) -> ActorHandle:
        root, config, data_dir, ledger = self._arguments
        if config.simulation is not None:
            return start_host(SimulatedWorkersActor, place, (place.worker_ids, config, ledger), num_cpus=0)
        from autohyp.cluster.actors import WorkerActor  # they name one another

        is_gpu = config.profile == "gpu"
        resources = {"num_cpus": 0, "num_gpus": 1} if is_gpu else {"num_cpus": config.workers.cpus_per_worker}
        arguments = (place.worker_ids[0], root, config, data_dir, ledger)
        role = self._role or WorkerActor
        return start_host(role, place, arguments, max_concurrency=MAX_WORKER_THREADS, **resources)

    def _let_go(self, group: _Group, reason: str) -> None:
        ray.kill(group.host.actor)
        self._remove(group, reason)

    def _remove(self, group: _Group, reason: str) -> None:
        self._lose(group.members, reason)
        del self._groups[group.host.place.name]
        for member in group.members:
            del self._members[member.worker_id], self._hosts[member.worker_id]

    def _spend(self, worker_ids: Iterable[str], reason: str, node_id: str | None = None) -> None:
        for worker_id in worker_ids:
            host = self._hosts.get(worker_id)
            self._spent[worker_id] = host.place.node_id if host else node_id
            self._why_spent[worker_id] = reason

    def _adopt(self, names: list[str]) -> None:
        """Hear of the orders that workers of an earlier observer still carry out, or that these are lost."""
        deadline_s = time.monotonic() + self._config.workers.lost_after_s

        def unknown() -> Iterator[_Member]:
            groups = (self._groups[name] for name in names if name in self._groups)
            return (member for group in groups for member in group.members if member.live is None)

        while any(unknown()) and time.monotonic() < deadline_s:
            self._sleep(LOOK_S)
            self._look()


def _failure(error: RayError) -> str:
    """Why a run ended without a result, in words."""
    cause = error.cause if isinstance(error, RayTaskError) else None
    if isinstance(cause, JournalError):
        return f"its result was refused: {cause}"
    if isinstance(cause, AutohypError | OSError):
        return f"the run could not be started: {cause}"
    return f"its worker failed: {last_line(error)}"
