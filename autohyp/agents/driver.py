"""Who drives a campaign on this host: the process that `autohyp stop` ends, and that forbids a second one.

The journal's lock is what makes a second writer impossible; the claim here is how people are told before
anything starts, and live/driver.json how other processes find the driver and its cluster. The claim is a lock
that the kernel gives up with the process, however that ends; the file may outlive it, or be a copy.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil

from autohyp.errors import CampaignError
from autohyp.paths import CampaignPaths, write_atomic

__all__ = ["DriverFile", "claim_driver", "driver_facts", "driver_process", "show_life"]


class DriverFile:
    """Names this process as the campaign's driver, and its cluster once there is one; `remove` it at the
    end."""

    def __init__(
        self,
        paths: CampaignPaths,
        *,
        ray_address: str = "",
        namespace: str = "",
        session_id: str = "",
        session_dir: str = "",
    ) -> None:
        self._path = paths.driver
        me = psutil.Process()
        facts = {
            "pid": me.pid,
            "created": me.create_time(),
            "host": socket.gethostname(),
            "ray_address": ray_address,
            "namespace": namespace,
            "session_id": session_id,
            "session_dir": session_dir,
            # Whoever joins the cluster by its address must choose as this process did.
            "ray_auth_mode": os.environ.get("RAY_AUTH_MODE", ""),
        }
        write_atomic(self._path, json.dumps(facts) + "\n")

    def remove(self) -> None:
        """Withdraw what was said."""
        self._path.unlink(missing_ok=True)


@contextmanager
def claim_driver(
    paths: CampaignPaths, clear_up: Callable[[CampaignPaths], None] = lambda _: None
) -> Iterator[None]:
    """Drive the campaign within this context, as the only process of this host.

    `clear_up` is called while live/driver.json still tells of the driver before, and that one is known to be
    gone. Raises CampaignError, with the other's process id, when it is driven already, or when its folder
    cannot be written.
    """
    folder = paths.driver.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _unwritable(paths, error) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            clear_up(paths)
            claim = DriverFile(paths)
        except BlockingIOError:
            raise CampaignError(_driven_already(paths)) from None
        except OSError as error:
            raise _unwritable(paths, error) from None
        try:
            yield
        finally:
            claim.remove()
    finally:
        os.close(lock)


def show_life(paths: CampaignPaths) -> None:
    """Let the views see that the driver lives, also while nothing is recorded."""
    with suppress(OSError):
        os.utime(paths.driver)


def _unwritable(paths: CampaignPaths, error: OSError) -> CampaignError:
    reason = error.strerror or error
    return CampaignError(f"{paths.root}: cannot be written: {reason}; it can still be looked at")


def _driven_already(paths: CampaignPaths) -> str:
    facts = driver_facts(paths)
    who = f" (process {facts['pid']})" if facts else ""
    return f"campaign {paths.tag} runs already{who}; `autohyp stop --tag {paths.tag}` ends it"


def driver_facts(paths: CampaignPaths) -> dict[str, Any] | None:
    """What live/driver.json says, or None: the fields of `DriverFile`, whether that process lives or not."""
    try:
        facts = json.loads(paths.driver.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    complete = isinstance(facts, dict) and {"pid", "created", "host"} <= facts.keys()
    return facts if complete else None


def driver_process(paths: CampaignPaths) -> psutil.Process | None:
    """The living process on this host that drives the campaign, or None.

    Its start time is compared too: the pid of a driver that died may belong to another process by now.
    """
    facts = driver_facts(paths)
    if facts is None or facts["host"] != socket.gethostname():
        return None
    try:
        process = psutil.Process(facts["pid"])
        is_same = abs(process.create_time() - facts["created"]) < 0.1
        is_alive = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except (TypeError, ValueError, psutil.Error):
        return None
    return process if is_same and is_alive else None
