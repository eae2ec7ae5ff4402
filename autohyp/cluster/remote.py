"""Telling a running campaign something from another process of the same user and host.

The driver names its cluster in live/driver.json. What is told becomes an event in the campaign's journal
through its ledger, so once `tell` returns it is durable, whoever dies next. Ray is used in a process of its
own: it may end the process that a dying cluster leaves waiting, and this way the caller gets its one line in
time whatever happens. Ray finds its token by itself (in the user's home, unless RAY_AUTH_TOKEN or
RAY_AUTH_TOKEN_PATH says otherwise); only whether to use one must be the driver's choice. Not covered: telling
it from another host.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from autohyp.errors import ClusterError, JournalError
from autohyp.journal.events import EVENT_TYPES, Draft

__all__ = ["tell"]


def tell(driver: dict[str, Any], drafts: Sequence[Draft], timeout_s: float) -> None:
    """Have the ledger of the campaign that `driver` (live/driver.json) runs record the drafts.

    Raises ClusterError when its cluster does not answer in time, JournalError when the ledger refuses.
    """
    address = driver["ray_address"]
    message = {
        "address": address,
        "namespace": driver["namespace"],
        "drafts": [
            {"key": draft.key, "type": draft.event.type, "data": draft.event.model_dump(mode="json")}
            for draft in drafts
        ],
    }
    environment = dict(os.environ)
    if driver.get("ray_auth_mode"):
        environment["RAY_AUTH_MODE"] = driver["ray_auth_mode"]
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__],
            input=json.dumps(message),
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        answer = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        raise ClusterError(f"Ray at {address} did not answer within {timeout_s:g} s") from None
    except (IndexError, ValueError):
        raise ClusterError(f"Ray at {address} did not answer") from None
    if answer["refused"]:
        raise JournalError(answer["refused"])
    if answer["unreachable"]:
        raise ClusterError(f"Ray at {address} could not be reached: {answer['unreachable']}")


def _deliver(message: dict[str, Any]) -> dict[str, str]:
    """In the process of its own: connect, hand over, say how it went."""
    import ray

    drafts = [
        Draft(each["key"], EVENT_TYPES[each["type"]].model_validate(each["data"]))
        for each in message["drafts"]
    ]
    answer = {"refused": "", "unreachable": ""}
    try:
        ray.init(
            address=message["address"], namespace=message["namespace"], log_to_driver=False, logging_level=40
        )
        # Not as a role does, which waits when the disk is full: whoever asks wants to know.
        ray.get(ray.get_actor("ledger").append.remote([draft.wire() for draft in drafts]))
    except JournalError as error:
        answer["refused"] = str(error)
    except Exception as error:
        words = str(error).split() or [type(error).__name__]
        answer["unreachable"] = " ".join(words)[:300]
    return answer


if __name__ == "__main__":
    print(json.dumps(_deliver(json.load(sys.stdin))), flush=True)
