"""`autohyp run` and `resume`: a campaign from its first line to its report."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from autohyp.agents.campaign import (
    campaign_facts,
    check_resumable,
    create_campaign,
    is_edited,
    new_tag,
    open_config,
)
from autohyp.agents.driver import claim_driver, show_life
from autohyp.cli.options import ResearchOption, TagOption, examples
from autohyp.config import CampaignConfig, load_config
from autohyp.errors import CampaignError, ConfigError, DataError, EditError, JournalError
from autohyp.execution.data import prepare_data
from autohyp.execution.sandbox.select import select_sandbox
from autohyp.execution.simulation import load_trainer, simulate
from autohyp.execution.workspace import Workspace
from autohyp.hardware import detect_hardware
from autohyp.journal import CampaignState
from autohyp.journal.follow import Follower
from autohyp.paths import CampaignPaths, bundled_target, find_campaign
from autohyp.policies.stopping import allowance, expected_run_s, has_nothing_to_do
from autohyp.records import Verdict
from autohyp.source import read_constants
from autohyp.views.facts import sandbox_words
from autohyp.views.live import LiveScreen
from autohyp.views.report import print_report
from autohyp.views.sync import sync_all

if TYPE_CHECKING:
    from autohyp.cluster.session import Session

__all__ = ["register"]

REFRESH_S = 0.5


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command(
        epilog=examples(
            "autohyp run --minutes 30    half an hour on this machine",
            "autohyp run --data files --paths '~/text/*.txt'    on your own text",
            "autohyp run mine/campaign.yaml --tag wide    with your own configuration",
        )
    )(run)
    app.command(
        epilog=examples(
            "autohyp resume    the campaign worked on last, without a time limit",
            "autohyp resume --tag nov23 --experiments 200    with a new limit",
        )
    )(resume)


MinutesOption = Annotated[
    float | None,
    typer.Option("--minutes", min=0.1, metavar="N", help="End this session after N minutes; resume goes on."),
]
ExperimentsOption = Annotated[
    int | None,
    typer.Option("--experiments", min=1, metavar="N", help="End the campaign after N experiments."),
]
HoursOption = Annotated[
    float | None,
    typer.Option("--hours", metavar="N", help="End the campaign after N hours of all its sessions."),
]
GpuHoursOption = Annotated[
    float | None,
    typer.Option("--gpu-hours", metavar="N", help="End it when its workers were busy for N hours together."),
]
UsdOption = Annotated[
    float | None,
    typer.Option("--usd", metavar="N", help="End it when its worker hours cost N dollars."),
]
UsdPerGpuHourOption = Annotated[
    float | None,
    typer.Option("--usd-per-gpu-hour", metavar="N", help="What an hour of one worker costs."),
]
AddressOption = Annotated[
    str | None,
    typer.Option("--address", metavar="HOST:PORT", help="Join this Ray cluster instead of starting one."),
]


def run(
    config_file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[CAMPAIGN.YAML]", help="Default: ./campaign.yaml, else everything by default."
        ),
    ] = None,
    research: ResearchOption = Path("research"),
    tag: Annotated[
        str | None, typer.Option("--tag", "-t", metavar="TAG", help="Its name. Default: month and day.")
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            "--profile", metavar="NAME", help="cpu or gpu: sizes and budget. Default: gpu where there is one."
        ),
    ] = None,
    minutes: MinutesOption = None,
    experiments: ExperimentsOption = None,
    hours: HoursOption = None,
    gpu_hours: GpuHoursOption = None,
    usd: UsdOption = None,
    usd_per_gpu_hour: UsdPerGpuHourOption = None,
    budget: Annotated[
        float | None, typer.Option("--budget", metavar="S", help="Training seconds of a run.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", metavar="N", help="How many train at once. Default: as many as fit."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="SOURCE", help="pystdlib, files (with --paths) or climbmix."),
    ] = None,
    text_paths: Annotated[
        list[str] | None,
        typer.Option(
            "--paths", metavar="GLOB", help="Text for --data files: parquet, jsonl or any text; repeatable."
        ),
    ] = None,
    sandbox: Annotated[
        str | None,
        typer.Option(
            "--sandbox", metavar="NAME", help="auto, bubblewrap, landlock or none (then every view says so)."
        ),
    ] = None,
    address: AddressOption = None,
) -> None:
    """Run a campaign: try hypotheses until a limit is reached or Ctrl-C ends it.

    The first runs repeat the untouched train.py and measure the noise; then every hypothesis is a commit, a
    sandboxed training run and a decision. Ctrl-C loses nothing: `autohyp resume` goes on.
    """
    path = config_file or (Path("campaign.yaml") if Path("campaign.yaml").is_file() else None)
    overrides = _overrides(
        {
            "tag": tag,
            "profile": profile,
            "limits": {
                "session_minutes": minutes,
                "max_experiments": experiments,
                "max_hours": hours,
                "max_gpu_hours": gpu_hours,
                "max_usd": usd,
                "usd_per_gpu_hour": usd_per_gpu_hour,
            },
            "run": {"budget_s": budget},
            "workers": {"count": workers},
            "data": {"source": data or ("files" if text_paths else None), "paths": text_paths or None},
            "sandbox": {"backend": sandbox},
            "ray": {"address": address},
        }
    )
    console = Console()
    paths, config = _begin(load_config(path, overrides), path, research, console)
    raise typer.Exit(_session(paths, config, console))


def _begin(
    config: CampaignConfig, config_file: Path | None, research: Path, console: Console
) -> tuple[CampaignPaths, CampaignConfig]:
    """Check everything that can be wrong, prepare the data, and lay the campaign out."""
    config = config.resolved(detect_hardware())
    tag = config.tag or new_tag(research)
    target = _target_files(config, config_file)
    texts = {name: file.read_text(encoding="utf-8") for name, file in target.items()}
    config = _with_trainer(config, texts["train.py"])
    if (research / tag).exists():
        raise CampaignError(f"campaign {tag} exists; `autohyp resume --tag {tag}` goes on with it")
    sandbox = sandbox_words(config.sandbox_name)
    console.print(f"campaign [bold]{tag}[/]: profile {config.profile}, {sandbox}")
    if config.simulation is None:
        data_dir = prepare_data(config, target["prepare.py"])
        config = config.model_copy(update={"data": config.data.model_copy(update={"directory": data_dir})})
    config = config.model_copy(update={"tag": tag})
    return create_campaign(research / tag, config, texts, campaign_facts(config)), config


def _with_trainer(config: CampaignConfig, source: str) -> CampaignConfig:
    """The configuration with a sandbox that holds here, or with a simulated trainer that gives runs."""
    if config.simulation is None:
        sandbox = select_sandbox(config.sandbox.backend)
        return config.model_copy(
            update={"sandbox": config.sandbox.model_copy(update={"backend": sandbox.name})}
        )
    trainer = load_trainer(config.simulation.trainer)
    simulate(trainer, read_constants(source), config.seed)
    return config


def resume(
    research: ResearchOption = Path("research"),
    tag: TagOption = None,
    minutes: MinutesOption = None,
    experiments: ExperimentsOption = None,
    hours: HoursOption = None,
    gpu_hours: GpuHoursOption = None,
    usd: UsdOption = None,
    usd_per_gpu_hour: UsdPerGpuHourOption = None,
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", metavar="DIR", help="Its prepared data, where that is elsewhere now."),
    ] = None,
    address: AddressOption = None,
) -> None:
    """Go on with a campaign where its journal ends, whatever ended it.

    What was measured stays; a run that was interrupted is run again. New limits may be given.
    """
    paths = find_campaign(research, tag)
    stored = open_config(paths)
    console = Console()
    if is_edited(paths, stored):
        console.print(
            f"{paths.config} was edited, which changes nothing: a campaign keeps what it began with, but for "
            "the limits that you give to resume",
            soft_wrap=True,
        )
    config = stored.model_copy(
        update={
            "limits": stored.limits.model_copy(update={"session_minutes": None}),
            "data": stored.data.model_copy(update={"directory": data_dir or stored.data.directory}),
            "ray": stored.ray.model_copy(update={"address": address or stored.ray.address}),
        }
    ).with_limits(
        {
            "session_minutes": minutes,
            "max_experiments": experiments,
            "max_hours": hours,
            "max_gpu_hours": gpu_hours,
            "max_usd": usd,
            "usd_per_gpu_hour": usd_per_gpu_hour,
        }
    )
    _with_trainer(config, "")
    try:
        campaign_facts(config)
    except DataError as error:
        raise DataError(f"{error}; `autohyp resume --data-dir DIR` names where it is now") from None
    raise typer.Exit(_session(paths, config, console))


def _overrides(values: dict[str, Any]) -> dict[str, Any]:
    """Only what was given on the command line."""
    given: dict[str, Any] = {}
    for key, value in values.items():
        inner = _overrides(value) if isinstance(value, dict) else value
        if inner is not None and inner != {}:
            given[key] = inner
    return given


def _target_files(config: CampaignConfig, config_file: Path | None) -> dict[str, Path]:
    """train.py and prepare.py of the campaign's target folder, else those that come with autohyp."""
    folder = config.target
    names = ("train.py", "prepare.py")
    if config_file is not None or (folder / "train.py").is_file():
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise ConfigError(f"{folder} lacks {' and '.join(missing)}; `autohyp init DIR` lays both out")
        return {name: folder / name for name in names}
    bundled = bundled_target()
    return {name: bundled[name] for name in names}


