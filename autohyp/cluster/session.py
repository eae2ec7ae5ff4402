"""One session of a campaign: a Ray cluster, the four roles on it, and a clean end.

With no address a cluster of this machine's own is started, dashboard included, and ended with the session.
The session is followed through the journal and the workers' live files, as every other view is, so watching
costs the cluster nothing.
"""

from __future__ import annotations

import logging
import os
import platform
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import RayActorError, RayError

from autohyp import __version__
from autohyp.agents.driver import DriverFile
from autohyp.cluster.actors import LedgerActor, ObserverActor, ToolBuilderActor, as_actor
from autohyp.cluster.clients import RayLedger, last_line
from autohyp.config import CampaignConfig
from autohyp.errors import ClusterError
from autohyp.execution.workspace import Workspace
from autohyp.hardware import detect_hardware
from autohyp.journal import Draft
from autohyp.journal.events import SessionEnded, SessionStarted
from autohyp.paths import CampaignPaths

__all__ = ["Session", "local_cluster"]

STOP_TIMEOUT_S = 30.0
OBJECT_STORE_BYTES = 256 * 2**20
"""Small: states and results travel through it, never models."""


@contextmanager
def local_cluster(config: CampaignConfig) -> Iterator[str | None]:
    """Ray, started here or joined; gives the dashboard's URL. Raises ClusterError in one line."""
    local: dict[str, Any] = {
        "num_cpus": max(os.cpu_count() or 1, (config.workers.count or 1) * config.workers.cpus_per_worker),
        "include_dashboard": config.ray.dashboard,
        "dashboard_port": config.ray.dashboard_port,
        "object_store_memory": OBJECT_STORE_BYTES,
    }
    try:
        context = ray.init(
            address=config.ray.address or "local",
            namespace=f"autohyp-{config.tag}",
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if config.ray.address else local),
        )
    except Exception as error:
        raise ClusterError(
            f"Ray could not be started or reached: {' '.join(str(error).split())[:300]}"
        ) from error
    try:
        url = context.dashboard_url
        yield f"http://{url}" if url else None
    finally:
        ray.shutdown()


class Session:
    """The roles of one campaign on a running cluster; a context manager that ends them in order."""

    def __init__(self, paths: CampaignPaths, config: CampaignConfig, data_dir: Path) -> None:
        self._paths = paths
        self._session_id = uuid.uuid4().hex[:12]
        root = paths.root.resolve()
        self._ledger_actor = as_actor(LedgerActor, "ledger").remote(root)
        self._ledger = RayLedger(self._ledger_actor)
        try:
            self._ledger.append([Draft(f"session:{self._session_id}", self._started(config.sandbox.backend))])
        except RayActorError as error:
            raise ClusterError(f"the ledger could not start: {last_line(error)}") from None
        # Only now, with the journal's lock held, is it certain that nobody works in these.
        workspace = Workspace(paths.repository)
        workspace.clear_checkouts(paths.worktrees)
        workspace.close()
        self._driver = DriverFile(paths)
        self._builder = as_actor(ToolBuilderActor, "tool-builder").remote(root, self._ledger_actor)
        self._observer = as_actor(ObserverActor, "observer").remote(
            root, config, data_dir, self._ledger_actor
        )
        self._end_reason = ""

    def finished(self) -> tuple[str | None, str | None]:
        """(reason, error) once the campaign's loop has ended, else (None, None)."""
        try:
            reason, error = ray.get(self._observer.finished.remote())
        except RayActorError as error:
            raise ClusterError(f"the observer could not start: {last_line(error)}") from None
        if reason is not None:
            self._end_reason = reason
        return reason, error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave nothing behind, whatever ended the session; what is given up is tried again on resume."""
        if error is not None:
            self._end_reason = "interrupted" if isinstance(error, KeyboardInterrupt) else "the driver failed"
            with suppress(ClusterError, RayError):
                self._give_up()
        ended = SessionEnded(session_id=self._session_id, reason=self._end_reason)
        self._ledger.append([Draft(f"session:{self._session_id}:end", ended)])
        ray.get(self._ledger_actor.close.remote())
        self._driver.remove()

    def _give_up(self) -> None:
        """Stop the workers and return when everything is recorded and every checkout is gone."""
        ray.get(self._observer.stop.remote(self._end_reason, True))
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while self.finished()[0] is None and time.monotonic() < deadline:
            time.sleep(0.1)

    def _started(self, sandbox: str) -> SessionStarted:
        return SessionStarted(
            session_id=self._session_id,
            host=socket.gethostname(),
            hardware=detect_hardware(),
            sandbox=sandbox,
            versions={
                "autohyp": __version__,
                "python": platform.python_version(),
                "ray": ray.__version__,
                "torch": version("torch"),
            },
        )
