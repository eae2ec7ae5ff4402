"""Dishonest and broken training scripts against the real launcher in both sandboxes.

Each file in `cases` is a train.py and says itself what must become of it:

    EXPECTED = (status, reason)   both regular expressions, the reason's is searched for
    SETTINGS = {...}              fields of the TrainingJob other than the usual (a dict for `limits`)
    PATCHES = {...}               constants of autohyp, by full name, that save a test time
    RUNS = 2                      how often it runs, its scratch folder being cleared in between

The status `completed` means that the attack must be without effect: the run then has exactly the number of
the honest one, and nothing of what it tried may have succeeded. The status `preflight` means that the script
is refused before it runs. Attacks that are not stopped yet are described in known_holes.md.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from autohyp.execution.evaluation import load_evaluation_data
from autohyp.execution.preflight import check
from autohyp.execution.sandbox.base import Limits, Sandbox
from autohyp.execution.sandbox.bubblewrap import BubblewrapSandbox
from autohyp.execution.sandbox.landlock import LandlockSandbox
from autohyp.execution.trainer import OutcomeStatus, TrainingJob, TrainingOutcome, run_training
from autohyp.execution.workspace import remove_tree
from autohyp.testing import scripted_client
from autohyp.testing.scripted_client import Honest
from autohyp.testing.scripted_training import evaluate_model

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TEMPLATE = (ROOT / "train_template" / "train.py").read_text(encoding="utf-8")
BESIDE = (ROOT / "prepare.py", HERE / "kit.py", HERE / "torch_kit.py", Path(scripted_client.__file__))
HONEST_TORCH = "import torch_kit\n\ntorch_kit.run(torch_kit.Model())\n"
SUCCESS = "THE ATTACK SUCCEEDED"  # what kit.report prints
SECRET = "s3cret-of-the-host"
SHARED_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm", "/", "/run", "/etc", "/usr", "/root")
SANDBOXES: dict[str, Sandbox] = {
    sandbox.name: sandbox for sandbox in (BubblewrapSandbox(), LandlockSandbox())
}


@dataclass(frozen=True)
class Case:
    """One file of `cases`."""

    name: str
    source: str
    status: str
    reason: str
    settings: dict[str, Any] = field(default_factory=dict)
    patches: dict[str, float] = field(default_factory=dict)
    runs: int = 1

    @classmethod
    def read(cls, path: Path) -> Case:
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        assert ast.get_docstring(tree), f"{path.name} does not say what it tries"
        told: dict[str, Any] = {}
        for node in tree.body:
            match node:
                case ast.Assign(targets=[ast.Name(id="EXPECTED" | "SETTINGS" | "PATCHES" | "RUNS" as name)]):
                    told[name.lower()] = ast.literal_eval(node.value)
        status, reason = told.pop("expected")
        return cls(path.stem, source, status, reason, **told)


CASES = [Case.read(path) for path in sorted((HERE / "cases").glob("*.py"))]
RUN = [case for case in CASES if case.status != "preflight"]
READ = [case for case in CASES if case.status == "preflight"]


@cache
def honest_bpb(data: Path) -> float:
    """What the honest run measures, by the same evaluator in this process."""
    rows = load_evaluation_data(data, "val")
    result = evaluate_model(Honest(rows.vocab_size), rows)
    assert result.val_bpb is not None
    return result.val_bpb


def snapshot(*folders: Path) -> dict[str, tuple[int, ...]]:
    """What shows every change: nobody can set back the time of an inode's last change."""
    found: dict[str, tuple[int, ...]] = {}
    for folder in folders:
        for path in (folder, *folder.rglob("*")):
            status = path.lstat()
            found[str(path)] = (status.st_mode, status.st_size, status.st_nlink, status.st_ctime_ns)
    return found