@contextmanager
def _one_interrupt() -> Iterator[None]:
    """Turn Ctrl-C, `autohyp stop`, a closed terminal or a batch system's end into one KeyboardInterrupt.

    Further ones are ignored: an impatient second Ctrl-C must not undo a clean end.
    """
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(number: int, frame: object) -> None:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _session(paths: CampaignPaths, config: CampaignConfig, console: Console) -> int:
    """One session with its live view and report; returns the exit code."""
    # Ray takes its time to import, and reads its settings from the environment then.
    from autohyp.cluster.session import Session, end_last_session, local_cluster

    with claim_driver(paths, clear_up=end_last_session):
        follower = Follower(paths.journal)
        workspace = Workspace(paths.repository)
        check_resumable(follower.update(), workspace, campaign_facts(config))
        workspace.close()
        _record_lost_end(paths, follower.update())  # roles that outlived their driver may have come to it
        _check_limits(paths, follower.update(), config)
        interrupted, error = False, None
        try:
            # Ray sets a handler of its own for SIGTERM when it starts: ours goes around it and inside it.
            with _one_interrupt(), local_cluster(config, paths) as dashboard_url, _one_interrupt():
                if dashboard_url:
                    console.print(f"Ray dashboard: {dashboard_url}")
                known, data_dir = follower.update().experiments, config.data.directory or paths.root
                with Session(paths, config, data_dir, known) as session:
                    error = _follow(session, follower, paths, console)
        except KeyboardInterrupt:
            interrupted = True
        _record_lost_end(paths, follower.update())
    state = follower.update()
    try:
        sync_all(paths, state)
    except OSError as problem:  # the journal has everything
        reason = problem.strerror or problem
        print(
            f"autohyp: some files are not up to date: {reason}; `autohyp sync` writes them", file=sys.stderr
        )
    print_report(paths, state, console)
    if error is not None:
        print(f"autohyp: the campaign failed: {error}", file=sys.stderr)
        return 1
    baseline = state.baseline
    failed = baseline is not None and baseline.verdict in (Verdict.CRASH, Verdict.INVALID)
    return 130 if interrupted else EditError.exit_code if failed else 0


