"""The repository: every experiment has its commit, checkouts go away, nobody's settings or hooks count."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from autohyp.errors import WorkspaceError
from autohyp.execution.workspace import Workspace, remove_tree

FILES = {"train.py": "LR = 1\n", "prepare.py": "SEED = 42\n"}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "campaign" / "repo.git"


@pytest.fixture
def workspace(repository: Path) -> Workspace:
    return Workspace.create(repository, FILES, "The target as it came")[0]


def git(repository: Path, *arguments: str) -> list[str]:
    command = ["git", "-C", str(repository), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def num_worktrees(repository: Path) -> int:
    """Besides the bare repository itself."""
    return (
        sum(line.startswith("worktree ") for line in git(repository, "worktree", "list", "--porcelain")) - 1
    )


# Commits and refs ----------------------------------------------------------------------------


def test_a_new_repository_holds_the_target_on_its_champion_branch(repository: Path) -> None:
    workspace, commit = Workspace.create(repository, FILES, "The target as it came")
    assert git(repository, "rev-parse", "champion", "HEAD") == [commit, commit]
    assert {name: workspace.read("champion", name) for name in FILES} == FILES
    assert git(repository, "fsck", "--strict") == []


def test_every_experiment_has_a_ref_discards_too_and_the_champions_log_tells_the_story(
    workspace: Workspace, repository: Path
) -> None:
    kept = workspace.commit_experiment("exp-0001-a", "champion", "LR = 2\n", "Double LR\n\nWhy: it helps.\n")
    workspace.set_champion(kept.commit)
    lost = workspace.commit_experiment("exp-0002-b", kept.commit, "LR = 3\n", "Triple LR")
    best = workspace.commit_experiment("exp-0003-c", kept.commit, "LR = 4\n", "Quadruple LR")
    workspace.set_champion(best.commit)
    refs = git(repository, "for-each-ref", "--format=%(refname) %(objectname)")
    assert refs == [
        f"refs/heads/champion {best.commit}",
        f"refs/heads/experiments/exp-0001-a {kept.commit}",
        f"refs/heads/experiments/exp-0002-b {lost.commit}",
        f"refs/heads/experiments/exp-0003-c {best.commit}",
    ]
    assert git(repository, "log", "--format=%s", "champion") == [
        "Quadruple LR", "Double LR", "The target as it came",
    ]  # fmt: skip
    assert "Why: it helps." in git(repository, "log", "--format=%b", "champion")
    assert lost.parent_commit == best.parent_commit == kept.commit
    assert git(repository, "fsck", "--strict") == []


def test_a_commit_tells_its_difference(workspace: Workspace) -> None:
    commit = workspace.commit_experiment("exp-0001", "champion", "LR = 2\nX = 1\n", "m")
    assert "-LR = 1\n+LR = 2\n+X = 1\n" in commit.diff
    assert commit.diff_stat == "1 file changed, 2 insertions(+), 1 deletion(-)"
    assert len(commit.diff_hash) == 12
    same = workspace.commit_experiment("exp-0002", "champion", FILES["train.py"], "m")
    assert (same.diff, same.diff_stat) == ("", "")


def test_only_train_py_changes(workspace: Workspace) -> None:
    commit = workspace.commit_experiment("exp-0001", "champion", "LR = 2\n", "m").commit
    assert workspace.read(commit) == "LR = 2\n"
    assert workspace.read(commit, "prepare.py") == FILES["prepare.py"]


@pytest.mark.parametrize("source", ["", "no newline at the end", "ünïcode = '🙂'\n", "crlf = 1\r\nx = 2\r\n"])
def test_a_source_comes_back_as_it_was_from_the_repository_and_from_a_checkout(
    workspace: Workspace, tmp_path: Path, source: str
) -> None:
    commit = workspace.commit_experiment("exp-0001", "champion", source, "m").commit
    assert workspace.read(commit) == source
    with workspace.checkout(commit, tmp_path / "tree") as folder:
        assert (folder / "train.py").read_bytes() == source.encode()


def test_reading_a_branch_follows_it(workspace: Workspace) -> None:
    assert workspace.read("champion") == "LR = 1\n"
    workspace.set_champion(workspace.commit_experiment("exp-0001", "champion", "LR = 2\n", "m").commit)
    assert workspace.read("champion") == "LR = 2\n"


def test_another_workspace_sees_what_the_first_did(workspace: Workspace, repository: Path) -> None:
    other = Workspace(repository)
    commit = workspace.commit_experiment("exp-0001", "champion", "LR = 2\n", "m").commit
    assert other.read(commit) == "LR = 2\n"
    assert other.commit_experiment("exp-0002", commit, "LR = 3\n", "m").parent_commit == commit


def test_what_is_not_there_is_one_line(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="no git repository there"):
        Workspace(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WorkspaceError, match="no git repository there"):
        Workspace(tmp_path / "empty")
    for commit, name in (("0" * 40, "train.py"), ("nobody", "train.py"), ("champion", "other.py")):
        with pytest.raises(WorkspaceError, match=f"no {name} at {commit}") as caught:
            workspace.read(commit, name)
        assert "\n" not in str(caught.value)
    with pytest.raises(WorkspaceError, match="git update-ref failed"):
        workspace.set_champion("nonsense")


def test_without_git_the_error_says_what_to_install(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(WorkspaceError, match="install it"):
        workspace.set_champion("champion")


# Checkouts -----------------------------------------------------------------------------------


def test_a_checkout_is_there_and_then_gone(workspace: Workspace, repository: Path, tmp_path: Path) -> None:
    place = tmp_path / "a" / "b" / "source"
    with workspace.checkout("champion", place) as folder:
        assert sorted(path.name for path in folder.iterdir()) == [".git", "prepare.py", "train.py"]
        assert num_worktrees(repository) == 1
    assert not place.exists()
    assert num_worktrees(repository) == 0


def test_two_checkouts_of_one_commit_live_side_by_side(
    workspace: Workspace, repository: Path, tmp_path: Path
) -> None:
    with (
        workspace.checkout("champion", tmp_path / "w0" / "source") as one,
        workspace.checkout("champion", tmp_path / "w1" / "source") as two,
    ):
        (one / "train.py").write_text("changed")
        assert (two / "train.py").read_text() == "LR = 1\n"
        assert num_worktrees(repository) == 2
    assert num_worktrees(repository) == 0


def test_an_error_inside_removes_the_checkout_too(
    workspace: Workspace, repository: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt), workspace.checkout("champion", tmp_path / "tree"):
        raise KeyboardInterrupt
    assert not (tmp_path / "tree").exists()
    assert num_worktrees(repository) == 0


def fill(folder: Path) -> None:
    """What a run may leave: read-only files and folders, links to elsewhere, names of all kinds."""
    deep = folder / "cache" / "deep"
    deep.mkdir(parents=True)
    (deep / "weights").write_bytes(b"x" * 100)
    (folder / "link").symlink_to("/etc")
    (folder / "loop").symlink_to(folder)
    (folder / "new\nline").write_text("")
    (deep / "weights").chmod(stat.S_IRUSR)
    deep.chmod(stat.S_IRUSR)
    (folder / "cache").chmod(stat.S_IRUSR | stat.S_IXUSR)
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)


def remove_git(folder: Path) -> None:
    (folder / ".git").unlink()


def break_git(folder: Path) -> None:
    (folder / ".git").write_text("gitdir: /nowhere\n")


def remove_all(folder: Path) -> None:
    remove_tree(folder)


def replace_by_file(folder: Path) -> None:
    remove_tree(folder)
    folder.write_text("not a folder")


def replace_by_link(folder: Path) -> None:
    remove_tree(folder)
    folder.symlink_to("/etc")


BREAKERS = [fill, remove_git, break_git, remove_all, replace_by_file, replace_by_link]


@pytest.mark.parametrize("damage", BREAKERS, ids=lambda damage: damage.__name__)
def test_a_checkout_is_removed_even_when_the_run_broke_it(
    workspace: Workspace, repository: Path, tmp_path: Path, damage: object
) -> None:
    assert callable(damage)
    place = tmp_path / "tree"
    with workspace.checkout("champion", place) as folder:
        damage(folder)
    assert not os.path.lexists(place)
    assert num_worktrees(repository) == 0
    assert Path("/etc/passwd").is_file()
    with workspace.checkout("champion", place):
        assert num_worktrees(repository) == 1, "and the place can be used again"


_AS_AN_ORDINARY_USER = """
import os, sys
from pathlib import Path
from autohyp.execution.workspace import remove_tree
folder = Path(sys.argv[1])
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
(folder / "a" / "b").mkdir(parents=True)
(folder / "a" / "b" / "c").write_text("x")
for path in (folder / "a" / "b", folder / "a", folder):
    path.chmod(0)