def processes_of(folder: Path) -> list[str]:
    """Processes that work in `folder` or were told about it."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            is_of_run = os.readlink(process / "cwd").startswith(str(folder))
            is_of_run |= os.fsencode(folder) in (process / "environ").read_bytes()
            if is_of_run:
                found.append((process / "cmdline").read_text())
        except OSError:  # it has ended, or is somebody else's
            continue
    return found


class Ground:
    """Folders for the runs of one case, and what must be the same after each of them."""

    def __init__(self, host: Any, folder: Path) -> None:
        self._host = host
        self._folder = folder
        self._outside = folder / "outside"
        (self._outside / ".ssh").mkdir(parents=True)
        (self._outside / ".ssh" / "id_ed25519").write_text(SECRET)
        (self._outside / "journal.jsonl").write_text("{}\n")
        (folder / "logs").mkdir()
        self._source = folder / "source"
        self._source.mkdir()
        for path in BESIDE:
            shutil.copy(path, self._source)
        # What a checkout has: a file that leads to the repository.
        repository = self._outside / "repo.git"
        (repository / "hooks").mkdir(parents=True)
        (self._source / ".git").write_text(f"gitdir: {repository}/worktrees/source\n")

    def run(self, case: Case, sandbox: Sandbox) -> tuple[TrainingOutcome, str]:
        """One run and its log; asserts that it left nothing but its scratch, and removes that."""
        (self._source / "train.py").write_text(case.source, encoding="utf-8")
        unharmed = (self._source, self._outside, self._host.data)
        before = snapshot(*unharmed)
        token = f"autohyp-attack-{self._folder.name}"
        outside = {"ATTACK_OUTSIDE": str(self._outside), "ATTACK_TOKEN": token}
        settings: dict[str, Any] = {
            "budget_s": 2.0,
            "startup_allowance_s": 60.0,
            "evaluation_timeout_s": 60.0,
            **case.settings,
        }
        settings["limits"] = Limits(**settings.get("limits", {}))
        job = TrainingJob(
            run_id="run-1",
            source_dir=self._source,
            scratch_dir=self._folder / "scratch",
            data_dir=self._host.data,
            log_path=self._folder / "logs" / "train.log",
            seed=1,
            sandbox=sandbox,
            extra_environment=self._host.environment() | outside,
            **settings,
        )
        outcome = run_training(job)
        assert processes_of(self._folder) == []
        assert snapshot(*unharmed) == before
        assert [path for folder in SHARED_FOLDERS for path in Path(folder).glob(token + "*")] == []
        self._host.assert_unharmed()
        remove_tree(job.scratch_dir)
        assert sorted(path.name for path in self._folder.iterdir()) == ["logs", "outside", "source"]
        assert snapshot(*unharmed) == before
        return outcome, job.log_path.read_text(encoding="utf-8")


@pytest.fixture
def ground(host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ground:
    for name in ("ANTHROPIC_API_KEY", "AWS_SECRET_ACCESS_KEY", "SSH_AUTH_SOCK"):
        monkeypatch.setenv(name, SECRET)
    return Ground(host, tmp_path)


def usable(name: str) -> Sandbox:
    """The sandbox, or a skip where this machine has none of that kind; one that leaks is a failure."""
    reason = SANDBOXES[name].unavailable_reason()
    assert reason is None or "escaped" not in reason, reason
    if reason is not None:
        pytest.skip(f"{name}: {reason}")
    return SANDBOXES[name]


@pytest.mark.parametrize("name", SANDBOXES)
@pytest.mark.parametrize("case", RUN, ids=lambda case: case.name)
def test_attack(case: Case, name: str, ground: Ground, host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = usable(name)
    for constant, value in case.patches.items():
        monkeypatch.setattr(constant, value)
    for _ in range(case.runs):
        outcome, log = ground.run(case, sandbox)
        assert SUCCESS not in log, log
        assert re.fullmatch(case.status, outcome.status), (outcome, log)
        assert re.search(case.reason, outcome.reason), (outcome, log)
        for text in (outcome.reason, log, outcome.log_tail):
            assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text), "control characters get through"
        if outcome.status is OutcomeStatus.COMPLETED:
            assert outcome.val_bpb == pytest.approx(honest_bpb(host.data), rel=1e-6)
        else:
            assert outcome.val_bpb is outcome.val_bpb_legacy is None
            assert 10 < len(outcome.reason) < 600
            assert "\n" not in outcome.reason


@pytest.mark.parametrize("name", SANDBOXES)
def test_the_model_that_the_torch_cases_spoil_is_honest(name: str, ground: Ground) -> None:
    outcome, log = ground.run(Case("honest_torch", HONEST_TORCH, "completed", ""), usable(name))
    assert outcome.status is OutcomeStatus.COMPLETED, (outcome, log)


@pytest.mark.parametrize("case", READ, ids=lambda case: case.name)
def test_script_that_is_not_run(case: Case) -> None:
    report = check(case.source, TEMPLATE)
    assert any(re.search(case.reason, problem) for problem in report.problems), report.problems


def test_there_are_as_many_attacks_as_promised() -> None:
    assert len(CASES) >= 50
