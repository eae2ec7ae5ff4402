"""Every sandbox backend against the whole contract, as the user who runs it and as nobody."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import autohyp
from autohyp.execution.sandbox.base import Sandbox
from autohyp.execution.sandbox.bubblewrap import BubblewrapSandbox
from autohyp.execution.sandbox.landlock import LandlockSandbox
from autohyp.execution.sandbox.unconfined import UnconfinedSandbox
from autohyp.testing.sandbox_contract import CHECKS, KNOWN_FAILURES, ContractCheck

_SANDBOXES: dict[str, Sandbox] = {
    sandbox.name: sandbox for sandbox in (BubblewrapSandbox(), LandlockSandbox(), UnconfinedSandbox())
}
_CHECKS = {check.name: check for check in CHECKS}
_NOBODY = 65534

# What the system call filter must hold alone where the kernel's Landlock is too old to help.
_HELD_BY_THE_FILTER = (
    "unlisted_files_are_out_of_reach",
    "listed_files_cannot_be_changed",
    "nothing_is_written_outside",
    "links_do_not_lead_out",
    "tcp_is_cut",
    "udp_is_cut",
    "unix_sockets_are_cut",
    "other_processes_are_out_of_reach",
)


def _skip_unless_usable(sandbox: Sandbox) -> None:
    reason = sandbox.unavailable_reason()
    assert reason is None or "escaped" not in reason, reason
    if reason is not None:
        pytest.skip(f"{sandbox.name}: {reason}")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
@pytest.mark.parametrize("name", _SANDBOXES)
def test_contract(name: str, check: ContractCheck, tmp_path: Path) -> None:
    sandbox = _SANDBOXES[name]
    _skip_unless_usable(sandbox)
    if check.name not in KNOWN_FAILURES[name]:
        check.run(sandbox, tmp_path)
    elif os.geteuid() == 0:  # an ordinary user is kept from some of it even without a sandbox
        with pytest.raises(AssertionError):
            check.run(sandbox, tmp_path)


@pytest.mark.parametrize("name", _HELD_BY_THE_FILTER)
def test_landlock_of_the_oldest_kernels_holds(name: str, tmp_path: Path) -> None:
    sandbox = LandlockSandbox(max_abi=1)
    _skip_unless_usable(sandbox)
    _CHECKS[name].run(sandbox, tmp_path)


@pytest.mark.parametrize("abi", [2, 3, 4, 5, 6, 7])
def test_every_landlock_abi_holds_a_trial_run(abi: int) -> None:
    sandbox = LandlockSandbox(max_abi=abi)
    _skip_unless_usable(sandbox)


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that other users may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def _interpreter_for_everybody() -> str:
    found = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    version = "import sys; sys.exit(sys.version_info < (3, 11))"
    if found is None or subprocess.run([found, "-c", version], check=False).returncode:
        pytest.skip("no system-wide Python 3.11 that an ordinary user could run")
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("name", ["bubblewrap", "landlock"])
def test_contract_as_an_ordinary_user(name: str, public_folder: Path) -> None:
    _skip_unless_usable(_SANDBOXES[name])
    python = _interpreter_for_everybody()
    package = Path(autohyp.__file__).parent
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(package, public_folder / "code" / "autohyp", ignore=ignore)
    # Nobody could store compiled modules there, and every run would compile them anew.
    subprocess.run([python, "-m", "compileall", "-q", public_folder / "code"], check=True)
    work = public_folder / "work"
    work.mkdir()
    os.chown(work, _NOBODY, _NOBODY)
    result = subprocess.run(
        [python, "-m", "autohyp.testing.sandbox_contract", name, str(work)],
        user=_NOBODY,
        group=_NOBODY,
        extra_groups=[],
        cwd=public_folder / "code",
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(work)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{len(CHECKS)} checks, 0 surprises" in result.stdout


def test_the_list_of_known_failures_names_real_checks() -> None:
    assert set().union(*KNOWN_FAILURES.values()) <= set(_CHECKS)
    assert set(KNOWN_FAILURES) == set(_SANDBOXES)
