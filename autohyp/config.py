"""What a campaign is told before it starts: `campaign.yaml` as one validated, frozen model.

Every field has a unit and a description; `None` means "decided by the profile or the machine", and
`CampaignConfig.resolved` fills those in, so that the configuration stored with a campaign is explicit. An
unknown or wrong field is one clear message that names it and the closest known name.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from autohyp.errors import ConfigError
from autohyp.records import ConstantValue, Hardware

__all__ = [
    "CPU_CONSTANTS",
    "PROFILES",
    "CampaignConfig",
    "DataConfig",
    "DecisionConfig",
    "LimitsConfig",
    "Profile",
    "RayConfig",
    "RunConfig",
    "SandboxConfig",
    "Section",
    "SimulationConfig",
    "WorkersConfig",
    "dump_config",
    "load_config",
]

CPU_CONSTANTS: dict[str, ConstantValue] = {
    "DEPTH": 4,
    "ASPECT_RATIO": 8,
    "HEAD_DIM": 16,
    "TOTAL_BATCH_SIZE": 2**12,
    "DEVICE_BATCH_SIZE": 8,
}
"""The reference model brought down to a size that one CPU core trains 100 steps in half a minute."""


class Section(BaseModel):
    """Base of all parts of the configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Profile(Section):
    """What a kind of machine implies: the run's budget and the target's starting constants."""

    budget_s: float
    startup_allowance_s: float
    evaluation_timeout_s: float
    memory_mb: int
    constants: dict[str, ConstantValue]


PROFILES: dict[str, Profile] = {
    "cpu": Profile(
        budget_s=30,
        startup_allowance_s=30,
        evaluation_timeout_s=60,
        memory_mb=4_000,
        constants=CPU_CONSTANTS,
    ),
    "gpu": Profile(
        budget_s=300,
        startup_allowance_s=180,
        evaluation_timeout_s=180,
        memory_mb=64_000,
        constants={},
    ),
}

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]


class DataConfig(Section):
    """Where the text comes from."""

    source: Literal["pystdlib", "files", "climbmix"] | None = Field(
        default=None,
        description="pystdlib: this machine's Python standard library; files: `paths`; climbmix: the public "
        "shards. Default: pystdlib on cpu, climbmix on gpu.",
    )
    paths: tuple[str, ...] = Field(default=(), description="files: glob patterns of parquet, jsonl or text")
    column: str = Field(default="text", description="files: the column or key that holds a document's text")
    shards: PositiveInt = Field(default=10, description="climbmix: training shards to download")
    directory: Path | None = Field(
        default=None, description="A prepared data folder to use as it is; default: the cache's"
    )


class RunConfig(Section):
    """One training run."""

    budget_s: PositiveFloat | None = Field(
        default=None, description="Training seconds charged to a run; default 30 on cpu, 300 on gpu"
    )
    startup_allowance_s: PositiveFloat | None = Field(
        default=None, description="Seconds for imports and compilation before the budget is charged"
    )
    evaluation_timeout_s: PositiveFloat | None = Field(
        default=None, description="Seconds that an evaluation may take"
    )
    share_kernels: bool | None = Field(
        default=None,
        description="Compile what an experiment was built on once, and lend its runs those kernels; "
        "default: on GPUs",
    )
    predict_memory: bool | None = Field(
        default=None,
        description="Tell by a step without contents whether a run fits into its GPU, and end one that "
        "does not; default: on GPUs",
    )
    constants: dict[str, ConstantValue] | None = Field(
        default=None,
        description="Constants of train.py that the baseline starts with; default: the profile's",
    )


class WorkersConfig(Section):
    """Who trains."""

    count: PositiveInt | None = Field(
        default=None, description="Workers; default: one a GPU of the cluster, or per `cpus_per_worker` cores"
    )
    cpus_per_worker: PositiveInt = Field(default=1, description="Cores of a worker without a GPU")
    heartbeat_s: PositiveFloat = Field(default=1.0, description="Seconds between a worker's signs of life")
    lost_after_s: PositiveFloat = Field(
        default=4.0,
        description="Seconds of silence after which a worker is given up and its run queued again",
    )
    max_faults: PositiveInt = Field(
        default=3, description="Failures of a worker in a row after which it gets no more runs"
    )


class SimulationConfig(Section):
    """Runs that only pretend to train: for trying the system itself at scale. Every view says so."""

    trainer: str = Field(
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="`module:function` of a callable that turns constants and a seed into a result curve",
    )
    time_scale: float = Field(
        default=1.0, ge=0, description="Real seconds a simulated second takes; 0 does not wait at all"
    )
    workers_per_process: PositiveInt = Field(default=50, description="Simulated workers in one process")


