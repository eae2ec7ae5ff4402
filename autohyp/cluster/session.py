"""One session of a campaign: a Ray cluster, the roles on it, and a clean end.

With no address a cluster of this machine's own is started, dashboard included, and ended with the session.
The session is followed through the journal and the workers' live files, as every other view is, so watching
costs the cluster nothing.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.util import list_named_actors

from autohyp import __version__
from autohyp.agents.driver import DriverFile, driver_facts, driver_process
from autohyp.agents.ledger import Ledger, Request
from autohyp.cluster.actors import LedgerActor, ObserverActor, ScribeActor, ToolBuilderActor, as_actor
from autohyp.cluster.clients import last_line
from autohyp.cluster.hosts import gpu_nodes
from autohyp.cluster.leftovers import MARK, end_cluster, keeper, sweep
from autohyp.config import CampaignConfig
from autohyp.errors import AutohypError, ClusterError, JournalLockedError
from autohyp.execution.workspace import Workspace, remove_tree
from autohyp.hardware import detect_hardware
from autohyp.journal import Draft, ExperimentEntry
from autohyp.journal.events import Event, SessionEnded, SessionStarted, StopRequested
from autohyp.journal.segments import take_lock
from autohyp.paths import CampaignPaths

__all__ = ["Session", "end_last_session", "end_lost_session", "local_cluster"]

log = logging.getLogger(__name__)

STOP_TIMEOUT_S = 30.0
LOST_TIMEOUT_S = 75.0
"""Ray's processes give their head's return a minute."""
ANSWER_TIMEOUT_S = 10.0
START_ATTEMPTS = 3
RESUME = "`autohyp resume` goes on where the journal ends"
OBJECT_STORE_BYTES = 256 * 2**20
"""Small: states and results travel through it, never models."""


@contextmanager
def local_cluster(config: CampaignConfig, paths: CampaignPaths | None = None) -> Iterator[str | None]:
    """Ray, started here or joined; gives the dashboard's URL. Raises ClusterError in one line.

    A cluster that is started here ends with this process, however that dies. The campaign's `paths` tell its
    actors from those of another campaign with the same tag.
    """
    # Ray starts a process a core beforehand, and simulated workers take none.
    num_working = 0 if config.simulation else (config.workers.count or 1) * config.workers.cpus_per_worker
    local: dict[str, Any] = {
        "num_cpus": max(os.cpu_count() or 1, num_working),
        "include_dashboard": config.ray.dashboard,
        "dashboard_port": config.ray.dashboard_port,
        "object_store_memory": OBJECT_STORE_BYTES,
    }
    if config.ray.address is not None:
        _check_listening(config.ray.address, f"no Ray cluster answers at {config.ray.address}")
    address, namespace = config.ray.address, _namespace(config, paths)
    if address is not None:
        context = _connect(1, **_joining(address, namespace))
        try:
            yield _url(context)
        finally:
            ray.shutdown()
        return
    with keeper() as tell:
        context = _connect(START_ATTEMPTS, **_joining("local", namespace), **local)
        try:
            tell(_session_dir())
            yield _url(context)
        finally:
            ray.shutdown()


def _url(context: Any) -> str | None:
    return f"http://{context.dashboard_url}" if context.dashboard_url else None


def end_last_session(paths: CampaignPaths) -> None:
    """End what the campaign's last driver left when it died: processes, and roles on a cluster that goes on.

    Called by who drives the campaign next, before live/driver.json says so: what the journal holds then will
    not change meanwhile. Raises ClusterError when a driver elsewhere works on the campaign.
    """
    sweep(paths)
    facts = driver_facts(paths)
    if facts is None or driver_process(paths) is not None:
        return
    if not facts.get("session_dir") and facts.get("ray_address"):
        try:
            _check_listening(facts["ray_address"], "its cluster is gone")
            _connect(1, **_joining(facts["ray_address"], facts["namespace"]))
        except ClusterError as error:
            log.info("%s: %s", paths.tag, error)  # the roles went with it; if not, the journal is locked
            return
        try:
            _end_roles_of_dead_drivers()
        finally:
            ray.shutdown()
    _clear_live(paths)


def end_lost_session(paths: CampaignPaths, session_id: str, reason: str) -> None:
    """Record in the ledger's place how a session ended that lost its cluster with its campaign just over.

    Nobody would resume that campaign, so this is not left to the next session. The lost cluster's ledger may
    live on for a minute: only when it has let go of the journal is it certain that no role is left. Raises
    JournalError when it does not.
    """
    deadline_s = time.monotonic() + LOST_TIMEOUT_S
    while True:
        try:
            os.close(take_lock(paths.journal))
            break
        except JournalLockedError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.2)
    ledger = Ledger(paths)
    try:
        request = Request(
            [Draft(f"session:{session_id}:end", SessionEnded(session_id=session_id, reason=reason))]
        )
        ledger.commit([request])
    finally:
        ledger.close()
    if request.error is not None:
        raise request.error
    _clear_live(paths)


def _joining(address: str, namespace: str) -> dict[str, Any]:
    return {
        "address": address,
        "namespace": namespace,
        "log_to_driver": False,
        "logging_level": logging.ERROR,
    }


def _clear_live(paths: CampaignPaths) -> None:
    """Remove the checkouts, the kernels and the signs of life of workers that are gone."""
    shutil.rmtree(paths.live_workers, ignore_errors=True)
    remove_tree(paths.kernels)
    workspace = Workspace(paths.repository)
    workspace.clear_checkouts(paths.worktrees)
    workspace.close()


def _connect(num_attempts: int, **options: Any) -> Any:
    """Ray's context. Raises ClusterError after the last attempt; a busy machine may be too slow for Ray.

    Of an attempt to start a cluster that failed nothing is left.
    """
    for attempt in range(1, num_attempts + 1):
        try:
            return ray.init(**options)
        except Exception as error:
            ray.shutdown()
            if MARK in os.environ:
                end_cluster(os.environ[MARK])
            if attempt == num_attempts or "timed out" not in str(error):
                reason = " ".join(str(error).split())[:300]
                raise ClusterError(f"Ray could not be started or reached: {reason}") from error
    return None


def _session_dir() -> str:
    """The folder of the Ray session that this process is in."""
    context = ray.get_runtime_context()
    return str(Path(context.get_temp_dir()) / context.get_session_name())


def _namespace(config: CampaignConfig, paths: CampaignPaths | None) -> str:
    """Two campaigns on one cluster never meet, not even of one name."""
    if paths is None:
        return f"autohyp-{config.tag}"
    return f"autohyp-{config.tag}-{hashlib.sha256(os.fsencode(paths.root.resolve())).hexdigest()[:8]}"


class Session:
    """The roles of one campaign on a running cluster; a context manager that ends them in order."""

    def __init__(
        self,
        paths: CampaignPaths,
        config: CampaignConfig,
        data_dir: Path,
        experiments: Mapping[str, ExperimentEntry],
    ) -> None:
        """Start the roles; `experiments` are those that the journal knows."""
        self._paths = paths
        self._session_id = uuid.uuid4().hex[:12]
        self._end_reason = ""
        _end_roles_of_dead_drivers()
        if config.profile == "gpu" and config.simulation is None and not any(gpu_nodes().values()):
            raise ClusterError(
                "the Ray cluster has no GPU; use --profile cpu, or --address of another cluster"
            )
        root = paths.root.resolve()
        self._ledger_actor = as_actor(LedgerActor, "ledger").remote(root)
        try:
            self._record("", self._started(config), timeout_s=None)
        except RayActorError as error:
            raise ClusterError(f"the ledger could not start: {last_line(error)}") from None
        # Only now, with the journal's lock held, is it certain that nobody works in these.
        self._clear_live()
        self._restore_commits(experiments)
        context = ray.get_runtime_context()
        DriverFile(
            paths,
            ray_address=context.gcs_address,
            namespace=context.namespace,
            session_id=self._session_id,
            session_dir="" if config.ray.address else _session_dir(),
        )
        self._scribe = as_actor(ScribeActor, "scribe").remote(root, self._ledger_actor)
        self._builder = as_actor(ToolBuilderActor, "tool-builder").remote(root, self._ledger_actor)
        self._observer = as_actor(ObserverActor, "observer").remote(
            root, config, data_dir, self._ledger_actor
        )

    def finished(self) -> tuple[str | None, str | None]:
        """(reason, error) once the campaign's loop has ended, else (None, None).

        An observer that is being restarted has not ended. Raises ClusterError when it never will: it cannot
        be started, or the cluster is gone.
        """
        _check_head()
        try:
            reason, error = ray.get(self._observer.finished.remote(), timeout=ANSWER_TIMEOUT_S)
        except GetTimeoutError:
            return None, None
        except RayActorError as error:
            raise ClusterError(f"the observer could not start: {last_line(error)}") from None
        except RayError as error:
            raise ClusterError(f"the Ray cluster failed: {last_line(error)}; {RESUME}") from None
        if reason is not None:
            self._end_reason = reason
        return reason, error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave nothing behind, whatever ended the session; what is given up is tried again on resume.

        Raises nothing: what cannot be recorded any more, because the ledger or the cluster is gone, is found
        by the next session.
        """
        if error is not None:
            self._end_reason = "interrupted" if isinstance(error, KeyboardInterrupt) else "the driver failed"
        steps = [self._record_end, self._write_files, self._close, _end_roles, self._clear_live]
        for step in [self._give_up, *steps] if error is not None else steps:
            try:
                _check_head()
                step()
            except (AutohypError, RayError, OSError) as problem:
                log.info("%s: %s", step.__name__, problem)  # the next session makes up for it

    def _give_up(self) -> None:
        """Stop the workers and return when everything is recorded and every checkout is gone."""
        stop = StopRequested(session_id=self._session_id, now=True, author="driver", reason=self._end_reason)
        self._record(":stop", stop)
        deadline_s = time.monotonic() + STOP_TIMEOUT_S
        while self.finished()[0] is None and time.monotonic() < deadline_s:
            time.sleep(0.1)

    def _record_end(self) -> None:
        self._record(":end", SessionEnded(session_id=self._session_id, reason=self._end_reason))

    def _record(self, what: str, event: Event, timeout_s: float | None = ANSWER_TIMEOUT_S) -> None:
        draft = Draft(f"session:{self._session_id}{what}", event)
        recorded = self._ledger_actor.append.remote([draft.wire()])
        while timeout_s is None and not ray.wait([recorded], timeout=1)[0]:
            _check_head()
        ray.get(recorded, timeout=timeout_s)

    def _write_files(self) -> None:
        ray.get(self._scribe.finish.remote(), timeout=STOP_TIMEOUT_S)

    def _close(self) -> None:
        ray.get(self._ledger_actor.close.remote(), timeout=ANSWER_TIMEOUT_S)

    def _clear_live(self) -> None:
        _clear_live(self._paths)

    def _restore_commits(self, experiments: Mapping[str, ExperimentEntry]) -> None:
        """Make the commits again that the journal knows and the repository does not."""
        workspace = Workspace(self._paths.repository)
        lost = workspace.restore(experiments, lambda name: experiments[name].experiment)
        workspace.close()
        if lost:
            log.warning("%d commits were lost (a power failure, a kill) and made again", len(lost))

    def _started(self, config: CampaignConfig) -> SessionStarted:
        return SessionStarted(
            session_id=self._session_id,
            host=socket.gethostname(),
            hardware=detect_hardware(),
            sandbox=config.sandbox_name,
            limits=config.limits.model_dump(exclude_none=True),
            versions={
                "autohyp": __version__,
                "python": platform.python_version(),
                "ray": ray.__version__,
                "torch": version("torch"),
            },
        )


