"""The only place that knows Ray: thin actors around the plain classes of `autohyp.agents`, and their start.

Ray reads part of its settings from the environment when it is imported or started, so they are set here,
first, whatever this version's defaults are.
"""

import os

RAY_SETTINGS = {
    # A worker that dies takes the processes it started with it.
    "RAY_process_group_cleanup_enabled": "1",
    "RAY_kill_child_processes_on_worker_exit": "1",
    # Deprecated, and it would make every exit code of a training process 0.
    "RAY_kill_child_processes_on_worker_exit_with_raylet_subreaper": "0",
    # Under `uv run` Ray would build each worker's environment anew.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # The sandbox limits a run's memory; Ray must not kill a worker for what another one uses.
    "RAY_memory_monitor_refresh_ms": "0",
    # Control actors hold no GPU: they must not see any either, which they arrange themselves.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Training must not give way to the dashboard: by default workers are as nice as can be.
    "RAY_worker_niceness": "0",
    # A head that is gone never comes back; Ray would wait a minute for it. A busy one needs some patience.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "30",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
}

os.environ.update(RAY_SETTINGS)

__all__ = ["RAY_SETTINGS"]
