"""The campaign's git repository: every experiment is a commit, every run works in a checkout of one.

The repository is bare. `champion` is its checked-out branch, so a clone of it gives the best train.py and its
log tells the story; `experiments/<experiment_id>` names every experiment's commit, discards included. Commits
are made without a working tree. Git runs without hooks, without anybody's settings, and without the
variables that a calling git hook sets. Not covered: copies of the repository on other nodes.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

# Without this, importing GitPython on a machine without git fails in ten lines instead of one.
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
import git
from git.objects.fun import tree_to_stream
from gitdb import GitDB, IStream
from gitdb.exc import ODBError

from autohyp.errors import WorkspaceError

__all__ = ["CHAMPION_BRANCH", "Commit", "Workspace", "remove_tree"]

CHAMPION_BRANCH = "champion"
TARGET_FILE = "train.py"

_AUTHOR = git.Actor("autohyp", "autohyp@localhost")
_FILE_MODE = 0o100644
_ISOLATED = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
    # Command-line scope is the only one that still counts; a campaign's folder may belong to another user.
    "GIT_CONFIG_COUNT": "3",
    "GIT_CONFIG_KEY_0": "core.hooksPath",
    "GIT_CONFIG_VALUE_0": os.devnull,
    "GIT_CONFIG_KEY_1": "safe.directory",
    "GIT_CONFIG_VALUE_1": "*",
    "GIT_CONFIG_KEY_2": "core.attributesFile",
    "GIT_CONFIG_VALUE_2": os.devnull,
}
_OF_ANOTHER_REPOSITORY = frozenset(
    {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_NAMESPACE", "GIT_PREFIX",
     "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_CONFIG_PARAMETERS", "GIT_TEMPLATE_DIR"}
)  # fmt: skip
"""What git sets for its hooks: taken over, our commands would work on the caller's repository."""


@dataclass(frozen=True)
class Commit:
    """A commit of the campaign's repository with its difference to the parent."""

    commit: str
    parent_commit: str
    diff: str
    diff_stat: str

    @property
    def diff_hash(self) -> str:
        """Twelve hex digits that name the difference."""
        return hashlib.sha256(self.diff.encode()).hexdigest()[:12]


