"""What passes from one run to another through compiled kernels: nothing of the data, nothing of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from autohyp.agents.base import RunOrder
from autohyp.agents.verifier import Mute
from autohyp.agents.worker import Slot, Worker
from autohyp.config import CampaignConfig, RunConfig
from autohyp.execution.sandbox.base import Sandbox
from autohyp.execution.sandbox.bubblewrap import BubblewrapSandbox
from autohyp.execution.sandbox.landlock import LandlockSandbox
from autohyp.execution.workspace import Workspace
from autohyp.journal import events as ev
from autohyp.paths import CampaignPaths
from autohyp.records import Hardware, Run, RunStatus
from autohyp.testing.scripted_training import write_scripted_source, write_tiny_data

LEAVES_A_TRACE = """
import os
from pathlib import Path

cache = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
cache.mkdir(parents=True, exist_ok=True)
tokens = Path(os.environ["AUTOHYP_DATA"], "train", "00000.bin").read_bytes()
print("found:", sorted(path.read_text() for path in cache.iterdir()), "end")
(cache / "NAME").write_text(f"NAME saw {sum(tokens)}")
"""


@pytest.fixture
def commit(tmp_path: Path) -> Callable[[str], str]:
    """Commits a train.py that looks for traces of others and leaves its own."""
    data = write_tiny_data(tmp_path / "data")
    np.full(1000, 7, np.uint16).tofile(tmp_path / "data" / "train" / "00000.bin")
    write_scripted_source(tmp_path / "source", data.vocab_size)
    honest = (tmp_path / "source" / "train.py").read_text()
    future, rest = "from __future__ import annotations\n", honest
    assert future in rest
    paths = CampaignPaths(tmp_path / "t")
    workspace, target = Workspace.create(paths.repository, {"train.py": honest, "prepare.py": ""}, "target")

    def make(name: str) -> str:
        source = rest.replace(future, future + LEAVES_A_TRACE.replace("NAME", name), 1)
        return workspace.commit_experiment(name, target, source, name, "2026-01-01T00:00:00Z").commit

    return make


@pytest.mark.parametrize("sandbox", [BubblewrapSandbox(), LandlockSandbox()], ids=lambda box: box.name)
def test_a_run_finds_what_its_parent_left_without_having_seen_data(
    tmp_path: Path, commit: Callable[[str], str], sandbox: Sandbox
) -> None:
    paths = CampaignPaths(tmp_path / "t")
    base, child = commit("base"), commit("child")
    config = CampaignConfig(profile="cpu", run=RunConfig(share_kernels=True, budget_s=5))
    config = config.resolved(Hardware(cpus=1, memory_gb=4))
    worker = Worker(Slot("worker-0", "n", 1), config, paths, tmp_path / "data", Mute(), sandbox)

    def run(name: str, order_commit: str, base_commit: str, number: int) -> tuple[str, dict[str, object]]:
        ordered = Run(
            run_id=f"{name}.{number}",
            experiment_id=name,
            seed=number,
            attempt=1,
            worker_id="worker-0",
            node_id="n",
        )
        order = RunOrder(ordered, order_commit, name, name, base_commit=base_commit)
        ended = worker.measure(order)
        assert isinstance(ended, ev.RunFinished)
        assert ended.result.status is RunStatus.COMPLETED, ended.result
        found = ended.result.log_tail.partition("found: ")[2].partition(" end")[0]
        return found, dict(ended.result.integrity)

    assert run("child", child, "", 1)[0] == "[]"  # nobody told what it builds on
    assert run("base", base, base, 1)[0] == "['base saw 0']"
    found, told = run("child", child, base, 2)
    assert found == "['base saw 0']"
    assert told["kernels_from"] == base[:12]
    assert told["kernel_files"] == 1
    assert run("child", child, base, 3)[0] == "['base saw 0']"  # not what its own first run left
    assert sorted(path.name for path in paths.worktrees.glob("*")) == []
