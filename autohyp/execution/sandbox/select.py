"""Choosing a sandbox backend by name, or the best one that works here."""

from __future__ import annotations

from collections.abc import Callable

from autohyp.errors import SandboxUnavailableError
from autohyp.execution.sandbox.base import Sandbox
from autohyp.execution.sandbox.bubblewrap import BubblewrapSandbox
from autohyp.execution.sandbox.landlock import LandlockSandbox
from autohyp.execution.sandbox.unconfined import UnconfinedSandbox

__all__ = ["SANDBOX_NAMES", "select_sandbox"]

_CONFINING: dict[str, Callable[[], Sandbox]] = {
    "bubblewrap": BubblewrapSandbox,
    "landlock": LandlockSandbox,
}
SANDBOX_NAMES = ("auto", *_CONFINING, "none")

_ADVICE = "Install bubblewrap, or use Linux 5.13 or newer with Landlock; --sandbox none runs unprotected"


def select_sandbox(name: str = "auto") -> Sandbox:
    """The named backend, or for "auto" the first of bubblewrap and Landlock whose trial run holds.

    Raises SandboxUnavailableError, saying what to install, when there is none. "none" is only ever
    chosen by name.
    """
    if name == "none":
        return UnconfinedSandbox()
    if name != "auto" and name not in _CONFINING:
        choices = ", ".join(SANDBOX_NAMES)
        raise SandboxUnavailableError(f"there is no sandbox {name!r}; choose one of {choices}")
    reasons = []
    for candidate in _CONFINING if name == "auto" else (name,):
        sandbox = _CONFINING[candidate]()
        reason = sandbox.unavailable_reason()
        if reason is None:
            return sandbox
        reasons.append(f"{candidate}: {reason}")
    raise SandboxUnavailableError(f"no sandbox works here ({'; '.join(reasons)}). {_ADVICE}")
