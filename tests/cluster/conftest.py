"""A campaign folder with real, small data, and the command line driven as a user would drive it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TINY_MODEL = {
    "DEPTH": 2,
    "ASPECT_RATIO": 16,
    "HEAD_DIM": 16,
    "TOTAL_BATCH_SIZE": 1024,
    "DEVICE_BATCH_SIZE": 16,
}
LINE_TIMEOUT_S = 170


@dataclass
class Campaign:
    """A laid-out folder, and every process tree that was started in it."""

    folder: Path
    environment: dict[str, str]
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    seen: list[psutil.Process] = field(default_factory=list)

    @property
    def root(self) -> Path:
        return self.folder / "research" / "tiny"

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command from beginning to end."""
        return subprocess.run(
            [sys.executable, "-m", "autohyp.cli.main", *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=LINE_TIMEOUT_S,
            check=False,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """A command in a process group of its own, as from a terminal."""
        process = subprocess.Popen(
            [sys.executable, "-m", "autohyp.cli.main", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def read_until(self, process: subprocess.Popen[str], wanted: Callable[[str], bool]) -> list[str]:
        """Lines of a started command up to the first one that is wanted."""
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if wanted(line):
                self.seen += psutil.Process(process.pid).children(recursive=True)
                return lines
        raise AssertionError("it ended too early:\n" + "".join(lines))

    def left_behind(self) -> list[str]:
        """Processes, mounts and checkouts that outlived what was started here."""
        _, alive = psutil.wait_procs(self.seen, timeout=15)
        found = [" ".join(process.cmdline())[:200] for process in alive if process.is_running()]
        found += [line for line in Path("/proc/mounts").read_text().splitlines() if str(self.folder) in line]
        found += [str(path) for path in (self.root / "live" / "worktrees").glob("*")]
        listed = subprocess.run(
            ["git", "-C", str(self.root / "repo.git"), "worktree", "list"],
            capture_output=True,
            text=True,
            check=True,
        )
        return found + listed.stdout.splitlines()[1:]


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python's own modules as text, with a vocabulary of 512 and rows of 64 tokens."""
    folder = tmp_path_factory.mktemp("data") / "tiny"
    pattern = str(Path(os.__file__).parent / "[a-m]*.py")
    command = [sys.executable, str(ROOT / "prepare.py"), "--source", "files", "--paths", pattern]
    sizes = ["--vocab-size", "512", "--sequence-len", "64", "--eval-tokens", "4096"]
    subprocess.run([*command, *sizes, "--profile", "cpu", "--data", str(folder)], check=True, timeout=120)
    return folder


@pytest.fixture
def campaign(tmp_path: Path, tiny_data: Path) -> Iterator[Campaign]:
    """A folder made by `autohyp init`, set to tiny models and runs of two seconds."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AUTOHYP_")}
    environment |= {"COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    made = Campaign(tmp_path / "campaign", environment)
    subprocess.run(
        [sys.executable, "-m", "autohyp.cli.main", "init", str(made.folder)], env=environment, check=True
    )
    config: dict[str, Any] = {
        "tag": "tiny",
        "profile": "cpu",
        "data": {"directory": str(tiny_data)},
        "run": {"budget_s": 2.0, "constants": TINY_MODEL},
        "workers": {"count": 2},
        "limits": {"max_experiments": 4},
        "ray": {"dashboard": False},
    }
    (made.folder / "campaign.yaml").write_text(yaml.safe_dump(config))
    yield made
    for process in made.processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
