"""Packing: nothing is lost, readers and the writer go on meanwhile, and it can be killed at any point."""

from __future__ import annotations

import fcntl
import logging
import subprocess
import threading
from pathlib import Path

import pytest

from autohyp.execution import packing
from autohyp.execution.packing import Packer, loose_objects, pack_repository
from autohyp.execution.workspace import Workspace

FILES = {"train.py": "LR = 1\n", "prepare.py": "SEED = 42\n"}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "repo.git"


@pytest.fixture
def workspace(repository: Path) -> Workspace:
    return Workspace.create(repository, FILES, "The target as it came")[0]


def git(repository: Path, *arguments: str) -> list[str]:
    command = ["git", "-C", str(repository), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def commit_some(workspace: Workspace, numbers: range) -> dict[str, str]:
    """Source by commit."""
    sources = [f"LR = {number}\n" for number in numbers]
    names = [f"exp-{number:04d}" for number in numbers]
    return {
        workspace.commit_experiment(name, "champion", source, "m").commit: source
        for name, source in zip(names, sources, strict=True)
    }


def test_all_is_there_after_packing_and_nothing_is_loose(workspace: Workspace, repository: Path) -> None:
    sources = commit_some(workspace, range(10, 30))
    refs = git(repository, "for-each-ref")
    pack_repository(repository)
    assert loose_objects(repository) == []
    assert [path for path in (repository / "refs").rglob("*") if path.is_file()] == []
    assert git(repository, "for-each-ref") == refs
    assert git(repository, "fsck", "--strict") == []
    assert {commit: workspace.read(commit) for commit in sources} == sources
    assert {commit: Workspace(repository).read(commit) for commit in sources} == sources


def test_work_goes_on_upon_what_was_packed(workspace: Workspace, repository: Path, tmp_path: Path) -> None:
    first = workspace.commit_experiment("exp-0001", "champion", "LR = 2\n", "m").commit
    pack_repository(repository)
    second = workspace.commit_experiment("exp-0002", first, "LR = 3\n", "m")
    assert second.parent_commit == first
    workspace.set_champion(first)
    pack_repository(repository)
    workspace.set_champion(second.commit)
    pack_repository(repository)
    assert workspace.read("champion") == Workspace(repository).read("champion") == "LR = 3\n"
    with workspace.checkout("champion", tmp_path / "tree") as folder:
        assert (folder / "train.py").read_text() == "LR = 3\n"
    assert git(repository, "log", "--format=%H", "champion")[:2] == [second.commit, first]


def test_one_writes_and_another_reads_while_it_is_packed_again_and_again(
    workspace: Workspace, repository: Path
) -> None:
    """Every commit is read in another workspace at once, and all of them at the end."""
    over = threading.Event()
    failures: list[Exception] = []

    def pack() -> None:
        try:
            while not over.is_set():
                pack_repository(repository)
        except Exception as error:
            failures.append(error)

    packer, reader = threading.Thread(target=pack), Workspace(repository)
    packer.start()
    try:
        sources: dict[str, str] = {}
        for number in range(60):
            made = commit_some(workspace, range(100 + number, 101 + number))
            (commit,) = made
            assert reader.read(commit) == made[commit]
            workspace.set_champion(commit)
            sources |= made
    finally:
        over.set()
        packer.join()
    assert failures == []
    assert git(repository, "rev-parse", "champion") == [commit]
    assert len(git(repository, "for-each-ref", "refs/heads/experiments")) == len(sources)
    assert {commit: Workspace(repository).read(commit) for commit in sources} == sources
    assert git(repository, "fsck", "--strict") == []


def test_it_is_started_in_the_background_every_so_many_and_counts_on_after_a_restart(
    workspace: Workspace, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autohyp.execution.workspace.Packer", lambda *a, **k: Packer(*a, **k, every=5))
    first = Workspace(repository)
    commit_some(first, range(10, 13))
    first.close()
    second = Workspace(repository)
    commit_some(second, range(13, 14))
    second.close()
    assert loose_objects(repository)
    commit_some(second, range(14, 15))
    second.close()
    assert loose_objects(repository) == []


def test_two_never_pack_at_once(workspace: Workspace, repository: Path) -> None:
    commit_some(workspace, range(10, 12))
    with (repository / "packing.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        pack_repository(repository)
        assert loose_objects(repository)
    pack_repository(repository)
    assert loose_objects(repository) == []


@pytest.mark.parametrize("killed_at", ["pack-objects", "prune-packed", "pack-refs"])
def test_the_next_one_does_the_rest_of_one_that_was_killed(
    workspace: Workspace, repository: Path, monkeypatch: pytest.MonkeyPatch, killed_at: str
) -> None:
    sources = commit_some(workspace, range(10, 20))
    refs = git(repository, "for-each-ref")
    run_git = packing.run_git

    def die(*arguments: str, **options: object) -> str:
        if killed_at in arguments:
            raise KeyboardInterrupt
        return run_git(*arguments, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(packing, "run_git", die)
        with pytest.raises(KeyboardInterrupt):
            pack_repository(repository)
    left = ["packed-refs.lock", "objects/pack/tmp_pack_x", "objects/pack/tmp_idx_x"]
    for name in left:
        (repository / name).touch()
    assert git(repository, "for-each-ref") == refs
    pack_repository(repository)
    assert not any((repository / name).exists() for name in left)
    assert loose_objects(repository) == []
    assert {commit: Workspace(repository).read(commit) for commit in sources} == sources
    assert git(repository, "for-each-ref") == refs
    assert git(repository, "fsck", "--strict") == []


def test_a_packing_that_fails_stops_nobody(
    workspace: Workspace, repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (commit,) = commit_some(workspace, range(10, 11))
    broken = repository / "objects" / commit[:2] / commit[2:]
    content = broken.read_bytes()
    broken.write_bytes(b"")
    packer = Packer(repository, num_loose=0, every=1)
    with caplog.at_level(logging.ERROR):
        packer.count()
        packer.wait()
    assert "it is tried again later" in caplog.text
    broken.write_bytes(content)
    packer.count()
    packer.wait()
    assert loose_objects(repository) == []