def _record_lost_end(paths: CampaignPaths, state: CampaignState) -> None:
    """A campaign that is over has its session's end recorded, also when the cluster went in that moment."""
    from autohyp.cluster.session import end_lost_session

    session = state.sessions[-1] if state.sessions else None
    if state.ended is None or session is None or session.end_reason:
        return
    try:
        end_lost_session(paths, session.started.session_id, state.ended)
    except JournalError as problem:  # the campaign is over all the same
        print(f"autohyp: the session's end could not be recorded: {problem}", file=sys.stderr)


def _check_limits(paths: CampaignPaths, state: CampaignState, config: CampaignConfig) -> None:
    """Refuse a session that a limit would end before it did anything."""
    permission = allowance(state, config.limits, None, expected_run_s(state, config))
    if has_nothing_to_do(state, permission):
        sync_all(paths, state)  # the last driver may have been killed before it did
        raise CampaignError(
            f"campaign {state.tag}: {permission.reason}; give it more, as in `autohyp resume "
            f"--tag {state.tag} --experiments {len(state.experiments) + 10}` (see `autohyp resume --help`)"
        )


def _follow(session: Session, follower: Follower, paths: CampaignPaths, console: Console) -> str | None:
    """Show the campaign until its loop has ended; returns what went wrong in it, if anything."""
    try:
        with LiveScreen(paths, console) as screen:
            while True:
                reason, error = session.finished()
                screen.update(follower.update())
                show_life(paths)
                if reason is not None:
                    return error
                time.sleep(REFRESH_S)
    except KeyboardInterrupt:
        console.print("ending: what runs is given up, and tried again on resume ...")
        raise
