"""Reading what older versions of autohyp wrote.

Every journal line says the format version it was written in. A line is never rewritten: its hash is checked
on its own bytes, then its event is brought up to date, one function a version, each time it is read. So one
file may hold lines of several versions, and a campaign begun years ago goes on.

What the versions changed:

- 1: the first.
- 2: adds pause_changed, stop_requested and worker_drained; text is UTF-8, no longer escaped to ASCII.

To add version 3:

1. Before changing anything, keep a journal that holds every event type of version 2 as
   `tests/journal/data/v2.jsonl`, with what it must mean in `v2.expected.json` (`facts` in
   `tests/journal/test_migrations.py` prints it).
2. Raise `FORMAT_VERSION` in `events.py`, and change the events.
3. Write `_from_2(event_type, data)` here, which turns the name and the JSON of a version 2 event into those
   of version 3, and enter it in `MIGRATIONS` under 2. Say above what changed.

`tests/journal/test_migrations.py` fails until all of it is there. A new field with a default value needs no
new version: it is whatever an older autohyp must not overlook that does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["MIGRATIONS", "Migration", "NewerFormatError", "migrate"]

Migration = Callable[[str, dict[str, Any]], tuple[str, dict[str, Any]]]


class NewerFormatError(ValueError):
    """A line is intact, and written by an autohyp that is newer than this one."""


def migrate(version: int, event_type: str, data: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The event as the present version would have written it: its type and its JSON.

    Raises ValueError for a version that never was.
    """
    if version not in MIGRATIONS:
        raise ValueError(f"format version {version} never was")
    while version in MIGRATIONS:
        event_type, data = MIGRATIONS[version](event_type, data)
        version += 1
    return event_type, data


def _from_1(event_type: str, data: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Version 2 only adds event types."""
    return event_type, data


MIGRATIONS: dict[int, Migration] = {1: _from_1}
