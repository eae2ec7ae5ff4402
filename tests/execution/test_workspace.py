"""The repository: every experiment has its commit, checkouts go away, nobody's settings or hooks count."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from autohyp.errors import WorkspaceError
from autohyp.execution.packing import pack_repository
from autohyp.execution.workspace import Workspace, commit_message, remove_tree
from autohyp.records import Experiment
from autohyp.testing.fakes import make_experiment, make_hypothesis

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


def test_what_is_not_there_is_one_line(workspace: Workspace, repository: Path, tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="no git repository there"):
        Workspace(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WorkspaceError, match="no git repository there"):
        Workspace(tmp_path / "empty")
    for commit, name in (("0" * 40, "train.py"), ("nobody", "train.py"), ("champion", "other.py")):
        with pytest.raises(WorkspaceError, match=f"no {name} at {commit}") as caught:
            workspace.read(commit, name)
        assert "\n" not in str(caught.value)
    with pytest.raises(WorkspaceError, match="nonsense is neither a branch nor the hash of a commit"):
        workspace.set_champion("nonsense")
    for act in (
        lambda: workspace.set_champion("0" * 40),
        lambda: workspace.commit_experiment("exp-0001", "0" * 40, "LR = 2\n", "m"),
    ):
        with pytest.raises(WorkspaceError, match="an object is missing or damaged"):
            act()
    assert git(repository, "for-each-ref", "--format=%(refname)") == ["refs/heads/champion"]


def test_without_git_the_error_says_what_to_install(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(WorkspaceError, match="install it"):
        Workspace.create(tmp_path / "other.git", FILES, "m")
    life_of_an_experiment(workspace, tmp_path / "tree")  # needs no git


def test_a_disk_that_takes_nothing_is_one_line_and_leaves_no_lock(
    workspace: Workspace, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    commit = workspace.commit_experiment("exp-0001", "champion", "LR = 2\n", "m").commit
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", full)
        with pytest.raises(WorkspaceError, match=r"champion: cannot be written: No space left"):
            workspace.set_champion(commit)
        with pytest.raises(WorkspaceError, match="cannot be written: No space left"):
            workspace.commit_experiment("exp-0002", "champion", "LR = 3\n", "m")
    assert not [path for pattern in ("*.lock", "tmp_obj_*") for path in repository.rglob(pattern)]
    assert git(repository, "fsck", "--strict") == []
    workspace.set_champion(commit)
    assert workspace.read("champion") == "LR = 2\n"


def test_a_lock_that_a_dead_process_left_does_not_hold_for_ever(
    workspace: Workspace, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autohyp.execution.loose._LOCK_WAIT_S", 0.01)
    commit = workspace.commit_experiment("exp-0001", "champion", "LR = 2\n", "m").commit
    (repository / "refs" / "heads" / "champion.lock").touch()
    workspace.set_champion(commit)
    assert git(repository, "rev-parse", "champion") == [commit]


def test_a_branch_is_not_moved_while_git_holds_its_lock(
    workspace: Workspace, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = workspace.commit_experiment("exp-0001", "champion", "LR = 2\n", "m").commit
    lock = repository / "refs" / "heads" / "champion.lock"
    lock.touch()
    seen = []

    def release(_: float) -> None:
        seen.append(git(repository, "rev-parse", "champion")[0])
        lock.unlink()

    monkeypatch.setattr(time, "sleep", release)
    workspace.set_champion(commit)
    assert seen == [git(repository, "rev-parse", f"{commit}^")[0]]
    assert git(repository, "rev-parse", "champion") == [commit]


# What is lost and made again -------------------------------------------------------------------


def experiment(workspace: Workspace, ordinal: int, parent: str, source: str) -> Experiment:
    """One that was committed as the observer does."""
    hypothesis = make_hypothesis(f"hyp-{ordinal}")
    made = make_experiment(ordinal, hypothesis)
    message = commit_message(hypothesis, made.experiment_id)
    commit = workspace.commit_experiment(made.experiment_id, parent, source, message, hypothesis.created_at)
    told = {"commit": commit.commit, "parent_commit": commit.parent_commit, "diff": commit.diff}
    return made.model_copy(update=told)


def test_equal_arguments_give_an_equal_commit_never_dated_before_its_parent(
    workspace: Workspace, repository: Path
) -> None:
    first = workspace.commit_experiment("exp-0001", "champion", "LR = 2\n", "m", "2099-01-01T00:00:00Z")
    again = workspace.commit_experiment("exp-0001", "champion", "LR = 2\n", "m", "2099-01-01T00:00:00.5Z")
    assert first.commit == again.commit
    for created_at in ("2026-01-01T00:00:00.000Z", "2026-01-01", "some day", ""):
        later = workspace.commit_experiment("exp-0002", first.commit, "LR = 3\n", "m", created_at).commit
        assert git(repository, "log", "-2", "--format=%ct", later) == ["4070908800"] * 2


def empty(repository: Path, lost: Experiment) -> None:
    """As after a power failure: files are there without their contents."""
    for name in (lost.commit, git(repository, "rev-parse", f"{lost.commit}^{{tree}}")[0]):
        path = repository / "objects" / name[:2] / name[2:]
        path.write_bytes(b"") if path.stat().st_mode & 0o200 else path.unlink()
    (repository / "refs" / "heads" / "experiments" / lost.experiment_id).write_bytes(b"")


def remove_everything(repository: Path, lost: Experiment) -> None:
    kept = git(repository, "rev-list", "--objects", "--no-object-names", "champion")
    for path in (repository / "objects").glob("??/*"):
        if path.parent.name + path.name not in kept:
            path.unlink()
    shutil.rmtree(repository / "refs" / "heads" / "experiments")


def spoil_the_source(repository: Path, lost: Experiment) -> None:
    name = git(repository, "rev-parse", f"{lost.commit}:train.py")[0]
    (repository / "objects" / name[:2] / name[2:]).write_bytes(b"\0" * 50)


@pytest.mark.parametrize("damage", [empty, remove_everything, spoil_the_source])
@pytest.mark.parametrize("source", ["LR = 2\n", "LR = 2", "", "LR = 2\r\n"])
def test_what_a_power_failure_took_is_made_again_from_the_journal(
    workspace: Workspace, repository: Path, damage: Callable[[Path, Experiment], None], source: str
) -> None:
    made = [experiment(workspace, 1, "champion", source)]
    made.append(experiment(workspace, 2, made[0].commit, source + "x = 1"))
    by_id = {one.experiment_id: one for one in made}
    refs = git(repository, "for-each-ref")
    assert workspace.restore(by_id, by_id.__getitem__) == []
    damage(repository, made[0])
    other = Workspace(repository)
    assert other.restore(by_id, by_id.__getitem__)[0] == made[0].experiment_id
    assert git(repository, "for-each-ref") == refs
    assert git(repository, "fsck", "--strict") == []
    assert [other.read(one.commit) for one in made] == [source, source + "x = 1"]
    assert other.restore(by_id, by_id.__getitem__) == []


def test_what_cannot_be_made_again_is_refused_in_one_line(workspace: Workspace, repository: Path) -> None:
    made = experiment(workspace, 1, "champion", "LR = 2\n")
    remove_everything(repository, made)
    other = made.model_copy(update={"diff": made.diff.replace("+LR = 2", "+LR = 3")})
    with pytest.raises(WorkspaceError, match=f"the commit of {made.experiment_id} is lost") as caught:
        Workspace(repository).restore([made.experiment_id], lambda _: other)
    assert "\n" not in str(caught.value)


def test_what_is_packed_is_not_asked_for(workspace: Workspace, repository: Path) -> None:
    made = experiment(workspace, 1, "champion", "LR = 2\n")
    pack_repository(repository)
    late = experiment(workspace, 2, "champion", "LR = 3\n")
    asked: list[str] = []
    by_id = {one.experiment_id: one for one in (made, late)}
    workspace.restore(by_id, lambda name: asked.append(name) or by_id[name])  # type: ignore[func-returns-value]
    assert asked == [late.experiment_id]


def test_the_champion_is_flushed_to_the_disk(
    workspace: Workspace, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = workspace.commit_experiment("exp-0001", "champion", "LR = 2\n", "m").commit
    flushed: list[str] = []
    fsync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: flushed.append(os.readlink(f"/proc/self/fd/{fd}")) or fsync(fd)
    )
    workspace.set_champion(commit)
    needed = git(repository, "rev-list", "--objects", "--no-object-names", "champion", f"^{commit}^")
    assert len(needed) == 3  # the commit, its folder, its train.py
    for name in needed:
        assert str(repository / "objects" / name[:2] / name[2:]) in flushed
        assert str(repository / "objects" / name[:2]) in flushed
    heads = repository / "refs" / "heads"
    assert {str(heads), str(heads / "champion.lock")} < set(flushed), "before it is renamed, and the name"


_COMMITS_FOR_EVER = """
import sys
from itertools import count
from pathlib import Path
from autohyp.execution.workspace import Workspace
workspace = Workspace(Path(sys.argv[1]))
for number in count(int(sys.argv[2])):
    commit = workspace.commit_experiment(f"exp-{number:05d}", "champion", f"LR = {number}\\n", "m").commit
    print(f"exp-{number:05d}", commit, flush=True)
