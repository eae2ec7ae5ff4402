"""campaign.yaml: documented to the last field, wrong in one line, explicit once resolved."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from autohyp.config import CPU_CONSTANTS, PROFILES, CampaignConfig, dump_config, load_config
from autohyp.errors import ConfigError
from autohyp.records import Hardware

LAPTOP = Hardware(cpus=6, memory_gb=16.0)
GPU_BOX = Hardware(cpus=64, memory_gb=512.0, gpus=("H200", "H200", "H200"))


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """All leaf fields by their dotted name."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            assert field.annotation.__doc__, f"{prefix}{name}: its section has a docstring"
            yield from fields(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


FIELDS = dict(fields(CampaignConfig))


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_is_documented_and_its_unit_is_in_its_name_or_its_words(name: str) -> None:
    description = FIELDS[name].description or ""
    assert len(description.split()) >= 2
    assert description == description.strip()
    for suffix, words in {"_s": "seconds", "_mb": "MiB", "_bpb": "bpb", "hours": "hours"}.items():
        if name.endswith(suffix):
            assert words in description.lower() or words in description


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_nothing_and_an_empty_file_give_the_defaults(tmp_path: Path) -> None:
    file = write(tmp_path / "campaign.yaml", "# nothing yet\n")
    assert load_config() == CampaignConfig()
    assert load_config(file) == CampaignConfig(target=tmp_path)


def test_the_command_line_lies_over_the_file_field_by_field(tmp_path: Path) -> None:
    file = write(
        tmp_path / "campaign.yaml",
        "tag: mine\nlimits: {max_runs: 5}\n"
        "run: {budget_s: 10, constants: {DEPTH: 2, ADAM_BETAS: [0.8, 0.9]}}\n",
    )
    config = load_config(file, {"run": {"budget_s": 20}, "limits": {"max_hours": 1}})
    assert (config.tag, config.run.budget_s, config.limits.max_runs, config.limits.max_hours) == (
        "mine",
        20,
        5,
        1,
    )
    assert config.run.constants == {"DEPTH": 2, "ADAM_BETAS": (0.8, 0.9)}


@pytest.mark.parametrize(("target", "expected"), [("sub", "sub"), ("../other", "../other"), (None, ".")])
def test_the_target_is_beside_the_file(tmp_path: Path, target: str | None, expected: str) -> None:
    file = write(tmp_path / "campaign.yaml", f"target: {target}\n" if target else "seed: 1\n")
    assert load_config(file).target == (tmp_path / expected).resolve()


BAD = {
    "budgets: 3": "budgets: unknown field; known: tag, objective",
    "limit: {}": "limit: unknown field; did you mean limits?",
    "run: {budget: 3}": "run.budget: unknown field; did you mean budget_s?",
    "run: {buget_s: 3}": "run.buget_s: unknown field; did you mean budget_s?",
    "decisions: {false_keep: 0.1}": "decisions.false_keep: unknown field; did you mean false_keep_rate?",
    "run: {budget_s: 0}": "run.budget_s: Input should be greater than 0",
    "run: {budget_s: .inf}": "run.budget_s: Input should be a finite number",
    "run: {budget_s: soon}": "run.budget_s: Input should be a valid number",
    "run: 3": "run: Input should be a valid dictionary",
    "tag: Main Street": "tag: use lower-case letters",
    "tag: ../../etc": "tag: use lower-case letters",
    "profile: tpu": "profile: Input should be 'auto', 'cpu' or 'gpu'",
    "sandbox: {backend: docker}": "sandbox.backend: Input should be 'auto', 'bubblewrap', 'landlock'",
    "decisions: {baseline_runs: 1}": "decisions.baseline_runs: Input should be greater than or equal to 2",
    "researchers: []": "researchers: Tuple should have at least 1 item",
    "workers: {count: 1.5}": "workers.count: Input should be a valid integer",
    "- a\n- b": "must be a mapping of fields, not list",
    "just words": "must be a mapping of fields, not str",
    "a: [": "not YAML",
    "a: b: c": "not YAML",
    "\x07": "not YAML",
    "1: 2": "Keys should be strings",
}


@pytest.mark.parametrize("text", BAD)
def test_what_is_wrong_is_one_line_that_names_file_and_field(tmp_path: Path, text: str) -> None:
    file = write(tmp_path / "campaign.yaml", text)
    with pytest.raises(ConfigError, match=re.escape(BAD[text])) as caught:
        load_config(file)
    message = str(caught.value)
    assert message.startswith(str(file))
    assert "\n" not in message


def test_all_problems_are_named_at_once(tmp_path: Path) -> None:
    file = write(tmp_path / "campaign.yaml", "sed: 3\nrun: {budget_s: -1}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert "run.budget_s: Input should be greater than 0" in str(caught.value)
    assert "sed: unknown field; did you mean seed?" in str(caught.value)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file; `autohyp init` writes one"):
        load_config(tmp_path / "campaign.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"tag: caf\xe9")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "latin.yaml")


def test_overrides_alone_are_checked_too() -> None:
    with pytest.raises(ConfigError, match=r"^configuration: workers.count: Input should be greater than 0$"):
        load_config(None, {"workers": {"count": 0}})


# Resolving -----------------------------------------------------------------------------------

OPEN = {"tag", "data.directory", "ray.address", "decisions.prior_gain_sd_bpb", "simulation"}
OPEN_ON_GPUS = {"workers.count"}  # the cluster decides, and may grow
"""What a machine does not decide: the rest is None only as a limit that nobody set."""


@pytest.mark.parametrize("hardware", [LAPTOP, GPU_BOX])
def test_resolved_leaves_nothing_to_the_machine(hardware: Hardware) -> None:
    resolved = CampaignConfig().resolved(hardware)
    document = resolved.model_dump()
    for name in FIELDS:
        value: Any = document
        for part in name.split("."):
            value = value[part]
        is_open = name in (OPEN | OPEN_ON_GPUS if hardware is GPU_BOX else OPEN)
        assert value is not None or is_open or name.startswith("limits."), name
    assert resolved.profile != "auto"
    assert resolved.resolved(hardware) == resolved


def test_a_machine_without_gpus_gets_the_cpu_profile() -> None:
    resolved = CampaignConfig().resolved(LAPTOP)
    assert (resolved.profile, resolved.data.source, resolved.workers.count) == ("cpu", "pystdlib", 6)
    assert (resolved.run.budget_s, resolved.sandbox.memory_mb) == (30, PROFILES["cpu"].memory_mb)
    assert resolved.run.constants == CPU_CONSTANTS


def test_a_machine_with_gpus_gets_the_gpu_profile_and_a_worker_for_every_gpu_of_its_cluster() -> None:
    resolved = CampaignConfig().resolved(GPU_BOX)
    assert (resolved.profile, resolved.data.source, resolved.workers.count) == ("gpu", "climbmix", None)
    assert (resolved.run.budget_s, resolved.run.constants) == (300, {})


def test_what_was_said_is_kept() -> None:
    said = CampaignConfig.model_validate(
        {
            "profile": "cpu",
            "run": {"budget_s": 7, "constants": {}},
            "workers": {"count": 2},
            "data": {"source": "files", "paths": ["a/*.txt"]},
            "sandbox": {"memory_mb": 100},
        }
    )
    resolved = said.resolved(GPU_BOX)
    assert (resolved.profile, resolved.run.budget_s, resolved.run.constants) == ("cpu", 7, {})
    assert (resolved.workers.count, resolved.data.source, resolved.sandbox.memory_mb) == (2, "files", 100)


@pytest.mark.parametrize(("cpus", "per_worker", "count"), [(6, 4, 1), (8, 4, 2), (2, 4, 1)])
def test_cpu_workers_share_the_cores(cpus: int, per_worker: int, count: int) -> None:
    config = CampaignConfig.model_validate({"workers": {"cpus_per_worker": per_worker}})
    assert config.resolved(Hardware(cpus=cpus, memory_gb=1)).workers.count == count


def test_the_gpu_profile_needs_a_gpu_here_or_a_cluster() -> None:
    with pytest.raises(ConfigError, match="this machine shows no GPU; use --profile cpu"):
        CampaignConfig(profile="gpu").resolved(LAPTOP)
    remote = CampaignConfig.model_validate({"profile": "gpu", "ray": {"address": "ray://head:10001"}})
    assert remote.resolved(LAPTOP).profile == "gpu"


@pytest.mark.parametrize("hardware", [LAPTOP, GPU_BOX])
def test_a_dumped_configuration_loads_as_it_was(tmp_path: Path, hardware: Hardware) -> None:
    config = CampaignConfig(tag="x", target=tmp_path).resolved(hardware)
    file = write(tmp_path / "campaign.yaml", dump_config(config))
    assert load_config(file) == config
    assert list(yaml.safe_load(dump_config(config))) == list(CampaignConfig.model_fields)
    assert CampaignConfig.model_validate(config.model_dump(mode="json")) == config, "as the journal keeps it"


def test_a_configuration_never_changes() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        CampaignConfig().seed = 3  # type: ignore[misc]
