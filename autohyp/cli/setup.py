"""`autohyp init`: lay out a folder in which a campaign can be run outside a clone of the repository."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from autohyp.cli.options import examples
from autohyp.cli.template import config_template
from autohyp.errors import ConfigError
from autohyp.paths import bundled_target, write_atomic

__all__ = ["lay_out", "register"]

_GITIGNORE = """\
__pycache__/
run.log
research/*
!research/README.md
"""

_RESEARCH_README = """\
# research/

One folder a campaign, named by its tag. `journal.jsonl` is the truth; everything else but `repo.git` and
the logs is written from it (`autohyp sync`). git ignores what is here.
"""

_BENCHMARKS_README = """\
# benchmarks/

Configurations to compare with, measured once on the same machine, data and budget. They are never where a
search starts.
"""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(epilog=examples("autohyp init my-search", "cd my-search && autohyp run"))(init)


def init(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder to make; it must be empty or new.")
    ],
    force: Annotated[
        bool,
        typer.Option("--force", help="Use a folder that holds other files; files already there are kept."),
    ] = False,
) -> None:
    """Lay out a campaign folder: train.py, prepare.py, program.md, and a self-explaining campaign.yaml."""
    written, kept = lay_out(directory, force=force)
    for name in kept:
        typer.echo(f"autohyp: kept {directory / name}, which was there", err=True)
    typer.echo(f"{directory}: {len(written)} files. Next: cd {directory} && autohyp run")


def lay_out(directory: Path, *, force: bool = False) -> tuple[list[str], list[str]]:
    """Write the files; returns the names written and, with `force`, those that were there and stay.

    Without `force` the folder appears whole or not at all. Raises ConfigError for a folder that is in use.
    """
    files = _files()
    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"{directory} is a file; name a folder to make")
    in_use = directory.is_dir() and any(directory.iterdir())
    if in_use and not force:
        raise ConfigError(
            f"{directory} is not empty; name a new folder, or add --force to keep what is there"
        )
    try:
        if in_use:
            return _fill(directory, files)
        _make(directory, files)
    except OSError as error:
        raise ConfigError(f"{directory}: cannot be written: {error.strerror or error}") from None
    return sorted(files), []


def _files() -> dict[str, str]:
    """Every file's text by its path in the folder."""
    files = {name: path.read_text(encoding="utf-8") for name, path in bundled_target().items()}
    files.setdefault("benchmarks/README.md", _BENCHMARKS_README)
    return files | {
        "campaign.yaml": config_template(),
        ".gitignore": _GITIGNORE,
        "research/README.md": _RESEARCH_README,
    }


def _make(directory: Path, files: dict[str, str]) -> None:
    """Build the folder beside its place and move it there."""
    directory = directory.absolute()
    directory.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        for name, text in files.items():
            (building / name).parent.mkdir(parents=True, exist_ok=True)
            (building / name).write_text(text, encoding="utf-8")
        building.chmod(0o777 & ~_umask())
        building.replace(directory)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current


def _fill(directory: Path, files: dict[str, str]) -> tuple[list[str], list[str]]:
    kept = sorted(name for name in files if (directory / name).exists())
    written = sorted(files.keys() - set(kept))
    for name in written:
        write_atomic(directory / name, files[name])
    return written, kept
