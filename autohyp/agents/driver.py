"""Who drives a campaign on this host: the process that `autohyp stop` ends, and that forbids a second one.

The journal's lock is what makes a second writer impossible; this file is how people are told before anything
starts.
"""

from __future__ import annotations

import json
import socket

import psutil

from autohyp.paths import CampaignPaths, write_atomic

__all__ = ["DriverFile", "driver_process"]


class DriverFile:
    """This process's claim to drive the campaign; `remove` it at the end."""

    def __init__(self, paths: CampaignPaths) -> None:
        self._path = paths.driver
        me = psutil.Process()
        facts = {"pid": me.pid, "created": me.create_time(), "host": socket.gethostname()}
        write_atomic(self._path, json.dumps(facts) + "\n")

    def remove(self) -> None:
        """Withdraw the claim."""
        self._path.unlink(missing_ok=True)


def driver_process(paths: CampaignPaths) -> psutil.Process | None:
    """The living process on this host that drives the campaign, or None.

    Its start time is compared too: the pid of a driver that died may belong to another process by now.
    """
    try:
        facts = json.loads(paths.driver.read_text(encoding="utf-8"))
        if facts["host"] != socket.gethostname():
            return None
        process = psutil.Process(facts["pid"])
        is_same = abs(process.create_time() - facts["created"]) < 0.1
        is_alive = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, ValueError, KeyError, psutil.Error):
        return None
    return process if is_same and is_alive else None