def remove_tree(folder: Path) -> None:
    """Remove what is at `folder`, also where a run took the right to write from its folders."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
        return
    with suppress(OSError):
        os.chmod(folder, 0o700)
    for parent, names, _ in os.walk(folder):
        for name in names:  # before it is looked into
            if not os.path.islink(path := os.path.join(parent, name)):
                os.chmod(path, 0o700)
    shutil.rmtree(folder, ignore_errors=True)


class Workspace:
    """Commits, refs and checkouts of one campaign's repository."""

    def __init__(self, repository: Path) -> None:
        try:
            # GitDB reads objects itself; the default keeps a `git cat-file` process alive. GitPython has
            # deprecated it for repositories that strangers write to: nobody but this class writes here.
            with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
                self._repo = git.Repo(repository, odbt=GitDB)
        except (git.InvalidGitRepositoryError, git.NoSuchPathError):
            raise WorkspaceError(
                f"{repository}: no git repository there; the campaign's folder is incomplete"
            ) from None
        self._sources: dict[tuple[str, str], str] = {}

    @classmethod
    def create(cls, repository: Path, files: Mapping[str, str], message: str) -> tuple[Self, str]:
        """A new repository whose first commit holds `files`; returns it and that commit."""
        repository.mkdir(parents=True, exist_ok=True)
        _git("init", "--quiet", "--bare", f"--initial-branch={CHAMPION_BRANCH}", str(repository))
        workspace = cls(repository)
        commit = workspace._commit({name: workspace._blob(text) for name, text in files.items()}, (), message)
        workspace.set_champion(commit.hexsha)
        return workspace, commit.hexsha

    def commit_experiment(self, experiment_id: str, parent: str, source: str, message: str) -> Commit:
        """Commit `source` as train.py on top of `parent`, under the experiment's own ref."""
        before = self._repo.commit(parent)
        blobs = {blob.name: blob.binsha for blob in before.tree.blobs} | {TARGET_FILE: self._blob(source)}
        commit = self._commit(blobs, (before,), message)
        self._set_branch(f"experiments/{experiment_id}", commit.hexsha)
        return Commit(
            commit=commit.hexsha,
            parent_commit=before.hexsha,
            diff=self._call(
                "diff", "--no-color", "--no-ext-diff", before.hexsha, commit.hexsha, "--", TARGET_FILE
            ),
            diff_stat=self._call("diff", "--shortstat", before.hexsha, commit.hexsha).strip(),
        )

    def set_champion(self, commit: str) -> None:
        """Move the champion branch."""
        self._set_branch(CHAMPION_BRANCH, commit)

    def read(self, commit: str, name: str = TARGET_FILE) -> str:
        """A file's text at a commit."""
        try:
            found = self._repo.commit(commit)
            key = (found.hexsha, name)  # a branch's name would soon mean something else
            if key not in self._sources:
                self._sources[key] = (found.tree / name).data_stream.read().decode()
        except (KeyError, ValueError, ODBError) as error:
            raise WorkspaceError(f"{self._repo.git_dir}: no {name} at {commit}: {error}") from None
        return self._sources[key]

    @contextmanager
    def checkout(self, commit: str, folder: Path) -> Iterator[Path]:
        """A worktree of `commit` at `folder`, removed at the end whatever happened in it."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._call("worktree", "add", "--quiet", "--force", "--detach", str(folder), commit)
        try:
            yield folder
        finally:
            self.remove_checkout(folder)

    def remove_checkout(self, folder: Path) -> None:
        """Remove a worktree and git's record of it, also when a run filled or broke it."""
        remove_tree(folder)
        self._call("worktree", "prune", "--expire=now")

    def clear_checkouts(self, folder: Path) -> None:
        """Remove every worktree under `folder`: what a session that was killed left behind."""
        for place in folder.glob("*"):
            self.remove_checkout(place)

    def close(self) -> None:
        """Release the repository's files and helper processes."""
        self._repo.close()

    # Plumbing --------------------------------------------------------------------------------

    def _blob(self, text: str) -> bytes:
        data = text.encode()
        return bytes(self._repo.odb.store(IStream("blob", len(data), io.BytesIO(data))).binsha)

    def _commit(
        self, blobs: Mapping[str, bytes], parents: tuple[git.Commit, ...], message: str
    ) -> git.Commit:
        """A commit of a flat folder: the target has no subfolders."""
        stream = io.BytesIO()
        tree_to_stream([(sha, _FILE_MODE, name) for name, sha in sorted(blobs.items())], stream.write)
        data = stream.getvalue()
        stored = self._repo.odb.store(IStream("tree", len(data), io.BytesIO(data)))
        tree = git.Tree(self._repo, stored.binsha, path="")
        return git.Commit.create_from_tree(
            self._repo, tree, message, list(parents), head=False, author=_AUTHOR, committer=_AUTHOR
        )

    def _set_branch(self, name: str, commit: str) -> None:
        self._call("update-ref", f"refs/heads/{name}", commit)

    def _call(self, *arguments: str) -> str:
        return _git(f"--git-dir={self._repo.git_dir}", *arguments)


def _git(*arguments: str) -> str:
    """Run a git command that sees neither hooks nor anybody's settings; WorkspaceError with its last line."""
    environment = {name: text for name, text in os.environ.items() if name not in _OF_ANOTHER_REPOSITORY}
    try:
        done = subprocess.run(
            ["git", *arguments], env=environment | _ISOLATED, stdin=subprocess.DEVNULL, capture_output=True
        )
    except FileNotFoundError:
        raise WorkspaceError("git is not installed; install it (Debian: apt-get install git)") from None
    if done.returncode:
        command = next(argument for argument in arguments if not argument.startswith("-"))
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise WorkspaceError(f"git {command} failed: {lines[-1] if lines else done.returncode}")
    return done.stdout.decode(errors="replace")
