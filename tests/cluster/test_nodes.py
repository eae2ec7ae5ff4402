"""Workers over several nodes: Ray's cluster of nodes on one machine, with GPUs that only Ray believes in.

All is real but the training, which waits for a file and then has a result.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import yaml
from ray import cloudpickle
from ray.cluster_utils import Cluster

from autohyp.agents import worker as worker_module
from autohyp.agents.books import Books
from autohyp.agents.campaign import create_campaign
from autohyp.agents.observer import Observer
from autohyp.cluster.actors import LedgerActor, WorkerActor, as_actor
from autohyp.cluster.clients import RayLedger
from autohyp.cluster.fleet import RayFleet
from autohyp.cluster.hosts import MAX_GAP_S, Hearing, Place, gpu_nodes, gpu_places, place_of
from autohyp.cluster.leftovers import end_session_processes
from autohyp.config import CampaignConfig
from autohyp.errors import CampaignError, ClusterError
from autohyp.execution.job import TrainingJob, TrainingOutcome
from autohyp.execution.workspace import Workspace
from autohyp.journal import CampaignState, read_journal, replay
from autohyp.journal.events import RunLost
from autohyp.journal.follow import Follower
from autohyp.paths import CampaignPaths
from autohyp.records import Hardware
from autohyp.testing.objectives import write_target
from autohyp.testing.scripted_training import make_outcome

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]
cloudpickle.register_pickle_by_value(sys.modules[__name__])

DEADLINE_S = 90.0
NOTICED_WITHIN_S = 5.0


def waiting_training(job: TrainingJob) -> TrainingOutcome:
    """Stands for training: waits beside the journal for a file called after the run, then scores."""
    root = job.log_path.parents[2]
    while not (root / f"go-{job.run_id}").exists() and not (root / "go").exists():
        if job.cancelled():
            break
        time.sleep(0.05)
    return make_outcome(job, 1.0 + job.seed / 1e6)


class WaitingWorker(WorkerActor):
    """A worker with the training above."""

    def __init__(self, *arguments: Any) -> None:
        worker_module.run_training = waiting_training
        super().__init__(*arguments)


class Holder:
    """Somebody else's, who has a GPU."""


class BrokenWorker:
    """A worker that cannot be made; each try leaves a mark."""

    def __init__(self, worker_id: str, root: Path, *_: Any) -> None:
        with (root / "tries").open("a") as tries:
            tries.write("x")
        raise RuntimeError("no driver for this GPU")


@dataclass
class Lab:
    """A campaign's ledger, and what a test makes of its workers."""

    paths: CampaignPaths
    config: CampaignConfig
    ledger: Any

    def fleet(self, role: type[Any] = WaitingWorker, drained: tuple[str, ...] = ()) -> RayFleet:
        data_dir = self.paths.root
        return RayFleet(self.config, self.paths.root, data_dir, self.ledger, drained, role)

    def observer(self, fleet: RayFleet) -> Observer:
        workspace = Workspace(self.paths.repository)
        return Observer(self.config, Books(RayLedger(self.ledger)), fleet, workspace, [], sequence_len=256)

    def entries(self) -> list[Any]:
        return list(read_journal(self.paths.journal))

    def state(self) -> CampaignState:
        return replay(self.entries())

    def go(self, run_id: str = "") -> None:
        self.paths.root.joinpath(f"go-{run_id}" if run_id else "go").touch()


def until(wanted: Callable[[], bool], meanwhile: Callable[[], Any], deadline_s: float = DEADLINE_S) -> float:
    """Do something again and again until a condition holds; the seconds that it took."""
    started_s = time.monotonic()
    while not wanted():
        assert time.monotonic() - started_s < deadline_s, "it did not happen in time"
        meanwhile()
    return time.monotonic() - started_s


def patiently(start: Callable[[], Any]) -> Any:
    """Ray gives a node half a minute to start, which a busy machine may need more than once."""
    for _ in range(3):
        try:
            return start()
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
    return start()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    head = {"num_cpus": 2, "num_gpus": 0, "include_dashboard": False}
    made = patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
    session_dir = made.head_node.get_session_dir_path()
    yield made
    made.shutdown()
    assert end_session_processes(session_dir)  # a raylet that was killed leaves its agents


def add_node(cluster: Cluster, num_gpus: int) -> Any:
    return patiently(lambda: cluster.add_node(num_gpus=num_gpus, num_cpus=1))


