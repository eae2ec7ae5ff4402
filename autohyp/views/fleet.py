"""fleet/: who works in the campaign, and the instructions of each role for people and agents who take part.

All paths are relative to a checkout that holds the campaign folder as `research/`, which is how the older
tools read them, and which keeps this machine's paths out of files that are passed on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autohyp.journal.state import CampaignState
from autohyp.views.text import clean_line, to_seconds

__all__ = ["fleet_files", "fleet_manifest"]


def _workers(state: CampaignState, gpus: Mapping[str, str]) -> dict[str, str]:
    """The GPU id of each worker that had a run, by worker id."""
    at_work = {run.worker_id: run.gpu_id for run in state.in_flight.values()}
    return dict(sorted((at_work | dict(gpus)).items()))


def fleet_manifest(state: CampaignState, gpus: Mapping[str, str]) -> dict[str, Any]:
    """fleet/manifest.json; `gpus` are the GPU ids of workers with results, by worker id.

    A worker without a GPU is numbered in its place.
    """
    active = {run.worker_id: run for run in state.in_flight.values()}
    workers = []
    for index, (worker_id, known_gpu_id) in enumerate(_workers(state, gpus).items()):
        gpu_id = known_gpu_id or str(index)
        now = active.get(worker_id)
        hypothesis = state.experiments[now.experiment_id].experiment.hypothesis if now else None
        workers.append(
            {
                "worker_id": worker_id,
                "gpu_id": gpu_id,
                "branch": f"autoresearch/{state.tag}-gpu{gpu_id}",
                "worktree_path": f"worktrees/{worker_id}",
                "prompt_path": f"research/fleet/worker-prompts/{worker_id}.md",
                "current_run_id": now.run_id if now else None,
                "current_hypothesis_id": hypothesis.hypothesis_id if hypothesis else None,
                "current_title": hypothesis.title if hypothesis else None,
            }
        )
    return {
        "tag": state.tag,
        "created_at": to_seconds(state.created.created_at) if state.created else "",
        "repository_root": ".",
        "shared_research_dir": "research",
        "observer_prompt_path": "research/fleet/observer-agent.md",
        "tool_builder_prompt_path": "research/fleet/tool-builder.md",
        "workers": workers,
    }


def fleet_files(state: CampaignState, gpus: Mapping[str, str]) -> dict[str, str]:
    """The texts of fleet/ by path inside the campaign's folder."""
    objective = clean_line(state.created.objective) if state.created else ""
    files = {
        "fleet/observer-agent.md": _OBSERVER.format(tag=state.tag, objective=objective),
        "fleet/tool-builder.md": _TOOL_BUILDER.format(tag=state.tag),
    }
    for worker_id in _workers(state, gpus):
        files[f"fleet/worker-prompts/{worker_id}.md"] = _WORKER.format(tag=state.tag, worker_id=worker_id)
    return files


_OBSERVER = """\
# Observer of campaign {tag}

Goal: {objective}

The observer owns the queue, the dispatch and the decisions. In this campaign autohyp does all three by
itself; this page is for whoever watches it or reads its records.

1. Read `research_brief.json` (goal, limits, champion, findings, queue) and `search_model.md` (beliefs).
2. Look at one experiment: `plans/<experiment_id>.md` holds the hypothesis and the outcome,
   `runs/<experiment_id>/` the measurement, `diff.patch` the change.
3. A decision is a function of the measurements and of the noise between equal runs. It is in the journal
   with its numbers and is not edited afterwards; files here are views, written again by `autohyp sync`.

Commands: `autohyp status --tag {tag}`, `autohyp show EXPERIMENT --tag {tag}`, `autohyp best --tag {tag}`.
"""

_TOOL_BUILDER = """\
# Tool builder of campaign {tag}

The tool builder makes what the observer asks for in `tools/registry.json` (status `requested`), measures
whether it would have helped on the campaign's own past, and publishes it under `tools/published/` with that
worth.

- A tool solves one stated problem, reads `experiments.jsonl` or `journal.jsonl`, and writes nothing in them.
- A tool that does not beat what was there before on the recorded past is discarded, with the reason.
- It never runs experiments and never touches train.py.
"""

_WORKER = """\
# Worker {worker_id} of campaign {tag}

A worker holds one device and runs one experiment after another, each in a sandbox and a checkout of its own.

- It runs what the observer dispatched and proposes nothing.
- Only train.py differs from the champion; prepare.py and the data are fixed.
- The score comes from the evaluator, a process outside the sandbox; what the script prints is informative.
- Its present run is in `live/workers/{worker_id}.json`, its past ones in `runs/*/metadata.json`.
"""
