"""Commands that look at a campaign: status, show, diff, log, best, report, and sync (its files again).

They read the journal and need neither Ray nor the machine that ran it, so a copied campaign folder is enough.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markdown import Markdown
from rich.syntax import Syntax
from rich.text import Text

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
from autohyp.errors import CampaignError, WorkspaceError
from autohyp.journal import CampaignState, ExperimentEntry
from autohyp.journal.follow import Follower
from autohyp.paths import CampaignPaths, find_campaign
from autohyp.records import utc_now
from autohyp.views import facts
from autohyp.views.live import LiveScreen, render_live
from autohyp.views.plans import notes_by_experiment, plan_note
from autohyp.views.report import render_report, report_document
from autohyp.views.status import experiment_summary, standing, status_document
from autohyp.views.sync import sync_all
from autohyp.views.text import clean_line, clean_text
from autohyp.views.workers import read_present, read_workers

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command(
        epilog=examples(
            "autohyp status", "autohyp status --watch", "autohyp status --json | jq .champion.val_bpb"
        )
    )(status)
    app.command(epilog=examples("autohyp show champion", "autohyp show 7", "autohyp show exp-0007 --json"))(
        show
    )
    app.command(epilog=examples("autohyp diff champion", "autohyp diff 7 | git apply"))(diff)
    app.command(epilog=examples("autohyp log 7", "autohyp log 7 --run 43"))(log)
    app.command(epilog=examples("autohyp best", "autohyp best --source > train.py"))(best)
    app.command(epilog=examples("autohyp report", "autohyp report --json > report.json"))(report)
    app.command(epilog=examples("autohyp sync", "autohyp sync --tag mar8"))(sync)


# ---------------------------------------------------------------------------------------------
# status


def status(
    research: ResearchOption = Path("research"),
    tag: TagOption = None,
    as_json: JsonOption = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow the campaign until it ends.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between looks with --watch.")] = 1.0,
) -> None:
    """Show how a campaign stands: workers, best so far, the last decisions.

    With --watch the screen follows the campaign; into a pipe it prints one line for each thing that happens.
    """
    if watch and as_json:
        raise typer.BadParameter("choose one of --watch and --json")
    if watch:
        _watch(find_campaign(research, tag), interval)
        return
    paths, state = load_campaign(research, tag)
    workers, now, present = read_workers(paths), utc_now(), read_present(paths)
    if as_json:
        print_json(status_document(state, workers, now, present))
    else:
        console().print(render_live(state, workers, now, present))


def _watch(paths: CampaignPaths, interval_s: float) -> None:
    """Follow the journal until the campaign is laid down or ended."""
    follower = Follower(paths.journal)
    with LiveScreen(paths, console()) as screen:
        while True:
            state = follower.update()
            screen.update(state)
            if standing(state, read_workers(paths), utc_now()) in ("ended", "stopped"):
                return
            time.sleep(interval_s)


# ---------------------------------------------------------------------------------------------
# One experiment


def show(
    experiment: ExperimentArgument,
    research: ResearchOption = Path("research"),
    tag: TagOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one experiment: the hypothesis, what was expected, what came, and why it was decided so."""
    _, state = load_campaign(research, tag)
    entry = resolve_experiment(state, experiment)
    if as_json:
        print_json(_experiment_document(entry))
        return
    note = plan_note(entry, notes_by_experiment(state).get(entry.experiment_id))
    screen = console()
    if screen.is_terminal:
        screen.print(Markdown(note, hyperlinks=False, code_theme="ansi_dark"))
    else:
        sys.stdout.write(note)


def _experiment_document(entry: ExperimentEntry) -> dict[str, Any]:
    return experiment_summary(entry) | {
        "experiment": entry.experiment.model_dump(mode="json"),
        "seeds": entry.seeds,
        "runs_in_flight": list(entry.active),
        "results": [result.model_dump(mode="json") for result in entry.results],
        "decisions": [decision.model_dump(mode="json") for decision in entry.decisions],
    }


def diff(
    experiment: ExperimentArgument,
    research: ResearchOption = Path("research"),
    tag: TagOption = None,
) -> None:
    """Print what an experiment changed in train.py, as a unified diff against its parent."""
    _, state = load_campaign(research, tag)
    entry = resolve_experiment(state, experiment)
    patch = entry.experiment.diff
    screen = console()
    if not patch:
        typer.echo(f"autohyp: {entry.experiment_id} changes nothing", err=True)
    elif screen.is_terminal:
        screen.print(Syntax(clean_text(patch), "diff", theme="ansi_dark", background_color="default"))
    else:
        sys.stdout.write(patch)


def log(
    experiment: ExperimentArgument,
    research: ResearchOption = Path("research"),
    tag: TagOption = None,
    run: Annotated[
        str | None, typer.Option("--run", metavar="RUN", help="A run id or a seed. Default: the last run.")
    ] = None,
) -> None:
    """Print what the training script wrote in a run, without control characters."""
    paths, state = load_campaign(research, tag)
    entry = resolve_experiment(state, experiment)
    run_id = _find_run(entry, run)
    text = _read_log(paths, entry, run_id)
    if text is None:
        raise CampaignError(f"no log of {run_id} under {paths.runs / entry.experiment_id}")
    sys.stdout.write(text if text.endswith("\n") or not text else text + "\n")


