"""Exit codes, one line per error, help."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from autohyp import __version__
from autohyp.cli import main as main_module
from autohyp.cli.main import app
from autohyp.errors import AutohypError, ClusterError, ConfigError, DataError, EditError, SandboxError


def one_line(err: str) -> str:
    (line,) = err.splitlines()
    assert line.startswith("autohyp: ")
    return line


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(main_module, "app", fail)


def test_version(call: Callable[..., Any]) -> None:
    outcome = call("--version")
    assert (outcome.code, outcome.out, outcome.err) == (0, f"autohyp {__version__}\n", "")


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_names_the_commands_and_the_exit_codes(
    call: Callable[..., Any], arguments: tuple[str, ...]
) -> None:
    outcome = call(*arguments)
    assert outcome.code == 0
    for words in ("status", "doctor", "init", "Exit codes", "130 interrupted", "autohyp run"):
        assert words in outcome.out


def test_every_command_has_help_that_shows_an_example(call: Callable[..., Any]) -> None:
    ours = {"status", "show", "diff", "log", "best", "report", "sync", "init", "doctor"}
    assert ours <= {command.callback.__name__ for command in app.registered_commands if command.callback}
    for name in sorted(ours):
        outcome = call(name, "--help")
        assert outcome.code == 0
        assert f"autohyp {name}" in outcome.out.partition("Examples")[2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("stauts",), "stauts"),
        (("status", "--jsn"), "--jsn"),
        (("show",), "EXP"),
        (("status", "--json", "--watch"), "choose one of"),
        (("best", "--json", "--source"), "choose one of"),
        (("status", "--interval", "0"), "--interval"),
    ],
)
def test_wrong_usage_is_one_line_and_2(
    call: Callable[..., Any], arguments: tuple[str, ...], words: str
) -> None:
    outcome = call(*arguments)
    assert outcome.code == 2
    assert words in one_line(outcome.err)
    assert "--help`" in outcome.err
    assert outcome.out == ""


@pytest.mark.parametrize("kind", [ConfigError, DataError, EditError, SandboxError, ClusterError])
def test_each_error_has_its_exit_code(
    call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, kind: type[AutohypError]
) -> None:
    raising(monkeypatch, kind("first\nsecond"))
    outcome = call("status")
    assert outcome.code == kind.exit_code
    assert one_line(outcome.err) == "autohyp: first second"


def test_an_interrupt_is_130(call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, KeyboardInterrupt())
    assert call("status").code == 130


def test_a_bug_is_one_line_and_its_traceback_on_demand(
    call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    raising(monkeypatch, KeyError("oops"))
    outcome = call("status")
    assert outcome.code == 1
    assert "KeyError" in one_line(outcome.err)
    assert "AUTOHYP_DEBUG=1" in outcome.err
    monkeypatch.setenv("AUTOHYP_DEBUG", "1")
    outcome = call("status")
    assert outcome.code == 1
    assert "Traceback" in outcome.err


def test_the_real_command_ends_with_the_code_and_imports_neither_ray_nor_torch() -> None:
    program = (
        "import sys; from autohyp.cli.main import main; code = main(['status', '--research', '/nowhere']); "
        "assert not {'ray', 'torch', 'matplotlib'} & set(sys.modules), 'too much imported'; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (4, "")
    assert one_line(done.stderr) == "autohyp: no campaign under /nowhere; `autohyp run` starts one"


def test_a_reader_that_has_enough_is_no_error(campaign: Any) -> None:
    """`autohyp status --json | head -1`: no traceback, exit 0."""
    command = f"{sys.executable} -m autohyp.cli.main show 1 --json | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("0\n", "")
