"""The `autohyp` command: all groups of commands, and every error as one line and an exit code.

A group is a module with `register(app)`. Modules are imported here, so they must be cheap to import: Ray
and torch are imported inside the commands that need them.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from autohyp import __version__
from autohyp.cli import control, doctor, look, run, setup, verify
from autohyp.errors import AutohypError

__all__ = ["app", "main"]

EXIT_INTERRUPTED = 130

_HELP = """Honest, unattended science on a small LLM training script.

autohyp proposes changes to train.py, tries each in a sandbox under a fixed budget, measures val_bpb
(bits per byte of validation text, lower is better) where the run cannot touch it, and keeps what is better by
more than the noise.
"""

_EPILOG = "\n\n".join(
    (
        "**First steps**",
        "`autohyp doctor`: is everything here that is needed?",
        "`autohyp run`: start a campaign on this machine; Ctrl-C ends it cleanly, `autohyp resume` goes on",
        "`autohyp best --source > train.py`: take home what was found",
        "**Exit codes**",
        "0 done · 1 unexpected error · 2 wrong usage or configuration · 3 data · 4 campaign, journal or "
        "repository · 5 an edit does not apply · 6 no sandbox · 7 Ray · 8 not confirmed · "
        "130 interrupted",
    )
)

app = typer.Typer(
    name="autohyp",
    help=_HELP,
    epilog=_EPILOG,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)
    ] = False,
) -> None:
    if version:
        typer.echo(f"autohyp {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit


# The order here is the order in `autohyp --help`.
for _group in (run, control, look, verify, setup, doctor):
    _group.register(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code, with any error as one line on standard error."""
    try:
        outcome = app(
            None if arguments is None else list(arguments), prog_name="autohyp", standalone_mode=False
        )
        sys.stdout.flush()
    except AutohypError as error:
        return _say(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _say("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        return _closed_pipe()
    except SystemExit as stop:
        # typer's way of ending when the reader of our output went away
        if isinstance(stop.__context__, BrokenPipeError):
            return _closed_pipe()
        raise
    except Exception as error:
        return _unexpected(error)
    return outcome if isinstance(outcome, int) else 0


def _say(message: str, code: int) -> int:
    print(f"autohyp: {' '.join(message.split())}", file=sys.stderr)
    return code


def _unexpected(error: Exception) -> int:
    """A usage error of typer's, or a bug."""
    describe = getattr(error, "format_message", None)
    if describe is not None:
        context = getattr(error, "ctx", None)
        where = context.command_path if context is not None else "autohyp"
        return _say(f"{describe().rstrip('.')}; see `{where} --help`", int(getattr(error, "exit_code", 2)))
    if os.environ.get("AUTOHYP_DEBUG"):
        traceback.print_exc()
        return 1
    name = type(error).__name__
    return _say(f"unexpected {name}: {error} (set AUTOHYP_DEBUG=1 for the traceback)", 1)


def _closed_pipe() -> int:
    """Whoever read the output has enough: not an error, but Python would complain when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