def _check_head() -> None:
    """Raise ClusterError when the cluster's head is dead: Ray itself would wait for it."""
    node = ray._private.worker._global_node
    dead: set[str] = (
        {kind for kind, _ in node.dead_processes()} if node is not None and node.is_head() else set()
    )
    if dead & {"gcs_server", "raylet"}:
        raise ClusterError(f"the Ray cluster on this machine is gone; {RESUME}")
    address = ray.get_runtime_context().gcs_address
    _check_listening(address, f"the head of the Ray cluster ({address}) is gone; {RESUME}")


def _check_listening(address: str, problem: str) -> None:
    """Raise ClusterError with `problem` when nobody listens at HOST:PORT: Ray would wait for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        return  # "auto" and the like
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_TIMEOUT_S).close()
    except (ConnectionRefusedError, socket.gaierror):
        raise ClusterError(problem) from None
    except OSError:
        return  # busy or far away: Ray knows better


def _end_roles() -> None:
    """End all actors of the campaign: on a cluster that goes on they would stay for ever."""
    for name in list_named_actors():
        with suppress(ValueError):
            ray.kill(ray.get_actor(name))


def _end_roles_of_dead_drivers() -> None:
    """Clear the campaign's namespace. Raises ClusterError when a driver elsewhere works in it."""
    jobs: Any = ray._private.state.jobs
    is_dead = {job["JobID"]: job["IsDead"] for job in jobs()}
    for name in list_named_actors():
        with suppress(ValueError):
            actor = ray.get_actor(name)
            if not is_dead.get(actor._actor_id.job_id.hex(), True):
                raise ClusterError("the campaign runs already on this cluster, driven by another process")
            ray.kill(actor)
    deadline_s = time.monotonic() + STOP_TIMEOUT_S
    while list_named_actors():
        if time.monotonic() > deadline_s:
            raise ClusterError(f"the campaign's old actors do not end: {', '.join(list_named_actors())}")
        time.sleep(0.1)
