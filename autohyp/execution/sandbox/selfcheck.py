"""A trial run of a backend on this very machine: does it start at all, and does it hold?

A few small escapes are enough here; `autohyp.testing.sandbox_contract` tries them all.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from autohyp.errors import SandboxError
from autohyp.execution.sandbox.base import Limits, Sandbox, SandboxSpec

__all__ = ["escape_found"]

_HELD, _ESCAPED = "held", "escaped"
_SILENT = "it said nothing"
_TIMEOUT_S = 20.0
_PROBE = f"""
import os, socket, sys
scratch, outside = sys.argv[1:]
escapes = {{
    "it wrote outside its scratch folder": lambda: open(outside + "/written", "w"),
    "it read a file that was not listed": lambda: open(outside + "/secret"),
    "it reached the network": lambda: socket.socket().connect(("192.0.2.1", 9)),
    "it reached another process": lambda: os.kill(int(os.environ["LAUNCHER"]), 0),
}}
open(scratch + "/allowed", "w").close()
for name, attempt in escapes.items():
    try:
        attempt()
    except OSError:
        continue
    print("{_ESCAPED}:", name)
    break
else:
    print("{_HELD}")
"""


def escape_found(sandbox: Sandbox) -> str | None:
    """Why the backend cannot be used here, as a phrase, or `None` when it held.

    A trial that ends without a word is made once more: somebody may have killed it.
    """
    try:
        said = _run_probe(sandbox)
        if said == _SILENT:
            said = _run_probe(sandbox)
    except SandboxError as error:
        return f"a trial run failed: {error}"
    if said == _HELD:
        return None
    if said.startswith(_ESCAPED):
        return f"a trial run {said}"
    return f"a trial run failed: {said or 'it did not end in time'}"


def _run_probe(sandbox: Sandbox) -> str:
    """The last line that it printed."""
    with ExitStack() as resources:
        folder = Path(resources.enter_context(TemporaryDirectory(prefix="autohyp-sandbox-"))).resolve()
        scratch, outside = folder / "scratch", folder / "outside"
        scratch.mkdir()
        outside.mkdir()
        (outside / "secret").write_text("secret")
        log = os.memfd_create("sandbox-trial")
        resources.callback(os.close, log)
        spec = SandboxSpec(
            command=(sys.executable, "-I", "-S", "-c", _PROBE, str(scratch), str(outside)),
            cwd=scratch,
            stdout_fd=log,
            writable=(scratch,),
            environment={"LAUNCHER": str(os.getpid())},
            limits=Limits(memory_mb=512, processes=64, scratch_mb=64),
        )
        with sandbox.launch(spec) as process:
            if process.wait(_TIMEOUT_S) is None:
                return ""
        lines = os.pread(log, 65536, 0).decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else _SILENT
