"""A Ray cluster of several nodes on this machine, in a process of its own that works in the lane's folder.

python -m tests.chaos.nodes NUM_NODES

prints the cluster's address, then adds a node for every line that it reads (and forgets the dead ones),
and takes the cluster down at the end of its input. The head has one core, every other node two.
"""

from __future__ import annotations

import subprocess
import sys
import traceback
from pathlib import Path
from typing import IO, Any

__all__ = ["Nodes"]

START_ATTEMPTS = 3
END_TIMEOUT_S = 20
NODE: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 80 * 2**20}


class Nodes:
    """The cluster, as the harness handles it."""

    def __init__(self, folder: Path, environment: dict[str, str], num_nodes: int) -> None:
        self._output = (folder / "nodes.log").open("ab")
        self.address = ""
        for _ in range(START_ATTEMPTS):  # Ray gives a node 30 s to start, a busy machine needs more
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.nodes", str(num_nodes)],
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._output,
                start_new_session=True,
            )
            self.address = _pipe(self._process.stdout).readline().decode().strip()
            if self.address:
                return
            self._end()
        raise RuntimeError(f"the nodes did not start; see {folder / 'nodes.log'}")

    @property
    def pid(self) -> int:
        return self._process.pid

    def add(self) -> None:
        """Ask for one more node; returns at once."""
        try:
            _pipe(self._process.stdin).write(b"add\n")
            _pipe(self._process.stdin).flush()
        except BrokenPipeError:
            return

    def close(self) -> None:
        """Take it down; what does not end in time is killed."""
        self._end()
        self._output.close()

    def _end(self) -> None:
        _pipe(self._process.stdin).close()
        try:
            self._process.wait(timeout=END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _pipe(self._process.stdout).close()


def _pipe(end: IO[bytes] | None) -> IO[bytes]:
    assert end is not None
    return end


def main() -> None:
    from ray.cluster_utils import Cluster

    import autohyp.cluster  # noqa: F401  Ray's settings, before Ray

    head = NODE | {"num_cpus": 1, "include_dashboard": False}
    cluster: Any = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(int(sys.argv[1])):
        cluster.add_node(**NODE)
    print(cluster.address, flush=True)
    for _ in sys.stdin:
        for node in list(cluster.worker_nodes):
            if not _has_raylet(node):
                cluster.remove_node(node, allow_graceful=False)
        try:
            cluster.add_node(wait=False, **NODE)
        except Exception:  # Ray gives it 30 s to start, a busy machine needs more: the others go on
            traceback.print_exc()
    cluster.shutdown()


def _has_raylet(node: Any) -> bool:
    [info] = node.all_processes["raylet"]
    return bool(info.process.poll() is None)


if __name__ == "__main__":
    main()
