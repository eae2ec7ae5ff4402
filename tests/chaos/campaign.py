"""One campaign under fire: its folder, its driver as a user would start it, and where its cluster is."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from autohyp.paths import CampaignPaths
from autohyp.testing.objectives import write_target

from .deck import SIMULATED

__all__ = ["ROOT", "Campaign", "environment", "make_campaign", "prepare_tiny_data"]

ROOT = Path(__file__).resolve().parents[2]
TINY_MODEL = {
    "DEPTH": 2,
    "ASPECT_RATIO": 16,
    "HEAD_DIM": 16,
    "TOTAL_BATCH_SIZE": 1024,
    "DEVICE_BATCH_SIZE": 16,
}
NUM_SIMULATED_WORKERS, WORKERS_PER_PROCESS = 8, 3
TAIL_LINES = 12


def environment(ray_folder: Path) -> dict[str, str]:
    """What every process of a lane inherits: nothing of the caller's campaign, and Ray's files in a place
    of their own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AUTOHYP_", "RAY_"))}
    return kept | {
        "PYTHONPATH": str(ROOT),
        "RAY_TMPDIR": str(ray_folder),
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
    }


def witnessed(environment: dict[str, str], acknowledgements: Path) -> dict[str, str]:
    """The environment of processes whose acknowledgements are listed."""
    hook = str(Path(__file__).parent / "hook")
    return environment | {
        "PYTHONPATH": f"{hook}{os.pathsep}{environment['PYTHONPATH']}",
        "AUTOHYP_CHAOS_ACKS": str(acknowledgements),
    }


@dataclass
class Campaign:
    """`num_experiments` is its limit, which it must reach exactly; `address` None starts a cluster with the
    driver."""

    folder: Path
    tag: str
    environment: dict[str, str]
    num_experiments: int
    acknowledgements: Path
    address: str | None = None
    process: subprocess.Popen[bytes] | None = None
    num_starts: int = 0
    exit_codes: list[int] = field(default_factory=list)

    @property
    def paths(self) -> CampaignPaths:
        return CampaignPaths(self.folder / "research" / self.tag)

    @property
    def log(self) -> Path:
        return self.folder / f"driver-{self.tag}.log"

    def start(self) -> None:
        """Begin it, or go on with it, in a session of its own as from a terminal."""
        begun = self.paths.journal.exists()
        arguments = ["resume", "--tag", self.tag] if begun else ["run", f"{self.tag}.yaml"]
        if self.address:
            arguments += ["--address", self.address]
        self.num_starts += 1
        with self.log.open("ab") as output:
            output.write(f"--- start {self.num_starts}: {' '.join(arguments)}\n".encode())
            output.flush()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "autohyp.cli.main", *arguments],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def exit_code(self) -> int | None:
        """How the driver ended, None while it runs."""
        return None if self.process is None else self.process.poll()

    def last_words(self) -> str:
        """The end of what the drivers printed."""
        with self.log.open(encoding="utf-8", errors="replace") as file:
            return "".join(deque(file, TAIL_LINES)).strip()


def make_campaign(
    lane: str, tag: str, folder: Path, data: Path, base: dict[str, str], rng: random.Random, scale: float
) -> Campaign:
    """Lay out a target and a configuration; `scale` (up to 1) makes short campaigns of long ones."""
    simulated = lane == SIMULATED
    num_experiments = round(scale * (rng.randint(200, 360) if simulated else rng.randint(14, 26)))
    config: dict[str, Any] = {
        "tag": tag,
        "profile": "cpu",
        "target": str(folder / "target"),
        # Here workers die by the hundred, and none of them is to blame.
        "workers": {"count": 2, "max_faults": 10_000},
        "limits": {"max_experiments": num_experiments},
        "ray": {"dashboard": False},
    }
    if simulated:
        config["simulation"] = {
            "trainer": "autohyp.testing.objectives:bowl",
            "time_scale": rng.uniform(0.015, 0.05),
            "workers_per_process": WORKERS_PER_PROCESS,
        }
        config["workers"]["count"] = NUM_SIMULATED_WORKERS
        config["researchers"] = ["random"]
        write_target(folder / "target")
    else:
        config["data"] = {"directory": str(data)}
        config["run"] = {"budget_s": 1.0, "constants": TINY_MODEL}
        config["decisions"] = {"baseline_runs": 2}
        _write_real_target(folder / "target", base)
    (folder / f"{tag}.yaml").write_text(yaml.safe_dump(config))
    acknowledgements = folder / f"acknowledged-{tag}.jsonl"
    return Campaign(folder, tag, witnessed(base, acknowledgements), num_experiments, acknowledgements)


def _write_real_target(target: Path, base: dict[str, str]) -> None:
    if not target.exists():
        command = [sys.executable, "-m", "autohyp.cli.main", "init", str(target)]
        subprocess.run(command, env=base, check=True, capture_output=True, timeout=60)


def prepare_tiny_data(folder: Path, base: dict[str, str]) -> Path:
    """Python's own modules as text, with a vocabulary of 512 and rows of 64 tokens."""
    data = folder / "data"
    pattern = str(Path(os.__file__).parent / "[a-m]*.py")
    command = [sys.executable, str(ROOT / "prepare.py"), "--source", "files", "--paths", pattern]
    sizes = ["--vocab-size", "512", "--sequence-len", "64", "--eval-tokens", "4096"]
    command += [*sizes, "--profile", "cpu", "--data", str(data)]
    subprocess.run(command, env=base, check=True, capture_output=True, timeout=120)
    return data
