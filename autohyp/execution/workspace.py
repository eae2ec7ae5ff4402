"""The campaign's git repository: every experiment is a commit, every run works in a checkout of one.

The repository is bare. `champion` is its checked-out branch, so a clone of it gives the best train.py and its
log tells the story; `experiments/<experiment_id>` names every experiment's commit, discards included. Commits
and worktrees are made in this process: git itself runs when a repository is begun and to pack it now and
then, without hooks and without anybody's settings.

What a killed process leaves is a valid repository, and `commit_experiment` returns when its objects and its
ref are in place. They are not flushed to the disk, but for the champion's: three fsyncs an experiment would
compete with the journal's. A commit is a function of what the journal holds of it, so whatever a power
failure took, or a killed process did not come to write, `restore` makes again, to the same hash. Not covered:
copies of the repository on other nodes.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Self, TypeVar

# Without this, importing GitPython on a machine without git fails in ten lines instead of one.
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
import git
from git.index.fun import write_cache
from git.index.typ import IndexEntry
from git.objects.fun import tree_to_stream
from gitdb import GitDB
from gitdb.exc import ODBError

from autohyp.errors import EditError, WorkspaceError
from autohyp.execution.git_command import run_git
from autohyp.execution.loose import Objects, flush, git_hash, loose_path, store, unlink, write_ref
from autohyp.execution.packing import Packer, loose_objects
from autohyp.patches import TARGET_NAME, apply_patch, git_diff, short_stat
from autohyp.records import Experiment, Hypothesis

__all__ = ["CHAMPION_BRANCH", "Commit", "Workspace", "commit_message", "remove_tree"]

CHAMPION_BRANCH = "champion"

_AUTHOR = "autohyp <autohyp@localhost>"
_FILE_MODE = 0o100644
_SHALLOW = 8
"""Folders so deep have paths that every call takes."""
_UNREADABLE = (ODBError, OSError, ValueError, IndexError, KeyError, zlib.error)
"""What GitPython raises for an object that is missing or damaged."""

_Found = TypeVar("_Found")


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


@dataclass(frozen=True)
class _Contents:
    """When a commit was made, the hash of its tree, and those of its files by name."""

    date_s: int
    tree: str
    blobs: Mapping[str, str]


def commit_message(hypothesis: Hypothesis, experiment_id: str) -> str:
    """A message that tells the experiment without the journal.

    It is part of what a commit is rebuilt from: changed, `restore` fails for campaigns begun before.
    """
    prediction = hypothesis.prediction
    expected = f"Prediction: {prediction.delta_bpb:+.4f} bpb\n" if prediction else ""
    return (
        f"{hypothesis.title}\n\n{hypothesis.rationale}\n\n{expected}"
        f"Experiment: {experiment_id}\n"
        f"Hypothesis: {hypothesis.hypothesis_id}\n"
        f"Researcher: {hypothesis.researcher}\n"
    )


def remove_tree(folder: Path) -> None:
    """Remove what is at `folder`, also where a run took the right to write from its folders.

    A run may nest folders deeper than a path may be long or a function may call itself. What it left would
    then stay for the next run to find: deep folders are first moved up.
    """
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
        return
    with suppress(OSError):
        os.chmod(folder, 0o700)
    pending = [str(folder)]
    while pending:
        top = pending.pop()
        for parent, names, _ in os.walk(top):
            names[:] = [name for name in names if not os.path.islink(os.path.join(parent, name))]
            for name in names:  # before it is looked into
                os.chmod(os.path.join(parent, name), 0o700)
            if parent.count(os.sep) - top.count(os.sep) >= _SHALLOW:
                while names:
                    # A fresh folder: the run may have taken any name that could be foreseen.
                    pending.append(os.path.join(tempfile.mkdtemp(dir=folder), "moved"))
                    os.rename(os.path.join(parent, names.pop()), pending[-1])
    shutil.rmtree(folder, ignore_errors=True)


class Workspace:
    """Commits, refs and checkouts of one campaign's repository; one process at a time makes commits."""

    def __init__(self, repository: Path) -> None:
        self._root = repository
        self._repo = self._open()
        self._packer = Packer(repository, num_loose=len(self._loose_experiments()))
        # Bounded, because a campaign may be long; enough for a champion and what is built on it.
        self._contents = lru_cache(maxsize=64)(self._contents_of)
        self._text = lru_cache(maxsize=64)(self._text_of)
        self._writer = ThreadPoolExecutor(1, "git-writer")
        self._unwritten: list[Future[None]] = []

    def _open(self) -> git.Repo:
        try:
            # GitDB reads objects itself; the default keeps a `git cat-file` process alive. GitPython has
            # deprecated it for repositories that strangers write to: nobody but this class writes here.
            with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
                return git.Repo(self._root, odbt=GitDB)
        except (git.InvalidGitRepositoryError, git.NoSuchPathError):
            raise WorkspaceError(
                f"{self._root}: no git repository there; the campaign's folder is incomplete"
            ) from None

    @classmethod
    def create(cls, repository: Path, files: Mapping[str, str], message: str) -> tuple[Self, str]:
        """A new repository whose first commit holds `files`; returns it and that commit, on disk."""
        repository.mkdir(parents=True, exist_ok=True)
        run_git("init", "--quiet", "--bare", f"--initial-branch={CHAMPION_BRANCH}", str(repository))
        workspace = cls(repository)
        blobs = {name: store(repository, "blob", text.encode()) for name, text in files.items()}
        objects = Objects()
        commit = workspace._commit(objects, blobs, None, message, int(time.time()))
        objects.write(repository)
        write_ref(workspace._ref_path(CHAMPION_BRANCH), commit)
        for parent, _, names in os.walk(repository):
            for name in names:
                flush(os.path.join(parent, name))
            flush(parent)
        return workspace, commit

    def commit_experiment(
        self,
        experiment_id: str,
        parent: str,
        source: str,
        message: str,
        created_at: str | None = None,
        *,
        in_background: bool = False,
    ) -> Commit:
        """Commit `source` as train.py on top of `parent`, under the experiment's own ref.

        `created_at` (ISO 8601; None: now) dates it, but never before its parent: equal arguments give an
        equal hash. `in_background`, its files need not be there before `settle` has returned.
        """
        before = self._resolve(parent)
        date_s = int(time.time()) if created_at is None else _seconds(created_at)
        objects = Objects()
        blobs = dict(self._contents(before).blobs) | {TARGET_NAME: objects.add("blob", source.encode())}
        commit = self._commit(objects, blobs, before, message, date_s)
        if in_background:
            self._unwritten.append(self._writer.submit(self._write, objects, experiment_id, commit))
        else:
            self._write(objects, experiment_id, commit)
        diff = git_diff(self.read(before), source)
        return Commit(commit, before, diff, short_stat(diff))

    def _write(self, objects: Objects, experiment_id: str, commit: str) -> None:
        """Creating files takes longer than all else, and is mostly waiting."""
        objects.write(self._root)
        write_ref(self._ref_path(f"experiments/{experiment_id}"), commit)
        self._packer.count()

    def settle(self) -> None:
        """Return when all that was committed is written. Raises WorkspaceError when something cannot be."""
        unwritten, self._unwritten = self._unwritten, []
        for written in unwritten:
            written.result()

    def restore(self, experiment_ids: Iterable[str], experiment: Callable[[str], Experiment]) -> list[str]:
        """Make again what of these experiments was lost or never written, in their order; returns whose.

        Only what was made since the last packing is looked up and read: packs are flushed to the disk. Raises
        WorkspaceError if a commit cannot be made again.
        """
        packed = set(self._packed_refs().split())
        unpacked = [name for name in experiment_ids if f"refs/heads/experiments/{name}" not in packed]
        lost = [found for name in unpacked if not self._is_whole(found := experiment(name))]
        if lost:
            for name in loose_objects(self._root):
                if not self._is_sound(name):
                    unlink(loose_path(self._root, name))
        for found in lost:
            self._make_again(found)
        return [found.experiment_id for found in lost]

    def set_champion(self, commit: str) -> None:
        """Move the champion branch; returns when the branch and what it leads to are on disk."""
        self.settle()
        commit = self._resolve(commit)
        if self._branch(CHAMPION_BRANCH) == commit:
            return
        for name in self._objects(commit):
            path = loose_path(self._root, name)
            with suppress(FileNotFoundError):  # it is in a pack, which git flushes
                flush(path)
                flush(os.path.dirname(path))
        write_ref(self._ref_path(CHAMPION_BRANCH), commit, flushed=True)

    def read(self, commit: str, name: str = TARGET_NAME) -> str:
        """A file's text at a commit."""
        try:
            return self._text(self._contents(self._resolve(commit)).blobs[name])
        except (KeyError, WorkspaceError) as error:
            raise WorkspaceError(f"{self._root}: no {name} at {commit}: {error}") from None

    @contextmanager
    def checkout(self, commit: str, folder: Path) -> Iterator[Path]:
        """A worktree of `commit` at `folder`, removed at the end whatever happened in it.

        What is at `folder` before, a dead worker's checkout, is replaced.
        """
        self.settle()
        self.remove_checkout(folder)
        try:
            self._make_worktree(self._resolve(commit), folder)
            yield folder
        finally:
            self.remove_checkout(folder)

    def remove_checkout(self, folder: Path) -> None:
        """Remove a worktree and git's record of it, also when a run filled or broke it."""
        if os.path.lexists(folder):
            remove_tree(folder)
        remove_tree(self._record(folder))

    def clear_checkouts(self, folder: Path) -> None:
        """Remove everything under `folder`, and git's records of worktrees that are gone.

        This is what a session that was killed left behind; nobody may be working in any.
        """
        for place in folder.glob("*"):
            remove_tree(place)
        for record in (self._root / "worktrees").glob("*"):
            try:
                is_gone = not Path((record / "gitdir").read_text().strip()).exists()
            except OSError:
                is_gone = True
            if is_gone:
                remove_tree(record)

    def close(self) -> None:
        """Release the repository's files, when what is being packed is packed."""
        self.settle()
        self._writer.shutdown()
        self._packer.wait()
        self._repo.close()

    # Worktrees -------------------------------------------------------------------------------

    def _record(self, folder: Path) -> Path:
        """Git's record of the worktree at `folder`: one name for one place, so that none stays behind."""
        place = str(folder.parent.resolve() / folder.name)
        return self._root / "worktrees" / f"{folder.parent.name}-{git_hash(place.encode())[:12]}"

    def _make_worktree(self, commit: str, folder: Path) -> None:
        """What `git worktree add --detach` makes, without its process and its locks."""
        record = self._record(folder)
        blobs = self._contents(commit).blobs
        folder.mkdir(parents=True)
        record.mkdir(parents=True)
        (record / "commondir").write_text("../..\n")
        (record / "gitdir").write_text(f"{folder.resolve() / '.git'}\n")
        (record / "HEAD").write_text(f"{commit}\n")
        (folder / ".git").write_text(f"gitdir: {record.resolve()}\n")
        entries = []
        for name, blob in sorted(blobs.items()):
            (folder / name).write_bytes(self.read(commit, name).encode())
            listed = git.Blob(self._repo, bytes.fromhex(blob), _FILE_MODE, name)
            listed.size = (folder / name).stat().st_size
            entries.append(IndexEntry.from_blob(listed))
        with (record / "index").open("wb") as index:
            write_cache(entries, index)

    # Reading ---------------------------------------------------------------------------------

    def _reading(self, read: Callable[[git.Repo], _Found]) -> _Found:
        """Read; once more with fresh eyes when that fails, for it may have been packed meanwhile.

        Raises WorkspaceError if that fails too.
        """
        self.settle()
        with suppress(*_UNREADABLE):
            return read(self._repo)
        self._repo.close()
        self._repo = self._open()
        try:
            return read(self._repo)
        except _UNREADABLE as error:
            raise WorkspaceError(
                f"{self._root}: an object is missing or damaged ({type(error).__name__}: {error})"
            ) from None

    def _contents_of(self, commit: str) -> _Contents:
        def read(repo: git.Repo) -> _Contents:
            found = git.Commit(repo, bytes.fromhex(commit))
            blobs = {blob.name: blob.hexsha for blob in found.tree.blobs}
            return _Contents(int(found.committed_date), found.tree.hexsha, blobs)

        return self._reading(read)

    def _objects(self, commit: str) -> list[str]:
        """The hashes of all that a commit is made of."""
        contents = self._contents(commit)
        return [commit, contents.tree, *contents.blobs.values()]

    def _text_of(self, blob: str) -> str:
        return self._reading(lambda repo: bytes(repo.odb.stream(bytes.fromhex(blob)).read()).decode())

    def _resolve(self, name: str) -> str:
        """The commit's hash that a hash or a branch means. Raises WorkspaceError if it is neither."""
        if len(name) == 40 and not set(name) - set("0123456789abcdef"):
            return name
        found = self._branch(name)
        if found is None:
            raise WorkspaceError(f"{name} is neither a branch nor the hash of a commit")
        return found

    def _branch(self, name: str) -> str | None:
        self.settle()
        with suppress(OSError):
            return Path(self._ref_path(name)).read_text().strip() or None
        packed = self._packed_refs()
        at = packed.find(f" refs/heads/{name}\n")
        return packed[at - 40 : at] if at >= 40 else None

    def _packed_refs(self) -> str:
        """The branches that git has moved into one file, a line each: the commit's hash, the full name."""
        try:
            return (self._root / "packed-refs").read_text()
        except FileNotFoundError:
            return ""

    def _loose_experiments(self) -> list[str]:
        try:
            return os.listdir(self._ref_path("experiments"))
        except FileNotFoundError:
            return []

    # Writing ---------------------------------------------------------------------------------

    def _ref_path(self, branch: str) -> str:
        return f"{self._root}/refs/heads/{branch}"

    def _commit(
        self, objects: Objects, blobs: Mapping[str, str], parent: str | None, message: str, date_s: int
    ) -> str:
        """A commit of a flat folder: the target has no subfolders."""
        stream = io.BytesIO()
        entries = [(bytes.fromhex(blob), _FILE_MODE, name) for name, blob in sorted(blobs.items())]
        tree_to_stream(entries, stream.write)
        lines = [f"tree {objects.add('tree', stream.getvalue())}"]
        if parent is not None:
            lines.append(f"parent {parent}")
            date_s = max(date_s, self._contents(parent).date_s)
        lines += [f"{role} {_AUTHOR} {date_s} +0000" for role in ("author", "committer")]
        text = message.replace("\0", "")  # which ends a message
        return objects.add("commit", "\n".join([*lines, "", text]).encode(errors="backslashreplace"))

    # What was lost -----------------------------------------------------------------------------

    def _is_whole(self, experiment: Experiment) -> bool:
        """Whether its ref and its objects hold what their names say."""
        if self._branch(f"experiments/{experiment.experiment_id}") != experiment.commit:
            return False
        try:
            return all(self._is_sound(name) for name in self._objects(experiment.commit))
        except WorkspaceError:
            return False

    def _is_sound(self, name: str) -> bool:
        """Whether a loose object is what its name says; one in a pack is."""
        try:
            return git_hash(zlib.decompress(Path(loose_path(self._root, name)).read_bytes())) == name
        except FileNotFoundError:
            self._reading(lambda repo: repo.odb.info(bytes.fromhex(name)))
            return True
        except (OSError, zlib.error):
            return False

    def _make_again(self, experiment: Experiment) -> None:
        """The same commit from what the journal holds of it; its parent is there, or was made again."""
        made, before_commit, hypothesis = "", experiment.parent_commit or "", experiment.hypothesis
        with suppress(WorkspaceError, EditError):
            before = self.read(before_commit)
            source = apply_patch(before, experiment.diff) if experiment.diff else before
            message = commit_message(hypothesis, experiment.experiment_id)
            made = self.commit_experiment(
                experiment.experiment_id, before_commit, source, message, hypothesis.created_at
            ).commit
        if made != experiment.commit:
            raise WorkspaceError(
                f"{self._root}: the commit of {experiment.experiment_id} is lost and cannot be made again "
                "from the journal; restore the repository from a copy"
            )


def _seconds(date: str) -> int:
    """Since 1970; 0 for what is no date or before."""
    try:
        read = datetime.fromisoformat(date)
    except ValueError:
        return 0
    return max(0, int((read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()))
