"""Beginning a campaign and taking one up again: the folder, the repository, the journal's first line.

A campaign is begun in one step that either leaves a complete folder or none. It is bound to what it measures
with: `prepare.py` and the data's hash are recorded, and a resume with others is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from autohyp.config import CampaignConfig, dump_config, load_config
from autohyp.errors import CampaignError, ConfigError, DataError
from autohyp.execution.simulation import SIMULATED
from autohyp.execution.workspace import Workspace
from autohyp.journal import CampaignState, Draft, JournalWriter
from autohyp.journal.events import CampaignCreated, HypothesisProposed
from autohyp.journal.follow import Follower
from autohyp.paths import CampaignPaths
from autohyp.records import BASELINE_KIND, ConstantsEdit, Hypothesis, utc_now

__all__ = [
    "BASELINE_HYPOTHESIS_ID",
    "campaign_facts",
    "check_resumable",
    "create_campaign",
    "data_facts",
    "is_edited",
    "new_tag",
    "open_config",
]

BASELINE_HYPOTHESIS_ID = "hyp-baseline"


def new_tag(research: Path) -> str:
    """Month and day as in `nov23`, with a number behind when that is taken."""
    day = datetime.now(UTC).strftime("%b%d").lower()
    tag, number = day, 1
    while (research / tag).exists():
        number += 1
        tag = f"{day}-{number}"
    return tag


def data_facts(directory: Path) -> dict[str, Any]:
    """The facts of a prepared data folder (its meta.json); DataError when it is none."""
    try:
        facts: dict[str, Any] = json.loads((directory / "meta.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DataError(f"{directory}: not a prepared data folder; `python prepare.py` makes one") from None
    for name in ("profile", "data_sha256", "sequence_len"):
        if name not in facts:
            raise DataError(f"{directory}/meta.json lacks {name}; prepare the data again")
    return facts


def campaign_facts(config: CampaignConfig) -> dict[str, Any]:
    """The facts of a campaign's data: `data_facts` of its folder, or what stands for them in a simulation.

    Raises ConfigError when a real campaign names no folder.
    """
    if config.simulation is not None:
        return {"profile": config.profile, "data_sha256": SIMULATED, "sequence_len": 0}
    if config.data.directory is None:
        raise ConfigError("data.directory: the campaign names no data folder; begin it again")
    return data_facts(config.data.directory)


def create_campaign(
    root: Path, config: CampaignConfig, target: Mapping[str, str], data: Mapping[str, Any]
) -> CampaignPaths:
    """Lay out `root` for a resolved configuration, a target (text by file name) and prepared data.

    Raises ConfigError, CampaignError or WorkspaceError; then nothing is left behind.
    """
    if root.exists():
        raise CampaignError(f"{root} exists already; `autohyp resume --tag {root.name}` goes on with it")
    unfinished = root.with_name(f".{root.name}.{os.getpid()}")
    try:
        _clear_unfinished(root)
        unfinished.mkdir(parents=True)
        _lay_out(CampaignPaths(unfinished), root.name, config, target, data)
        unfinished.rename(root)
    except OSError as error:
        raise CampaignError(f"{root} cannot be made: {error.strerror or error}") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return CampaignPaths(root)


def _clear_unfinished(root: Path) -> None:
    """Remove what a process that was killed in `create_campaign` left behind."""
    for folder in root.parent.glob(f".{root.name}.*"):
        pid = folder.suffix[1:]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _lay_out(
    paths: CampaignPaths,
    tag: str,
    config: CampaignConfig,
    target: Mapping[str, str],
    data: Mapping[str, Any],
) -> None:
    workspace, _ = Workspace.create(paths.repository, dict(target), "The target as it came")
    workspace.close()
    paths.config.write_text(dump_config(config), encoding="utf-8")
    created = CampaignCreated(
        tag=tag,
        objective=config.objective,
        config=config.model_dump(mode="json"),
        target_sha256={name: _sha256(text) for name, text in sorted(target.items())},
        data_sha256=data["data_sha256"],
        created_at=utc_now(),
    )
    with JournalWriter(paths.journal) as writer:
        writer.append(
            [
                Draft("campaign", created),
                Draft(f"propose:{BASELINE_HYPOTHESIS_ID}", HypothesisProposed(hypothesis=_baseline(config))),
            ]
        )


def _baseline(config: CampaignConfig) -> Hypothesis:
    constants = config.run.constants or {}
    return Hypothesis(
        hypothesis_id=BASELINE_HYPOTHESIS_ID,
        title="baseline",
        rationale=f"The untouched target, {config.profile} profile: what every change is measured against.",
        edit=ConstantsEdit(overrides=constants) if constants else None,
        kind=BASELINE_KIND,
        researcher="observer",
    )


def open_config(paths: CampaignPaths) -> CampaignConfig:
    """The configuration that a campaign was begun with, from its journal."""
    state = Follower(paths.journal).update()
    if state.created is None:
        raise CampaignError(f"{paths.root}: the journal is empty; nothing was begun, delete the folder")
    return CampaignConfig.model_validate(state.created.config)


def is_edited(paths: CampaignPaths, config: CampaignConfig) -> bool:
    """Whether campaign.yaml no longer says what the campaign began with, which is what counts."""
    if not paths.config.is_file():
        return False
    try:
        return load_config(paths.config).model_copy(update={"target": config.target}) != config
    except ConfigError:
        return True


def check_resumable(state: CampaignState, workspace: Workspace, data: Mapping[str, Any]) -> None:
    """Refuse to go on with another measurement than the campaign began with."""
    if state.created is None:
        raise CampaignError("the journal is empty: nothing to resume")
    if data["data_sha256"] != state.created.data_sha256:
        raise DataError(
            f"campaign {state.tag} was measured on other data ({state.created.data_sha256[:12]}, now "
            f"{data['data_sha256'][:12]}): results would not compare; point data.directory at the first"
        )
    prepared = _sha256(workspace.read("champion", "prepare.py"))
    if prepared != state.created.target_sha256["prepare.py"]:
        raise ConfigError(f"campaign {state.tag}: prepare.py in its repository is not the one it began with")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