def _find_run(entry: ExperimentEntry, wanted: str | None) -> str:
    runs = [(result.run_id, result.seed) for result in entry.results]
    runs += [(run.run_id, run.seed) for run in entry.active.values()]
    if not runs:
        raise CampaignError(f"{entry.experiment_id} has not run yet; see `autohyp status`")
    if wanted is None:
        return runs[-1][0]
    for run_id, seed in reversed(runs):
        if wanted in (run_id, str(seed)):
            return run_id
    known = ", ".join(f"{run_id} (seed {seed})" for run_id, seed in runs)
    raise CampaignError(f"no run {wanted!r} of {entry.experiment_id}; there are: {known}")


def _read_log(paths: CampaignPaths, entry: ExperimentEntry, run_id: str) -> str | None:
    """The log's text: the file, else the end of it that the journal keeps."""
    try:
        return clean_text(
            paths.log(entry.experiment_id, run_id).read_text(encoding="utf-8", errors="replace")
        )
    except OSError:
        tail = next((result.log_tail for result in entry.results if result.run_id == run_id), "")
        if not tail:
            return None
        typer.echo("autohyp: the log file is not here; this is its end, from the journal", err=True)
        return clean_text(tail)


# ---------------------------------------------------------------------------------------------
# The campaign


def best(
    research: ResearchOption = Path("research"),
    tag: TagOption = None,
    as_json: JsonOption = False,
    source: Annotated[bool, typer.Option("--source", help="Print the champion's train.py.")] = False,
) -> None:
    """Show the champion: the best train.py so far, and how much better than the baseline it is."""
    if source and as_json:
        raise typer.BadParameter("choose one of --source and --json")
    paths, state = load_campaign(research, tag)
    champion = resolve_experiment(state, "champion")
    if source:
        sys.stdout.write(_source(paths, champion))
        return
    document = _champion_document(state, champion)
    if as_json:
        print_json(document)
    else:
        _print_champion(state, document)


def _champion_document(state: CampaignState, champion: ExperimentEntry) -> dict[str, Any]:
    comparison, noise = facts.champion_against_baseline(state), facts.noise_floor(state)
    baseline = state.baseline
    return experiment_summary(champion) | {
        "tag": state.tag,
        "baseline_val_bpb": baseline.mean_bpb if baseline else None,
        "gain_over_baseline_bpb": comparison.gain_bpb if comparison else None,
        "gain_over_baseline_standard_error_bpb": comparison.standard_error_bpb if comparison else None,
        "noise_sd_bpb": noise.sd_bpb if noise else None,
        "constants": champion.experiment.constants,
        "lineage": list(state.lineage),
    }


def _print_champion(state: CampaignState, document: dict[str, Any]) -> None:
    score = "-" if document["val_bpb"] is None else f"{document['val_bpb']:.6f}"
    lines = [
        Text.assemble((score, "bold green"), f" val_bpb  {document['title']}"),
        Text(f"{document['experiment_id']}, {document['num_runs']} run(s), commit {document['commit'][:12]}"),
    ]
    if document["gain_over_baseline_bpb"] is not None:
        error = document["gain_over_baseline_standard_error_bpb"]
        spread = "" if error is None else f" ± {error:.6f}"
        lines.append(
            Text(
                f"{document['gain_over_baseline_bpb']:+.6f}{spread} over the baseline's "
                f"{document['baseline_val_bpb']:.6f}"
            )
        )
    steps = [
        clean_line(state.experiments[name].experiment.hypothesis.title) for name in document["lineage"][1:]
    ]
    lines += [Text(f"  {index}. {title}") for index, title in enumerate(steps, start=1)]
    lines.append(Text("autohyp best --source prints its train.py", style="dim"))
    console().print(*lines, sep="\n")


def _source(paths: CampaignPaths, champion: ExperimentEntry) -> str:
    """The champion's train.py out of the campaign's repository."""
    if not paths.repository.is_dir():
        raise WorkspaceError(f"{paths.repository} is not there; copy it from where the campaign ran")
    command = ["git", f"--git-dir={paths.repository}", "show", f"{champion.experiment.commit}:train.py"]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        raise WorkspaceError("git is not installed; install it and try again") from None
    if done.returncode:
        reason = clean_line(done.stderr.decode(errors="replace"))
        raise WorkspaceError(f"git cannot show train.py of {champion.experiment_id}: {reason}")
    return done.stdout.decode(errors="replace")


def report(
    research: ResearchOption = Path("research"),
    tag: TagOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sum a campaign up: the champion, how it got there, what was learnt, what failed, what it cost."""
    paths, state = load_campaign(research, tag)
    document = report_document(state)
    if as_json:
        print_json(document)
    else:
        console().print(render_report(document, paths))


def sync(
    research: ResearchOption = Path("research"),
    tag: TagOption = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Compare every file, whatever earlier syncs noted.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write all files of a campaign again from its journal: tables, plans, runs, brief, picture.

    The journal alone is enough, in any folder; the same journal gives the same files, byte for byte.
    """
    paths, state = load_campaign(research, tag)
    try:
        done = sync_all(paths, state, force=everything)
    except OSError as error:
        raise CampaignError(f"{paths.root}: cannot be written: {error.strerror or error}") from None
    if as_json:
        counts = {
            "experiments": done.num_experiments,
            "written": done.num_written,
            "unchanged": done.num_unchanged,
        }
        print_json({"folder": str(paths.root)} | counts)
    else:
        typer.echo(f"{paths.root}: {done.summary}")
