"""The backend named "none": no confinement at all, and every result says so.

It still keeps the limits, hands over exactly the environment and descriptors that were asked for,
and ends the whole process tree. Code run this way can read and write whatever the user can, and use
the network; an unfriendly one can kill its supervisor and outlive its run.
"""

from __future__ import annotations

from autohyp.execution.sandbox.base import SandboxProcess, SandboxSpec, check_spec
from autohyp.execution.sandbox.process import launch_supervised

__all__ = ["UnconfinedSandbox"]


class UnconfinedSandbox:
    """Runs a command as it is; see `base.Sandbox`."""

    name = "none"

    def unavailable_reason(self) -> str | None:
        """Always available."""
        return None

    def launch(self, spec: SandboxSpec) -> SandboxProcess:
        """Start the command. Raises `SandboxError` when it could not be started."""
        check_spec(spec)
        return launch_supervised(spec)