"""


def test_a_process_killed_while_it_commits_leaves_a_valid_repository(
    workspace: Workspace, repository: Path
) -> None:
    told: dict[str, str] = {}
    for attempt in range(3):
        command = [sys.executable, "-c", _COMMITS_FOR_EVER, str(repository), str(len(told) + 10 * attempt)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(20 + attempt):
                name, _, commit = process.stdout.readline().strip().partition(" ")
                told[name] = commit
            process.kill()
            for line in process.stdout:
                name, _, commit = line.strip().partition(" ")
                if len(commit) == 40:
                    told[name] = commit
    refs = git(
        repository, "for-each-ref", "--format=%(refname:lstrip=3) %(objectname)", "refs/heads/experiments/"
    )
    found = dict(line.split() for line in refs)
    assert told.items() <= found.items(), "what was returned is there"
    assert len(found) - len(told) <= 3, "and at most one a kill that was not returned"
    assert git(repository, "fsck", "--strict", "--no-dangling") == []
    assert Workspace(repository).commit_experiment("exp-x", "champion", "LR = 0\n", "m").diff


# Checkouts -----------------------------------------------------------------------------------


def test_a_checkout_is_there_and_then_gone(workspace: Workspace, repository: Path, tmp_path: Path) -> None:
    place = tmp_path / "a" / "b" / "source"
    with workspace.checkout("champion", place) as folder:
        assert sorted(path.name for path in folder.iterdir()) == [".git", "prepare.py", "train.py"]
        assert num_worktrees(repository) == 1
        assert git(folder, "status", "--porcelain") == [], "git knows it as its own, and finds no change"
        assert git(folder, "rev-parse", "HEAD") == git(repository, "rev-parse", "champion")
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


def test_what_a_dead_worker_left_behind_is_replaced_by_the_next_checkout(
    workspace: Workspace, repository: Path, tmp_path: Path
) -> None:
    dead = workspace.checkout("champion", tmp_path / "tree")
    (dead.__enter__() / "left").touch()
    with Workspace(repository).checkout("champion", tmp_path / "tree") as folder:
        assert not (folder / "left").exists()
        assert num_worktrees(repository) == 1


def test_what_a_dead_session_left_behind_is_cleared_even_where_the_campaign_was_moved(
    workspace: Workspace, repository: Path, tmp_path: Path
) -> None:
    places = tmp_path / "worktrees"
    dead = [workspace.checkout("champion", places / name / "source") for name in ("w0", "w1")]
    for checkout in dead:
        checkout.__enter__()
    places.rename(tmp_path / "moved")
    assert num_worktrees(repository) == 2
    Workspace(repository).clear_checkouts(tmp_path / "moved")
    assert list((tmp_path / "moved").iterdir()) == []
    assert num_worktrees(repository) == 0
    assert list((repository / "worktrees").iterdir()) == []


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
