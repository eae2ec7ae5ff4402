"""A client from outside that writes notes into a running campaign's ledger and keeps its own list of what
it was told.

python -m tests.chaos.notes ADDRESS NAMESPACE INTENTIONS ACKNOWLEDGEMENTS

A note's key is written to INTENTIONS before it is sent and to ACKNOWLEDGEMENTS after the ledger
acknowledged it; what an earlier client of the same files left open is sent again first. It ends with its
input, or when the cluster is gone.
"""

from __future__ import annotations

import json
import logging
import os
import select
import subprocess
import sys
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

__all__ = ["NotesClient"]

INTERVAL_S = 0.25


class NotesClient:
    """The client's process, as the harness handles it."""

    def __init__(self, folder: Path, environment: dict[str, str], tag: str, acknowledgements: Path) -> None:
        self._folder = folder
        self._environment = environment
        self._files = (str(folder / f"intentions-{tag}.txt"), str(acknowledgements))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, driver: Mapping[str, str]) -> int:
        """Have it work on the cluster that live/driver.json names; returns its pid."""
        self.stop()
        where = (driver["ray_address"], driver["namespace"])
        # Whoever joins a cluster must choose about its tokens as its driver did.
        environment = self._environment | {"RAY_AUTH_MODE": driver.get("ray_auth_mode", "")}
        with (self._folder / "notes.log").open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.notes", *where, *self._files],
                cwd="/",
                env={name: value for name, value in environment.items() if value},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return self._process.pid

    def stop(self) -> None:
        """End it: it waits for nothing, what it sent last is then open."""
        if self._process is not None:
            assert self._process.stdin is not None
            with suppress(BrokenPipeError):
                self._process.stdin.close()
            self._process.kill()
            self._process.wait()
            self._process = None


def main() -> None:
    address, namespace, intentions, acknowledgements = sys.argv[1:]
    import ray

    import autohyp.cluster  # noqa: F401  Ray's settings, before Ray
    from autohyp.cluster.clients import RayLedger

    ray.init(address=address, namespace=namespace, log_to_driver=False, logging_level=logging.ERROR)
    ledger = RayLedger(ray.get_actor("ledger"))
    done = set(_keys(acknowledgements))
    for key in [key for key in _keys(intentions) if key not in done]:
        _send(ledger, key, acknowledgements)
    name, number = uuid.uuid4().hex[:8], 0
    while not select.select([sys.stdin], [], [], INTERVAL_S)[0]:
        number += 1
        key = f"chaos-note:{name}:{number}"
        _write(intentions, key)
        _send(ledger, key, acknowledgements)


def _send(ledger: object, key: str, acknowledgements: str) -> None:
    from autohyp.journal import Draft
    from autohyp.journal.events import NoteWritten

    ledger.append([Draft(key, NoteWritten(author="chaos", text=key))])  # type: ignore[attr-defined]
    _write(acknowledgements, key)


def _write(path: str, key: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(fd, (json.dumps([key]) + "\n").encode())
    os.close(fd)


def _keys(path: str) -> list[str]:
    if not Path(path).exists():
        return []
    return [json.loads(line)[0] for line in Path(path).read_text().splitlines()]


if __name__ == "__main__":
    main()
