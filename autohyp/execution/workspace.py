"""The campaign's git repository: every experiment is a commit, every run works in a checkout of one.

The repository is bare. `champion` is its checked-out branch, so a clone of it gives the best train.py and its log
tells the story; `experiments/<experiment_id>` names every experiment's commit, discards included. Commits are
made without a working tree. Hooks and the configuration of user and system are never read. Not covered:
copies of the repository on other nodes.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

# Without this, importing GitPython on a machine without git fails in ten lines instead of one.
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
import git  # noqa: E402
from git.objects.fun import tree_to_stream  # noqa: E402
from gitdb import GitDB, IStream  # noqa: E402

from autohyp.errors import WorkspaceError  # noqa: E402

__all__ = ["CHAMPION_BRANCH", "Commit", "Workspace"]

CHAMPION_BRANCH = "champion"
TARGET_FILE = "train.py"

_AUTHOR = git.Actor("autohyp", "autohyp@localhost")
_FILE_MODE = 0o100644
_ISOLATED = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_TERMINAL_PROMPT": "0",
    # Command-line scope is the only one that still counts; a campaign's folder may belong to another user.
    "GIT_CONFIG_COUNT": "2",
    "GIT_CONFIG_KEY_0": "core.hooksPath",
    "GIT_CONFIG_VALUE_0": os.devnull,
    "GIT_CONFIG_KEY_1": "safe.directory",
    "GIT_CONFIG_VALUE_1": "*",
}


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


class Workspace:
    """Commits, refs and checkouts of one campaign's repository."""

    def __init__(self, repository: Path) -> None:
        try:
            # GitDB reads objects itself; the default keeps a `git cat-file` process alive.
            self._repo = git.Repo(repository, odbt=GitDB)
        except (git.InvalidGitRepositoryError, git.NoSuchPathError):
            raise WorkspaceError(
                f"{repository}: no git repository there; the campaign's folder is incomplete"
            ) from None
        self._repo.git.update_environment(**_ISOLATED)
        self._sources: dict[tuple[str, str], str] = {}

    @classmethod
    def create(cls, repository: Path, files: Mapping[str, str], message: str) -> tuple[Self, str]:
        """A new repository whose first commit holds `files`; returns it and that commit."""
        repository.mkdir(parents=True, exist_ok=True)
        git.Repo.init(repository, bare=True, initial_branch=CHAMPION_BRANCH, env=_ISOLATED).close()
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
            diff=self._call("diff", "--no-color", "--no-ext-diff", before.hexsha, commit.hexsha, "--", TARGET_FILE),
            diff_stat=self._call("diff", "--shortstat", before.hexsha, commit.hexsha).strip(),
        )

    def set_champion(self, commit: str) -> None:
        """Move the champion branch."""
        self._set_branch(CHAMPION_BRANCH, commit)

    def read(self, commit: str, name: str = TARGET_FILE) -> str:
        """A file's text at a commit."""
        key = (commit, name)
        if key not in self._sources:
            blob = self._repo.commit(commit).tree / name
            self._sources[key] = blob.data_stream.read().decode()
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
        shutil.rmtree(folder, ignore_errors=True)
        self._call("worktree", "prune", "--expire=now")

    def close(self) -> None:
        """Release the repository's files and helper processes."""
        self._repo.close()

    # Plumbing --------------------------------------------------------------------------------

    def _blob(self, text: str) -> bytes:
        data = text.encode()
        return bytes(self._repo.odb.store(IStream("blob", len(data), io.BytesIO(data))).binsha)

    def _commit(self, blobs: Mapping[str, bytes], parents: tuple[git.Commit, ...], message: str) -> git.Commit:
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
        """Run a git command without hooks; WorkspaceError with its last line."""
        try:
            return str(self._repo.git.execute(["git", *arguments], strip_newline_in_stdout=False))
        except git.GitCommandNotFound:
            raise WorkspaceError("git is not installed; install it (Debian: apt-get install git)") from None
        except git.GitCommandError as error:
            lines = str(error.stderr).replace("stderr:", "").strip(" \n'").splitlines()
            raise WorkspaceError(f"git {arguments[0]} failed: {lines[-1] if lines else error.status}") from None
