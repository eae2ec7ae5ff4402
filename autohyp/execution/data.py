"""Prepared data for a campaign: the target's own `prepare.py` is run, and does nothing when all is there."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

from autohyp.config import CampaignConfig
from autohyp.errors import DataError

__all__ = ["prepare_data"]


def prepare_data(config: CampaignConfig, prepare_file: Path) -> Path:
    """The prepared data folder for a resolved configuration; prepares it with progress on standard error.

    Raises DataError with the one line that prepare ended with.
    """
    command = [sys.executable, str(prepare_file), "--json", *_request(config)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if not sys.stderr.isatty() else None,
        text=True,
    ) as process:
        stdout, stderr = process.communicate()
    if process.returncode:
        lines = [line for line in (stderr or "").splitlines() if line.strip()]
        reason = lines[-1].removeprefix("prepare: ") if lines else "see the line above"
        raise DataError(f"the data could not be prepared: {reason}")
    return Path(json.loads(stdout.splitlines()[-1])["data_dir"])


def _request(config: CampaignConfig) -> list[str]:
    """The command line for this configuration; a request that is not the default has a folder of its own."""
    data = config.data
    if data.directory is not None:
        return ["--check", "--data", str(data.directory)]
    request = ["--source", str(data.source), "--profile", config.profile]
    if data.source == "files":
        request += ["--column", data.column, "--paths", *data.paths]
    if data.source == "climbmix":
        request += ["--shards", str(data.shards)]
    if data.source != "pystdlib":
        cache = Path(os.environ.get("AUTOHYP_CACHE") or Path.home() / ".cache" / "autohyp")
        name = hashlib.sha256("\n".join(request).encode()).hexdigest()[:10]
        request += ["--data", str(cache / f"{data.source}-{config.profile}-{name}")]
    return request