@pytest.fixture
def lab(cluster: Cluster, tmp_path: Path) -> Iterator[Lab]:
    """A campaign on the cluster, in a namespace of its own; nodes added in the test go with it."""
    write_target(tmp_path / "target")
    config = CampaignConfig.model_validate(
        {"tag": "lab", "profile": "gpu", "sandbox": {"backend": "none"}, "run": {"budget_s": 1.0}}
    ).resolved(Hardware(cpus=2, memory_gb=4, gpus=("fake",)))
    target = {name: (tmp_path / "target" / name).read_text() for name in ("train.py", "prepare.py")}
    paths = create_campaign(tmp_path / "lab", config, target, {"data_sha256": "0" * 64})
    before = set(cluster.worker_nodes)
    namespace = f"lab-{os.getpid()}-{tmp_path.name}"
    ray.init(cluster.address, namespace=namespace, log_to_driver=False, logging_level=logging.ERROR)
    yield Lab(paths, config, as_actor(LedgerActor, "ledger").remote(paths.root))
    for name in ray.util.list_named_actors():
        ray.kill(ray.get_actor(name))
    for node in set(cluster.worker_nodes) - before:
        cluster.remove_node(node, allow_graceful=False)
    # Ray needs a while to know that a node was killed; the next test shall not begin with it.
    until(lambda: not any(gpu_nodes().values()), lambda: time.sleep(0.1))
    ray.shutdown()


def raylet_of(node: Any) -> psutil.Process:
    return psutil.Process(node.all_processes["raylet"][0].process.pid)


def worker_pid(fleet: RayFleet, worker_id: str) -> int:
    return next(live.pid for live in fleet.idle() if live.worker_id == worker_id)


# Nodes ---------------------------------------------------------------------------------------


def test_a_node_that_dies_is_noticed_in_time_and_its_run_goes_elsewhere(cluster: Cluster, lab: Lab) -> None:
    nodes = {node.node_id[:12]: node for node in (add_node(cluster, 1), add_node(cluster, 1))}
    fleet = lab.fleet()
    until(lambda: len(fleet.idle()) == 2, lambda: fleet.wait(0.2))
    observer = lab.observer(fleet)
    until(lambda: bool(lab.state().in_flight), lambda: observer.step(0.2))
    (lost,) = lab.state().in_flight.values()

    raylet_of(nodes[lost.node_id]).kill()
    took_s = until(lambda: lost.run_id not in lab.state().in_flight, lambda: observer.step(0.2))

    assert took_s <= NOTICED_WITHIN_S
    assert [entry.event.at_fault for entry in lab.entries() if isinstance(entry.event, RunLost)] == [True]
    lab.go()
    until(lambda: lab.state().num_results == 3, lambda: observer.step(0.2))
    assert not lab.state().drained
    results = [result for entry in lab.state().experiments.values() for result in entry.results]
    again = next(result for result in results if result.seed == lost.seed)
    assert again.attempt == 2
    assert again.node_id != lost.node_id
    assert sorted(result.seed for result in results) == [42, 43, 44]


def test_gpus_that_appear_get_workers_and_those_that_go_are_let_go(cluster: Cluster, lab: Lab) -> None:
    first = add_node(cluster, 1)
    fleet = lab.fleet()
    until(lambda: len(fleet.idle()) == 1, lambda: fleet.wait(0.2))
    second = add_node(cluster, 2)
    until(lambda: len(fleet.idle()) == 3, lambda: fleet.wait(0.2))
    idle = {live.worker_id: live for live in fleet.idle()}
    assert sorted(idle) == ["worker-0", "worker-1", "worker-2"]
    assert idle["worker-0"].node_id == first.node_id[:12]
    assert {idle[name].gpu_id for name in ("worker-1", "worker-2")} == {"0", "1"}

    # A restarted observer finds the same workers where they are.
    again = lab.fleet()
    assert {live.worker_id: live.pid for live in again.idle()} == {
        name: live.pid for name, live in idle.items()
    }
    cluster.remove_node(second, allow_graceful=True)
    until(lambda: again.num_workers() == 1, lambda: again.wait(0.2))
    assert [live.worker_id for live in again.idle()] == ["worker-0"]


def test_the_user_can_limit_the_workers(cluster: Cluster, lab: Lab) -> None:
    add_node(cluster, 2)
    lab.config = lab.config.model_copy(update={"workers": lab.config.workers.model_copy(update={"count": 1})})
    fleet = lab.fleet()
    until(lambda: len(fleet.idle()) == 1, lambda: fleet.wait(0.2))
    fleet.wait(2.5)  # longer than between two looks at the nodes
    assert fleet.num_workers() == 1


def test_a_gpu_that_somebody_else_has_is_waited_for(cluster: Cluster, lab: Lab) -> None:
    add_node(cluster, 1)
    holder: Any = ray.remote(num_gpus=1)(Holder)
    other = holder.remote()
    ray.get(other.__ray_ready__.remote())
    fleet = lab.fleet()
    fleet.wait(2.5)
    assert fleet.idle() == []
    ray.kill(other)
    until(lambda: len(fleet.idle()) == 1, lambda: fleet.wait(0.2))


# Lost and found ------------------------------------------------------------------------------


