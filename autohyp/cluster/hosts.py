"""The processes that host workers: where each belongs, and whether it shows signs of life.

A real worker is the only one of its process; many simulated ones may share one. Every process is asked for a
sign of life every `workers.heartbeat_s` and answers from a thread that does nothing else. Silence is measured
by the asking side's monotonic clock, and only while that side itself looked around: a machine that slept, or
an observer that was busy or restarted, makes nobody lost. Ray itself takes 17 s to notice a node's end.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnschedulableError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from autohyp.cluster.clients import ActorHandle, ObjectRef, last_line

__all__ = ["Hearing", "Host", "Place", "gpu_nodes", "gpu_places", "place_of", "start_host"]

MAX_GAP_S = 1.0
"""What counts at most of the time between two looks around."""

LIFE = "life"


@dataclass(frozen=True)
class Place:
    """A process that there should be: its actor's name, its workers, and its node (None: any)."""

    name: str
    worker_ids: tuple[str, ...]
    node_id: str | None = None


def _on_node(worker_id: str, node_id: str) -> Place:
    """The name tells the node, so that a restarted observer knows what it finds."""
    return Place(f"{worker_id}@{node_id}", (worker_id,), node_id)


def place_of(name: str) -> Place | None:
    """The place of a GPU worker's actor with this name, or None for other actors."""
    worker_id, at, node_id = name.partition("@")
    return _on_node(worker_id, node_id) if at else None


def gpu_nodes() -> dict[str, int]:
    """GPUs by node of the cluster, this process's node first."""
    here = ray.get_runtime_context().get_node_id()
    listed: Any = ray.nodes
    nodes = [node for node in listed() if node["Alive"]]
    nodes.sort(key=lambda node: (node["NodeID"] != here, node["NodeManagerAddress"], node["NodeID"]))
    return {node["NodeID"]: int(node["Resources"].get("GPU", 0)) for node in nodes}


def gpu_places(
    nodes: Mapping[str, int], present: Iterable[Place], spent: Mapping[str, str | None], limit: int | None
) -> list[Place]:
    """The places to be added for one worker a GPU, `limit` in total.

    `spent` are workers that were given up, with their node if it is known: they get no successor, and their
    number is not used again.
    """
    kept = [place for place in present if place.node_id in nodes]
    taken = {worker_id for place in kept for worker_id in place.worker_ids} | set(spent)
    held = [place.node_id for place in kept] + list(spent.values())
    numbers = (
        number for number in range(len(taken) + sum(nodes.values())) if f"worker-{number}" not in taken
    )
    wanted = [node_id for node_id, gpus in nodes.items() for _ in range(gpus - held.count(node_id))]
    room = min(limit or sum(nodes.values()), sum(nodes.values())) - len(held)
    return [
        _on_node(f"worker-{number}", node_id)
        for node_id, number in zip(wanted[: max(0, room)], numbers, strict=False)
    ]


class Hearing:
    """A clock that only runs while its owner looks around: a gap between two looks counts for little."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked_at_s = clock()
        self.now_s = 0.0

    def look(self) -> None:
        """Called before each look around."""
        now_s = self._clock()
        self.now_s += min(now_s - self._looked_at_s, MAX_GAP_S)
        self._looked_at_s = now_s


class Host:
    """A process that hosts workers, and its signs of life; `failure` says why it is no more."""

    def __init__(self, place: Place, actor: ActorHandle, hearing: Hearing) -> None:
        self.place = place
        self.actor = actor
        self.failure: str | None = None
        self._hearing = hearing
        self._asked: ObjectRef | None = None
        self._asked_s = -MAX_GAP_S
        self._heard_s: float | None = None
        self._raylet_pid: int | None = None

    @property
    def was_heard(self) -> bool:
        """Whether it ever answered: before, it is still starting, or waits for its GPU."""
        return self._heard_s is not None

    @property
    def silence_s(self) -> float:
        """Seconds since its last sign of life; 0 while it starts."""
        return 0.0 if self._heard_s is None else self._hearing.now_s - self._heard_s

    def listen(self, every_s: float) -> bool:
        """Whether it just gave a sign of life; asks for the next one when it is time."""
        heard = self._asked is not None and self._answered(self._asked)
        if self._asked is None and self._hearing.now_s - self._asked_s >= every_s:
            ask = self.actor.__ray_call__.options(concurrency_group=LIFE)
            self._asked = ask.remote(_show_life, self._raylet_pid)
            self._asked_s = self._hearing.now_s
        return heard

    def _answered(self, asked: ObjectRef) -> bool:
        ready, _ = ray.wait([asked], timeout=0)
        if not ready:
            return False
        self._asked = None
        try:
            answer: Any = ray.get(asked)
        except (ActorDiedError, ActorUnschedulableError) as error:
            self.failure = last_line(error)
            return False
        except RayError:  # unavailable: it may come back
            return False
        self._raylet_pid, self._heard_s = answer, self._hearing.now_s
        return True


def _show_life(actor: object, raylet_pid: int | None) -> int:
    """Runs in the process itself; one that outlived its node's raylet has no future, and ends at once."""
    if raylet_pid not in (None, os.getppid()):
        os._exit(1)
    return os.getppid()


def start_host(role: type[Any], place: Place, arguments: Sequence[Any], **resources: float) -> ActorHandle:
    """The place's actor: found by its name, or started.

    Ray neither restarts it nor repeats its calls: a run would then be repeated behind the observer's back.
    """
    remote: Any = ray.remote
    remote_class = remote(concurrency_groups={LIFE: 1})(role)
    node = place.node_id
    pinned = {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)} if node else {}
    options = {"name": place.name, "lifetime": "detached", "get_if_exists": True, "max_restarts": 0}
    return remote_class.options(**options, **pinned, **resources, max_task_retries=0).remote(*arguments)
