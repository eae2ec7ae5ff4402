"""Prints docs/cli.md: every command with its help, as the command line itself gives it.

python docs/make_cli_page.py > docs/cli.md
"""

from __future__ import annotations

import re
from typing import Any

from typer.main import get_command

from autohyp.cli.main import app


def plain(text: str) -> str:
    """Help text without markup, one paragraph a block."""
    return re.sub(r"\[/?(bold|dim|italic)\]", "", text.replace("\\[", "[")).strip()


def describe(name: str, command: Any) -> list[str]:
    lines = [f"## `autohyp {name}`", "", plain(command.help or ""), ""]
    rows = [row for row in (describe_parameter(p) for p in command.params) if row]
    if rows:
        lines += ["| | |", "|---|---|", *rows, ""]
    if command.epilog:
        examples = [line for line in plain(command.epilog).splitlines() if line.strip()][1:]
        lines += [*(f"    {line.strip().strip(chr(96))}" for line in examples), ""]
    return lines


def describe_parameter(parameter: Any) -> str | None:
    value = parameter.metavar or "VALUE"
    help_text = plain(parameter.help or "").replace("|", "\\|")
    if parameter.param_type_name == "argument":
        return f"| `{value}` | {help_text} |"
    if parameter.name == "help":
        return None
    names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
    return f"| {names}{'' if parameter.is_flag else f' `{value}`'} | {help_text} |"


def main() -> None:
    group: Any = get_command(app)
    lines = ["# The command line", "", "Made by `docs/make_cli_page.py` from the commands' own help.", ""]
    lines += [plain(group.help or ""), ""]
    codes = next(line for line in plain(group.epilog or "").splitlines() if line.strip().startswith("0 "))
    lines += [f"Exit codes: {codes.strip()}.", ""]
    for name, command in group.commands.items():
        lines += describe(name, command)
    print("\n".join(lines).rstrip())


if __name__ == "__main__":
    main()