def test_a_worker_that_comes_back_after_it_was_given_up_is_free_again(cluster: Cluster, lab: Lab) -> None:
    add_node(cluster, 1)
    fleet = lab.fleet()
    until(lambda: len(fleet.idle()) == 1, lambda: fleet.wait(0.2))
    frozen = psutil.Process(worker_pid(fleet, "worker-0"))
    observer = lab.observer(fleet)
    until(lambda: bool(lab.state().in_flight), lambda: observer.step(0.2))
    (run_id,) = lab.state().in_flight

    frozen.suspend()
    try:
        took_s = until(lambda: not lab.state().in_flight, lambda: observer.step(0.2))
        assert took_s <= NOTICED_WITHIN_S
        assert fleet.idle() == []
        assert fleet.busy() == {}
    finally:
        frozen.resume()
    until(lambda: fleet.busy() == {"worker-0": run_id}, lambda: fleet.wait(0.2))
    lab.go(run_id)  # its late result comes to the ledger, which refuses it
    until(lambda: bool(lab.state().in_flight), lambda: observer.step(0.2))
    (second,) = lab.state().in_flight.values()
    assert (second.worker_id, second.attempt) == ("worker-0", 2)
    assert lab.state().num_results == 0
    lab.go()
    until(lambda: lab.state().num_results == 3, lambda: observer.step(0.2))
    assert frozen.is_running()


def test_a_restarted_observer_takes_running_workers_over(cluster: Cluster, lab: Lab) -> None:
    add_node(cluster, 1)
    fleet = lab.fleet()
    until(lambda: len(fleet.idle()) == 1, lambda: fleet.wait(0.2))
    observer = lab.observer(fleet)
    until(lambda: bool(lab.state().in_flight), lambda: observer.step(0.2))
    (run_id,) = lab.state().in_flight

    until(lambda: lab.fleet().busy() == {"worker-0": run_id}, lambda: None)
    fleet = lab.fleet()
    observer = lab.observer(fleet)
    assert list(lab.state().in_flight) == [run_id]
    lab.go()
    until(lambda: lab.state().num_results == 3, lambda: observer.step(0.2))
    assert not any(isinstance(entry.event, RunLost) for entry in lab.entries())


def test_a_worker_that_is_killed_is_made_anew(cluster: Cluster, lab: Lab) -> None:
    add_node(cluster, 1)
    fleet = lab.fleet()
    until(lambda: len(fleet.idle()) == 1, lambda: fleet.wait(0.2))
    pid = worker_pid(fleet, "worker-0")
    os.kill(pid, signal.SIGKILL)
    until(lambda: fleet.idle() != [] and worker_pid(fleet, "worker-0") != pid, lambda: fleet.wait(0.2))


# Workers that are given up -------------------------------------------------------------------


def test_a_drained_worker_gets_no_successor(cluster: Cluster, lab: Lab) -> None:
    add_node(cluster, 2)
    fleet = lab.fleet()
    until(lambda: len(fleet.idle()) == 2, lambda: fleet.wait(0.2))
    drained = psutil.Process(worker_pid(fleet, "worker-0"))
    fleet.drain("worker-0")
    fleet.drain("worker-0")
    until(lambda: not drained.is_running() or drained.status() == "zombie", lambda: fleet.wait(0.2))
    fleet.wait(2.5)  # longer than between two looks at the nodes
    assert [live.worker_id for live in fleet.idle()] == ["worker-1"]

    fleet = lab.fleet(drained=("worker-0",))
    fleet.wait(2.5)
    assert [live.worker_id for live in fleet.idle()] == ["worker-1"]
    fleet.drain("worker-1")
    with pytest.raises(ClusterError, match="no worker is left: worker-0: it was drained; worker-1"):
        until(lambda: False, lambda: fleet.wait(0.2))


def test_a_worker_that_cannot_be_started_is_given_up_with_the_reason(cluster: Cluster, lab: Lab) -> None:
    add_node(cluster, 1)
    fleet = lab.fleet(BrokenWorker)
    with pytest.raises(ClusterError, match=r"worker-0: it could not be started: .*no driver for this GPU"):
        until(lambda: False, lambda: fleet.wait(0.2))
    assert len((lab.paths.root / "tries").read_text()) == lab.config.workers.max_faults


def test_a_run_that_cannot_be_started_counts_against_its_worker(cluster: Cluster, lab: Lab) -> None:
    add_node(cluster, 1)
    worktrees = lab.paths.worktrees
    fleet = lab.fleet()
    until(lambda: len(fleet.idle()) == 1, lambda: fleet.wait(0.2))
    worktrees.parent.mkdir(exist_ok=True)
    worktrees.touch()  # a file where a folder belongs
    observer = lab.observer(fleet)
    until(lambda: observer.finished is not None, lambda: observer.step(0.2))
    [lost] = [entry.event for entry in lab.entries() if isinstance(entry.event, RunLost)]
    assert "the run could not be started" in lost.reason
    assert lost.at_fault
    state = lab.state()
    assert state.worker_faults == {"worker-0": 2}
    (entry,) = state.experiments.values()
    assert "the run could not be started" in entry.results[0].reason
    assert "the baseline does not run" in observer.finished