class SandboxConfig(Section):
    """How an experiment is confined."""

    backend: Literal["auto", "bubblewrap", "landlock", "none"] = Field(
        default="auto",
        description="auto takes the first that passes its self-check; none is shown in every view",
    )
    memory_mb: PositiveInt | None = Field(default=None, description="Memory of a run's process tree, MiB")
    processes: PositiveInt = Field(default=512, description="Processes and threads of a run")
    open_files: PositiveInt = Field(default=4096, description="Open files of a run")
    scratch_mb: PositiveInt = Field(default=4096, description="Disk that a run may fill, MiB")
    log_mb: PositiveFloat = Field(default=4, description="Training log kept of a run, MiB")


class DecisionConfig(Section):
    """When a change is believed (see docs/decisions.md)."""

    baseline_runs: int = Field(default=3, ge=2, description="Runs of the baseline, which measure the noise")
    champion_runs: int = Field(
        default=2, ge=1, description="Runs of a new champion, so that its mean is no lucky draw"
    )
    max_runs: int = Field(
        default=16, ge=1, description="Runs of an experiment, and of its champion, before it must be decided"
    )
    false_keep_rate: float = Field(
        default=0.05,
        gt=0,
        lt=0.5,
        description="Share of all that a campaign keeps that may be without effect; where nothing has an "
        "effect, the probability that the campaign ever keeps anything",
    )
    min_chance: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="An experiment whose chance of being kept falls below this gets no more runs",
    )
    prior_gain_sd_bpb: PositiveFloat | None = Field(
        default=None, description="Spread of true effects expected, bpb; default: 5 noise deviations"
    )
    min_gain_bpb: float = Field(
        default=0.0,
        ge=0,
        description="Gains below this are not worth GPU time, bpb; default: any gain counts",
    )
    tie_fraction: float = Field(
        default=0.5, ge=0, description="Within this many standard errors the shorter source wins"
    )


class LimitsConfig(Section):
    """When the campaign ends by itself; without any limit it never does."""

    max_experiments: PositiveInt | None = Field(
        default=None, description="Decided experiments, baseline included"
    )
    max_runs: PositiveInt | None = Field(default=None, description="Finished runs")
    max_hours: PositiveFloat | None = Field(default=None, description="Hours of wall time over all sessions")
    max_gpu_hours: PositiveFloat | None = Field(
        default=None, description="Hours that workers were busy, start-up and evaluation included"
    )
    max_usd: PositiveFloat | None = Field(
        default=None, description="US dollars: worker hours times `usd_per_gpu_hour`"
    )
    usd_per_gpu_hour: PositiveFloat | None = Field(
        default=None, description="What an hour of one worker costs, US dollars; needed for `max_usd`"
    )
    session_minutes: PositiveFloat | None = Field(
        default=None, description="Minutes of this session: no run starts that would not end in time"
    )

    @model_validator(mode="after")
    def _money_needs_a_price(self) -> Self:
        if self.max_usd is not None and self.usd_per_gpu_hour is None:
            raise ValueError("max_usd needs usd_per_gpu_hour, what an hour of one worker costs")
        return self


class RayConfig(Section):
    """The Ray cluster to use."""

    address: str | None = Field(default=None, description="None starts a cluster on this machine")
    dashboard: bool = Field(default=True, description="Start Ray's dashboard with a local cluster")
    dashboard_port: int = Field(
        default=8265, ge=0, le=65535, description="Its port; the next free one is taken"
    )


TAG_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


