"""live/workers/<worker_id>.json: what each worker does at this moment, in the fields that older tools read.

The file is a heartbeat, not a record: it is replaced whole, may be missing, and nothing is decided on it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from autohyp.paths import CampaignPaths, write_atomic
from autohyp.records import Progress, WorkerLive
from autohyp.views.files import json_text
from autohyp.views.text import seconds_between

__all__ = ["STALE_AFTER_S", "is_fresh", "read_workers", "worker_document", "write_worker"]

STALE_AFTER_S = 30.0
"""A heartbeat older than this belongs to a worker that is gone."""


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
