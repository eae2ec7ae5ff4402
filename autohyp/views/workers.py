"""live/: what each worker does now, in the fields that older tools read, and the driver's sign of life.

A file there is a heartbeat, not a record: it is replaced whole, may be missing, and nothing is decided on it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from autohyp.paths import CampaignPaths, has_room, write_atomic
from autohyp.records import Progress, WorkerLive
from autohyp.views.files import json_text
from autohyp.views.text import seconds_between

__all__ = [
    "STALE_AFTER_S",
    "Present",
    "is_fresh",
    "read_present",
    "read_workers",
    "worker_document",
    "write_worker",
]

STALE_AFTER_S = 30.0
"""A heartbeat older than this belongs to a worker that is gone."""


@dataclass(frozen=True)
class Present:
    """What no journal can tell of a campaign: when its driver last gave a sign of life, and its disk."""

    driver_seen_at: str = ""
    disk_is_full: bool = False


def read_present(paths: CampaignPaths) -> Present:
    """The campaign's present, as its folder shows it; the driver touches its file while it lives."""
    try:
        seen = datetime.fromtimestamp(paths.driver.stat().st_mtime, UTC)
    except OSError:
        return Present(disk_is_full=not has_room(paths.root))
    return Present(seen.isoformat(timespec="milliseconds"), not has_room(paths.root))


def worker_document(worker: WorkerLive) -> dict[str, Any]:
    """The heartbeat as JSON; `progress` is an object even when there is none, as older tools expect."""
    progress = worker.progress
    document = worker.model_dump(mode="json")
    document["notes"] = ""
    document["metrics"] = {"train_loss": progress.loss} if progress and progress.loss is not None else {}
    document["progress"] = (
        progress.model_dump(mode="json") | {"progress_pct": round(100 * progress.progress, 1)}
        if progress
        else {}
    )
    document["paths"] = {}
    return document


def write_worker(paths: CampaignPaths, worker: WorkerLive) -> None:
    """Replace the worker's heartbeat."""
    write_atomic(paths.live_workers / f"{worker.worker_id}.json", json_text(worker_document(worker)))


def read_workers(paths: CampaignPaths) -> list[WorkerLive]:
    """All heartbeats by worker id; a file that is not one (or is just being deleted) is passed over."""
    files = sorted(paths.live_workers.glob("*.json"))
    return [worker for worker in map(_read_worker, files) if worker is not None]


def _read_worker(path: Path) -> WorkerLive | None:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        progress = document.get("progress") or None
        if progress is not None:
            progress = Progress.model_validate(_known(Progress, progress))
        return WorkerLive.model_validate(_known(WorkerLive, document) | {"progress": progress})
    except (OSError, ValueError, AttributeError, ValidationError):
        return None


def _known(model: type[Progress] | type[WorkerLive], document: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value for name, value in document.items() if name in model.model_fields and value is not None
    }


def is_fresh(worker: WorkerLive, now: str) -> bool:
    """Whether the worker gave a sign of life lately."""
    return worker.state != "gone" and seconds_between(worker.updated_at, now) <= STALE_AFTER_S
