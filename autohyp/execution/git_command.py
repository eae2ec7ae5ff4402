"""Running git so that nobody's settings, hooks or surroundings count."""

from __future__ import annotations

import os
import shutil
import subprocess

from autohyp.errors import WorkspaceError

__all__ = ["run_git"]

_ISOLATED = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
    # What this package reads and writes itself, whatever newer versions of git begin a repository with.
    "GIT_DEFAULT_HASH": "sha1",
    "GIT_DEFAULT_REF_FORMAT": "files",
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


def run_git(
    *arguments: str, stdin: bytes = b"", yielding: bool = False, pass_fds: tuple[int, ...] = ()
) -> str:
    """What the command prints. Raises WorkspaceError with its last line.

    `yielding` runs it at the lowest priority; `pass_fds` stay open in it.
    """
    command = ["git", *arguments]
    if yielding and (nice := shutil.which("nice")):
        command = [nice, "-n", "19", *command]
    environment = {name: text for name, text in os.environ.items() if name not in _OF_ANOTHER_REPOSITORY}
    try:
        done = subprocess.run(
            command,
            env=environment | _ISOLATED,
            input=stdin,
            capture_output=True,
            pass_fds=pass_fds,
            check=False,
        )
    except FileNotFoundError:
        raise WorkspaceError("git is not installed; install it (Debian: apt-get install git)") from None
    if done.returncode:
        name = next(argument for argument in arguments if not argument.startswith("-"))
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise WorkspaceError(f"git {name} failed: {lines[-1] if lines else done.returncode}")
    return done.stdout.decode(errors="replace")