class CampaignConfig(Section):
    """A campaign: target, data, budget, workers, decisions and limits."""

    tag: str | None = Field(
        default=None, description="The campaign's name and folder; default: month and day"
    )
    objective: str = Field(default="lower val_bpb within the fixed training budget", description="In words")
    profile: Literal["auto", "cpu", "gpu"] = Field(
        default="auto", description="auto takes gpu where there is one"
    )
    target: Path = Field(default=Path("."), description="Folder with train.py and prepare.py")
    data: DataConfig = Field(default_factory=DataConfig)
    run: RunConfig = Field(default_factory=RunConfig)
    workers: WorkersConfig = Field(default_factory=WorkersConfig)
    researchers: tuple[str, ...] = Field(default=("library",), min_length=1, description="Who proposes")
    decisions: DecisionConfig = Field(default_factory=DecisionConfig)
    limits: LimitsConfig = Field(default_factory=LimitsConfig)
    sandbox: SandboxConfig = Field(default_factory=SandboxConfig)
    simulation: SimulationConfig | None = Field(default=None, description="Pretend to train (see above)")
    ray: RayConfig = Field(default_factory=RayConfig)
    seed: int = Field(default=42, ge=0, description="Seed of the first run of every experiment")

    @field_validator("tag")
    @classmethod
    def _tag_is_a_folder_name(cls, tag: str | None) -> str | None:
        if tag is not None and not TAG_PATTERN.fullmatch(tag):
            raise ValueError("use lower-case letters, digits, '.', '_' and '-', at most 63 characters")
        return tag

    @property
    def sandbox_name(self) -> str:
        """What confines the runs, as every result says: "simulated" when there is nothing to confine."""
        return "simulated" if self.simulation is not None else self.sandbox.backend

    def with_limits(self, given: dict[str, Any]) -> Self:
        """This configuration with other limits, those of `given` that are not None; else ConfigError."""
        values = {name: value for name, value in given.items() if value is not None}
        try:
            limits = LimitsConfig.model_validate(self.limits.model_dump() | values)
        except ValidationError as error:
            raise ConfigError(f"limits: {_explain(error).removeprefix('the file: ')}") from None
        return self.model_copy(update={"limits": limits})

    def resolved(self, hardware: Hardware) -> Self:
        """This configuration with every default that depends on the machine written out."""
        name = self.profile if self.profile != "auto" else ("gpu" if hardware.gpus else "cpu")
        profile = PROFILES[name]
        is_real = self.simulation is None
        if name == "gpu" and is_real and not hardware.gpus and self.ray.address is None:
            raise ConfigError(
                "profile gpu: this machine shows no GPU; use --profile cpu, or --address of a cluster"
            )
        run, sandbox = self.run, self.sandbox
        constants = profile.constants if is_real else {}  # a simulated model has no size that could not fit
        # On GPUs the cluster decides, which may grow; simulated workers and cores are counted here.
        workers = None if name == "gpu" and is_real else max(1, hardware.cpus // self.workers.cpus_per_worker)
        return self.model_copy(
            update={
                "profile": name,
                "data": self.data.model_copy(
                    update={"source": self.data.source or ("pystdlib" if name == "cpu" else "climbmix")}
                ),
                "run": RunConfig(
                    budget_s=run.budget_s or profile.budget_s,
                    startup_allowance_s=run.startup_allowance_s or profile.startup_allowance_s,
                    evaluation_timeout_s=run.evaluation_timeout_s or profile.evaluation_timeout_s,
                    share_kernels=name == "gpu" if run.share_kernels is None else run.share_kernels,
                    predict_memory=name == "gpu" if run.predict_memory is None else run.predict_memory,
                    constants=constants if run.constants is None else run.constants,
                ),
                "workers": self.workers.model_copy(update={"count": self.workers.count or workers}),
                "sandbox": sandbox.model_copy(update={"memory_mb": sandbox.memory_mb or profile.memory_mb}),
            }
        )


def _known_names(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The field names at the place that `location` points into, for a suggestion."""
    for part in location[:-1]:
        field = model.model_fields.get(str(part))
        if field is None or not (
            isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        ):
            return []
        model = field.annotation
    return list(model.model_fields)


def _explain(error: ValidationError) -> str:
    """Every problem of a validation error in one line."""
    problems = []
    for item in error.errors():
        name = ".".join(str(part) for part in item["loc"]) or "the file"
        if item["type"] == "extra_forbidden":
            known = _known_names(CampaignConfig, item["loc"])
            close = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(known)}" if known else ""
            problems.append(f"{name}: unknown field{hint}")
        else:
            problems.append(f"{name}: {item['msg'].removeprefix('Value error, ')}")
    return "; ".join(dict.fromkeys(problems))


def _merge(base: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in overrides.items():
        merged[key] = (
            _merge(merged[key], value)
            if isinstance(value, dict) and isinstance(merged.get(key), dict)
            else value
        )
    return merged


def load_config(path: Path | None = None, overrides: dict[str, Any] | None = None) -> CampaignConfig:
    """Read `campaign.yaml`, lay `overrides` (nested, from the command line) over it and validate.

    `target` is made absolute against the file's folder. Raises ConfigError with one line.
    """
    values: dict[str, Any] = {}
    where = "configuration"
    if path is not None:
        where = str(path)
        try:
            loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"{path}: no such file; `autohyp init` writes one") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read: {error}") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
        if loaded is not None and not isinstance(loaded, dict):
            raise ConfigError(f"{path}: must be a mapping of fields, not {type(loaded).__name__}")
        values = loaded or {}
    try:
        config = CampaignConfig.model_validate(_merge(values, overrides or {}))
    except ValidationError as error:
        raise ConfigError(f"{where}: {_explain(error)}") from None
    if path is not None and not config.target.is_absolute():
        config = config.model_copy(update={"target": (path.parent / config.target).resolve()})
    return config


def dump_config(config: CampaignConfig) -> str:
    """The configuration as YAML, in the order of its fields."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
