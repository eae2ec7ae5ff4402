"""`autohyp verify`: an experiment made again, on fresh seeds and on text that no decision has seen."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from autohyp.agents.base import RunOrder
from autohyp.agents.campaign import check_resumable, data_facts, open_config
from autohyp.agents.driver import driver_process
from autohyp.agents.verifier import WORKER_ID, Mute, Verification, Verifier, check_commit
from autohyp.agents.worker import Slot, Worker
from autohyp.cli.options import (
    ExperimentArgument,
    JsonOption,
    ResearchOption,
    TagOption,
    console,
    examples,
    load_campaign,
    print_json,
    resolve_experiment,
)
from autohyp.config import CampaignConfig
from autohyp.errors import CampaignError, DataError
from autohyp.execution.sandbox.select import select_sandbox
from autohyp.execution.workspace import Workspace
from autohyp.hardware import detect_hardware
from autohyp.journal import CampaignState, ExperimentEntry
from autohyp.journal.events import RunFinished
from autohyp.paths import CampaignPaths
from autohyp.records import RunResult
from autohyp.views.facts import sandbox_words
from autohyp.views.text import clean_line

__all__ = ["register"]

EXIT_DOES_NOT_HOLD = 8


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(
        epilog=examples(
            "autohyp verify champion",
            "autohyp verify 7 --seeds 3 --no-holdout",
            "autohyp verify champion --json",
        )
    )(verify)


def verify(
    experiment: ExperimentArgument,
    research: ResearchOption = Path("research"),
    tag: TagOption = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, max=100, metavar="N", help="Fresh seeds.")] = 2,
    holdout: Annotated[
        bool, typer.Option("--holdout/--no-holdout", help="Also on the hold-out split, the baseline too.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Check an experiment: train its commit again, on fresh seeds and on text that no decision has seen.

    Every line of the journal is checked against its hash, and the commit against the journal. Then come the
    runs, one after the other on one GPU (or some cores) of this machine: N on validation text and, for the
    hold-out split, N of the experiment and N of the baseline. Nothing is recorded. Exit code 8: it does not
    hold.
    """
    paths, state = load_campaign(research, tag)
    entry = resolve_experiment(state, experiment)
    config = open_config(paths)
    _check(paths, state, entry, config)
    screen = Console(stderr=True, highlight=False) if as_json else console()
    worker = _worker(paths, config)
    budget_s = config.run.budget_s or 0.0
    screen.print(f"journal: {state.version:,} entries, every hash right; the commit is what they tell")
    screen.print(f"{clean_line(entry.experiment_id)}: {sandbox_words(config.sandbox_name)}")

    def measure(order: RunOrder) -> RunResult:
        run = order.run
        where = "validation" if order.split == "val" else "hold-out"
        told = f"{run.experiment_id} seed {run.seed}, {where}: "
        screen.print(f"{told}{budget_s:g} s of training ...", soft_wrap=True)
        placed = replace(order, run=run.model_copy(update={"gpu_name": worker.slot.gpu_name}))
        event = worker.measure(placed)
        if not isinstance(event, RunFinished):
            raise CampaignError(f"{run.run_id} was interrupted")
        result = event.result
        number = "no number" if result.val_bpb is None else f"{result.val_bpb:.6f} bpb"
        screen.print(f"{told}{number} ({result.num_steps} steps)", soft_wrap=True)
        return result

    verifier = Verifier(state, config.seed, worker.slot.gpu_name, measure)
    found = verifier.verify(entry, verifier.orders(entry, seeds, holdout=holdout))
    if as_json:
        print_json(found.document())
    else:
        _print(found, screen)
    raise typer.Exit(EXIT_DOES_NOT_HOLD if found.problems else 0)


def _check(
    paths: CampaignPaths, state: CampaignState, entry: ExperimentEntry, config: CampaignConfig
) -> None:
    """Refuse what cannot be verified, before anything is trained."""
    if config.simulation is not None:
        raise CampaignError(f"campaign {state.tag} is simulated: there is nothing to train again")
    if not entry.scores:
        raise CampaignError(
            f"{entry.experiment_id} has no number to verify; see `autohyp show {entry.experiment_id}`"
        )
    process = driver_process(paths)
    if process is not None:
        raise CampaignError(
            f"campaign {state.tag} runs (process {process.pid}): its workers would train at the same time; "
            "`autohyp stop` ends that"
        )
    if config.data.directory is None:
        raise DataError(f"campaign {state.tag} names no data folder")
    workspace = Workspace(paths.repository)
    try:
        check_resumable(state, workspace, data_facts(config.data.directory))
        check_commit(state, workspace, entry)
    finally:
        workspace.close()


def _worker(paths: CampaignPaths, config: CampaignConfig) -> Worker:
    """A worker of this process, on the first GPU or on as many cores as the campaign's have."""
    gpus = detect_hardware().gpus if config.profile == "gpu" else ()
    if config.profile == "gpu" and not gpus:
        raise CampaignError("the campaign trained on GPUs, and this machine has none")
    slot = Slot(
        worker_id=f"{WORKER_ID}-{os.getpid()}",
        node_id="",
        threads=config.workers.cpus_per_worker,
        gpu_index=0 if gpus else None,
        gpu_name=gpus[0] if gpus else "cpu",
    )
    assert config.data.directory is not None
    absolute = CampaignPaths(paths.root.resolve())  # the sandbox wants to know exactly
    return Worker(
        slot, config, absolute, config.data.directory, Mute(), select_sandbox(config.sandbox.backend)
    )


def _print(found: Verification, screen: Console) -> None:
    seeds = ", ".join(map(str, found.seeds))
    lines = [f"recorded {found.recorded_bpb:.6f}, fresh (seeds {seeds}) {found.fresh_bpb:.6f} bpb"]
    if found.improvement is not None:
        lines.append(f"fresh over recorded runs: {found.improvement}; positive is better")
    else:
        lines.append("they do not compare: another GPU type, or a campaign without a noise floor")
    if found.val_gain is not None:
        lines.append(f"gain over the baseline, validation: {found.val_gain}")
    if found.holdout_gain is not None:
        shrinkage = "" if found.shrinkage is None else f"; {found.shrinkage:.0%} less than on validation text"
        lines.append(f"gain over the baseline, hold-out:   {found.holdout_gain}{shrinkage}")
    for line in lines:
        screen.print(line, soft_wrap=True)
    for problem in found.problems:
        screen.print(f"[bold red]does not hold:[/] {problem}", soft_wrap=True)
    if not found.problems:
        screen.print("[bold green]confirmed:[/] nothing speaks against the record")