# Two campaigns -------------------------------------------------------------------------------


def test_two_campaigns_on_one_cluster_do_not_see_each_other(cluster: Cluster, tmp_path: Path) -> None:
    config = {
        "tag": "same",
        "profile": "cpu",
        "researchers": ["random"],
        "run": {"budget_s": 0.2, "constants": {}},
        "workers": {"count": 2},
        "limits": {"max_experiments": 3},
        "simulation": {"trainer": "autohyp.testing.objectives:bowl"},
        "ray": {"address": cluster.address},
    }
    folders = [tmp_path / "here", tmp_path / "there"]
    processes = []
    for folder in folders:
        write_target(folder)
        (folder / "campaign.yaml").write_text(yaml.safe_dump(config))
        command = [sys.executable, "-m", "autohyp.cli.main", "run"]
        processes.append(
            subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
    said = [process.communicate(timeout=DEADLINE_S * 2)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    for folder in folders:
        state = replay(read_journal(folder / "research" / "same" / "journal.jsonl"))
        assert len(state.decision_order) == 3
        assert len(state.sessions) == 1
    ray.init(cluster.address, namespace="look", log_to_driver=False, logging_level=logging.ERROR)
    left = json.dumps(ray.util.list_named_actors(all_namespaces=True))
    ray.shutdown()
    assert "same" not in left


def test_roles_that_outlive_their_driver_end_with_the_resume_that_has_nothing_to_do(
    cluster: Cluster, tmp_path: Path
) -> None:
    """They went on to the campaign's end: whoever looks next is refused, and must leave the cluster free."""
    config = {
        "tag": "orphan",
        "profile": "cpu",
        "researchers": ["random"],
        "run": {"budget_s": 1.0, "constants": {}},
        "workers": {"count": 2},
        "limits": {"max_experiments": 8},
        "simulation": {"trainer": "autohyp.testing.objectives:bowl"},
        "ray": {"address": cluster.address},
    }
    write_target(tmp_path)
    (tmp_path / "campaign.yaml").write_text(yaml.safe_dump(config))
    paths = CampaignPaths(tmp_path / "research" / "orphan")
    command = [sys.executable, "-m", "autohyp.cli.main"]
    driver = subprocess.Popen([*command, "run"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    assert any("val_bpb" in line for line in driver.stdout)
    driver.kill()
    driver.communicate()
    ends = Follower(paths.journal)
    until(lambda: ends.update().ended is not None, lambda: time.sleep(0.1))
    done = subprocess.run([*command, "resume"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == CampaignError.exit_code, done
    assert "the limit of 8 experiments is reached" in done.stderr
    assert not paths.live_workers.exists()
    ray.init(cluster.address, namespace="look", log_to_driver=False, logging_level=logging.ERROR)
    left = json.dumps(ray.util.list_named_actors(all_namespaces=True))
    ray.shutdown()
    assert "orphan" not in left


# Without a cluster ---------------------------------------------------------------------------


def test_a_gap_between_two_looks_counts_for_little() -> None:
    now_s = 100.0
    hearing = Hearing(lambda: now_s)
    for step_s in (0.25, 600.0, 0.25):
        now_s += step_s
        hearing.look()
    assert hearing.now_s == 0.5 + MAX_GAP_S


def test_places_follow_the_gpus_of_the_nodes() -> None:
    first = gpu_places({"a": 2, "b": 1}, [], {}, None)
    assert [place.name for place in first] == ["worker-0@a", "worker-1@a", "worker-2@b"]
    assert [place_of(place.name) for place in first] == first
    assert place_of("ledger") is None
    assert gpu_places({"a": 2, "b": 1}, first, {}, None) == []
    # b went, c came: the free number is used again.
    assert gpu_places({"a": 2, "c": 1}, first, {}, None) == [Place("worker-2@c", ("worker-2",), "c")]


def test_a_worker_that_was_given_up_keeps_its_gpu_and_its_number() -> None:
    left = [Place("worker-1@a", ("worker-1",), "a")]
    assert gpu_places({"a": 2}, left, {"worker-0": "a"}, None) == []
    assert gpu_places({"a": 2}, left, {"worker-0": None}, None) == []
    added = gpu_places({"a": 2, "b": 1}, left, {"worker-0": "a"}, None)
    assert [place.name for place in added] == ["worker-2@b"]
    assert gpu_places({"a": 2, "b": 4}, left, {"worker-0": "a"}, 2) == []
