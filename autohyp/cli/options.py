"""What the commands share: the options that pick a campaign, loading it, and naming an experiment."""

from __future__ import annotations

import difflib
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from autohyp.errors import CampaignError
from autohyp.journal import CampaignState, ExperimentEntry
from autohyp.journal.follow import Follower
from autohyp.paths import CampaignPaths, find_campaign

__all__ = [
    "ExperimentArgument",
    "JsonOption",
    "ResearchOption",
    "TagOption",
    "console",
    "examples",
    "load_campaign",
    "print_json",
    "resolve_experiment",
]

ResearchOption = Annotated[
    Path,
    typer.Option(
        "--research", metavar="DIR", envvar="AUTOHYP_RESEARCH", help="Folder that holds the campaigns."
    ),
]
TagOption = Annotated[
    str | None,
    typer.Option("--tag", "-t", metavar="TAG", help="Campaign to use. Default: the one worked on last."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
ExperimentArgument = Annotated[
    str,
    typer.Argument(
        metavar="EXP",
        help="An id, the beginning of one, a number (7), 'baseline' or 'champion'.",
        show_default=False,
    ),
]


def console() -> Console:
    """The console for standard output, made when needed so that a redirected stream is seen."""
    return Console(highlight=False)


def examples(*lines: str) -> str:
    """An epilog with one example a line."""
    return "\n\n".join(["**Examples**", *(f"`{line}`" for line in lines)])


def print_json(document: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")


def load_campaign(research: Path, tag: str | None) -> tuple[CampaignPaths, CampaignState]:
    """The campaign's paths and its state, replayed from the journal.

    Raises CampaignError when there is none, JournalDamagedError with the line where the journal stops
    making sense.
    """
    paths = find_campaign(research, tag)
    return paths, Follower(paths.journal).update()


def resolve_experiment(state: CampaignState, name: str) -> ExperimentEntry:
    """The experiment that `name` means: an id or a unique beginning of one, a number, or a role."""
    if name in ("baseline", "champion"):
        found = state.baseline if name == "baseline" else state.champion
        if found is None:
            raise CampaignError(f"campaign {state.tag} has no {name} yet; see `autohyp status`")
        return found
    if name in state.experiments:
        return state.experiments[name]
    if name.isdecimal():
        matches = [entry for entry in state.experiments.values() if entry.experiment.ordinal == int(name)]
    else:
        matches = [entry for key, entry in state.experiments.items() if name and key.startswith(name)]
    if len(matches) == 1:
        return matches[0]
    raise CampaignError(_no_such(state, name, [entry.experiment_id for entry in matches]))


def _no_such(state: CampaignState, name: str, matches: list[str]) -> str:
    if matches:
        more = f" and {len(matches) - 3} more" if len(matches) > 3 else ""
        return f"{name!r} begins {len(matches)} ids: {', '.join(matches[:3])}{more}; write more of it"
    if not state.experiments:
        return f"campaign {state.tag} has no experiment yet; see `autohyp status`"
    if name.isdecimal():
        return f"no experiment number {name} in campaign {state.tag}: it has 1 to {len(state.experiments)}"
    close = _close_ids(state, name)
    hint = f"did you mean {', '.join(close)}?" if close else "`autohyp status` names the latest"
    return f"no experiment {name!r} in campaign {state.tag}; {hint}"


def _close_ids(state: CampaignState, name: str) -> list[str]:
    """Ids that look like `name`, or whose words after the number do."""
    slugs = {key.partition("-")[2].partition("-")[2]: key for key in state.experiments}
    close: list[str] = difflib.get_close_matches(name, [*state.experiments, *slugs], n=3, cutoff=0.6)
    close += [key for slug, key in slugs.items() if name and name in slug][:3]
    return list(dict.fromkeys(slugs.get(match, match) for match in close))[:3]