remove_tree(folder)
sys.exit(folder.exists())
"""


def test_folders_without_any_rights_are_removed_by_an_ordinary_user_too() -> None:
    """Rights mean nothing to root, so this runs as somebody else."""
    with tempfile.TemporaryDirectory(dir="/tmp") as shared:
        os.chmod(shared, 0o777)
        command = [sys.executable, "-c", _AS_AN_ORDINARY_USER, f"{shared}/tree"]
        environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr


def test_what_a_dead_worker_left_behind_is_removed(
    workspace: Workspace, repository: Path, tmp_path: Path
) -> None:
    place = tmp_path / "tree"
    context = workspace.checkout("champion", place)
    context.__enter__()  # and never left
    Workspace(repository).remove_checkout(place)
    assert not place.exists()
    assert num_worktrees(repository) == 0


# Hooks and settings --------------------------------------------------------------------------


HOOKS = ("post-checkout", "reference-transaction", "update", "post-update", "pre-commit", "post-commit")


def write_hooks(folder: Path, marker: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in HOOKS:
        hook = folder / name
        hook.write_text(f"#!/bin/sh\ntouch {marker}\n")
        hook.chmod(0o755)


def life_of_an_experiment(workspace: Workspace, place: Path, source: str = "LR = 2\n") -> None:
    commit = workspace.commit_experiment("exp-0001", "champion", source, "m")
    workspace.set_champion(commit.commit)
    with workspace.checkout(commit.commit, place) as folder:
        assert (folder / "train.py").read_bytes() == source.encode()
    assert commit.diff.startswith("diff --git a/train.py b/train.py")


def test_hooks_of_the_repository_never_run(workspace: Workspace, repository: Path, tmp_path: Path) -> None:
    marker = tmp_path / "a-hook-ran"
    write_hooks(repository / "hooks", marker)
    life_of_an_experiment(workspace, tmp_path / "tree")
    assert not marker.exists()
    git(repository, "config", "core.hooksPath", str(repository / "hooks"))
    life_of_an_experiment(Workspace(repository), tmp_path / "tree", "LR = 3\n")
    assert not marker.exists()
    git(repository, "branch", "proof", "champion")
    assert marker.exists(), "the same hooks do run for a plain git"


def test_neither_settings_nor_hooks_nor_attributes_of_the_user_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker, home = tmp_path / "a-hook-ran", tmp_path / "home"
    write_hooks(home / "hooks", marker)
    write_hooks(home / "template" / "hooks", marker)
    (home / ".config" / "git").mkdir(parents=True)
    (home / ".config" / "git" / "attributes").write_text("* text eol=crlf\n")
    (home / ".gitconfig").write_text(
        f"[core]\n hooksPath = {home}/hooks\n autocrlf = true\n pager = false\n"
        f"[init]\n templateDir = {home}/template\n[diff]\n noprefix = true\n external = /bin/false\n"
        "[user]\n name = Somebody\n email = else@example.org\n[commit]\n gpgsign = true\n"
    )
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("GIT_TEMPLATE_DIR", str(home / "template"))
    workspace, _ = Workspace.create(tmp_path / "repo.git", FILES, "The target as it came")
    life_of_an_experiment(workspace, tmp_path / "tree")
    assert not marker.exists()
    assert not (tmp_path / "repo.git" / "hooks" / "post-checkout").exists()
    monkeypatch.undo()
    assert git(tmp_path / "repo.git", "log", "-1", "--format=%an", "champion") == ["autohyp"]


def test_inside_somebody_elses_git_hook_their_repository_is_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Git sets these for its hooks, a pre-push check that runs the tests for one."""
    theirs = tmp_path / "theirs"
    subprocess.run(["git", "init", "--quiet", str(theirs)], check=True)
    before = sorted(path for path in theirs.rglob("*"))
    monkeypatch.setenv("GIT_DIR", str(theirs / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(theirs))
    monkeypatch.setenv("GIT_INDEX_FILE", str(theirs / ".git" / "index"))
    workspace, _ = Workspace.create(tmp_path / "repo.git", FILES, "The target as it came")
    life_of_an_experiment(workspace, tmp_path / "tree")
    assert sorted(path for path in theirs.rglob("*")) == before
    assert (tmp_path / "repo.git" / "refs" / "heads" / "champion").is_file()


def test_no_process_is_left_behind(workspace: Workspace, tmp_path: Path) -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    life_of_an_experiment(workspace, tmp_path / "tree")
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before
    workspace.close()
