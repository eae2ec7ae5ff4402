"""progress.png: how far the campaign has come, in one picture.

A step line of the best val_bpb so far, a point per decided experiment (kept, discarded; failures at the
upper edge), the baseline with the noise between its runs, and the titles of what was kept. Points far above
the action are drawn at the edge so that they do not flatten it. The picture carries a digest of what it
shows and is drawn again only when that changes.
"""

from __future__ import annotations

import hashlib
import io
import json
import textwrap
from dataclasses import astuple, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from autohyp.journal.state import CampaignState
from autohyp.records import Verdict
from autohyp.views import facts
from autohyp.views.tables import VERDICTS, Points
from autohyp.views.text import clean_line

__all__ = ["PictureData", "draw_progress", "picture_data", "picture_is_current"]

_DRAWING_VERSION = 3
_FAILED = (Verdict.CRASH, Verdict.INVALID)
_INK, _GREY, _GREEN, _RED, _BLUE = "#22303c", "#b7c0c8", "#1f9d63", "#d1495b", "#3a6ea5"
_MAX_LABELS = 24
_DPI = 130
_LABEL_PT = 8
_LINE_PX = 1.45 * _LABEL_PT * _DPI / 72
_CHARACTER_PX = 0.53 * _LABEL_PT * _DPI / 72


@dataclass(frozen=True)
class PictureData:
    """What the picture shows; x is the position in the order of decisions, the baseline at 1."""

    tag: str
    kept: list[tuple[int, float, str]]
    discarded: list[tuple[int, float]]
    failed: list[int]
    num_decided: int
    noise_sd_bpb: float | None

    @property
    def digest(self) -> str:
        rest = json.dumps([_DRAWING_VERSION, *astuple(replace(self, discarded=[]))])
        content = rest.encode() + np.asarray(self.discarded, np.float64).tobytes()
        return f"autohyp-{hashlib.sha256(content).hexdigest()}"


def picture_data(state: CampaignState, points: Points) -> PictureData:
    """The campaign's decided experiments; `points` is what the tables know of each."""
    mean, verdict = points["mean_bpb"], points["verdict"]
    is_failed = np.isnan(mean) | np.isin(verdict, [VERDICTS.index(each) for each in _FAILED])
    is_kept = ~is_failed & (verdict == VERDICTS.index(Verdict.KEEP))
    kept = []
    for index in np.flatnonzero(is_kept).tolist():
        hypothesis = state.experiments[state.decision_order[index]].experiment.hypothesis
        kept.append((index + 1, float(mean[index]), clean_line(hypothesis.title)))
    others = np.flatnonzero(~is_failed & ~is_kept)
    discarded = list(zip((others + 1).tolist(), mean[others].tolist(), strict=True))
    failed = (np.flatnonzero(is_failed) + 1).tolist()
    noise = facts.noise_floor(state)
    return PictureData(
        _name(state), kept, discarded, failed, len(state.decision_order), noise.sd_bpb if noise else None
    )


def _name(state: CampaignState) -> str:
    """The tag, behind what a reader of the picture must not miss."""
    sandbox = facts.sandbox_name(state)
    return f"{sandbox}: {state.tag}" if sandbox in facts.LOUD_SANDBOXES.values() else state.tag


def picture_is_current(path: Path, data: PictureData) -> bool:
    """Whether the file shows exactly this."""
    try:
        with path.open("rb") as file:
            return data.digest.encode() in file.read(4096)
    except OSError:
        return False


def draw_progress(data: PictureData) -> bytes:
    """The picture as PNG; needs at least one kept experiment (the baseline)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6.2), dpi=_DPI, facecolor="white")
    figure.subplots_adjust(left=0.068, right=0.985, top=0.915, bottom=0.125)
    axes = figure.add_subplot()
    low, high = _limits(data)
    axes.set_ylim(low, high)
    axes.set_xlim(0.4, max(data.num_decided, 2) + 0.6)
    _draw_noise(axes, data)
    _draw_points(axes, data, high)
    _draw_best(axes, data)
    _draw_labels(axes, data)
    _dress(axes, data)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", metadata={"Software": "autohyp", "Comment": data.digest})
    return buffer.getvalue()


def _limits(data: PictureData) -> tuple[float, float]:
    """The action is between the best and the baseline, with room for labels below and most points above."""
    best = min(y for _, y, _ in data.kept)
    top = data.kept[0][1]
    points = sorted(y for _, y in data.discarded)
    if points:
        top = max(top, min(points[int(0.9 * (len(points) - 1))], top + 0.5 * max(top - best, 0.0)))
    span = max(top - best, 6 * (data.noise_sd_bpb or 0.0), 1e-3)
    return best - 0.2 * span, max(top, best) + 0.16 * span


def _draw_noise(axes: Any, data: PictureData) -> None:
    baseline = data.kept[0][1]
    axes.axhline(
        baseline,
        color=_BLUE,
        linewidth=1.1,
        linestyle=(0, (5, 4)),
        alpha=0.9,
        label=f"baseline {baseline:.4f}",
    )
    if data.noise_sd_bpb:
        band = (baseline - 2 * data.noise_sd_bpb, baseline + 2 * data.noise_sd_bpb)
        axes.axhspan(
            *band, color=_BLUE, alpha=0.10, linewidth=0, label=f"noise, ±2 × {data.noise_sd_bpb:.4f}"
        )


def _draw_points(axes: Any, data: PictureData, high: float) -> None:
    # One line of markers: 100,000 of them take half as long as a scatter.
    size = 5.1 if data.num_decided <= 200 else 3.0
    inside = [(x, y) for x, y in data.discarded if y <= high]
    above = [x for x, y in data.discarded if y > high]
    edge = high - 0.025 * (high - axes.get_ylim()[0])
    dots = {"linestyle": "", "markersize": size, "color": _GREY, "markeredgewidth": 0, "zorder": 2}
    if inside:
        axes.plot(*zip(*inside, strict=True), marker="o", label="discarded", **dots)
    if above:
        axes.plot(above, [edge] * len(above), marker="^", label="discarded, off scale", **dots)
    if data.failed:
        crosses = dots | {"color": _RED, "markeredgewidth": 1.3, "zorder": 3}
        edges = [edge] * len(data.failed)
        axes.plot(data.failed, edges, marker="x", label="crashed or invalid", **crosses)


def _draw_best(axes: Any, data: PictureData) -> None:
    xs, ys = [x for x, _, _ in data.kept], [y for _, y, _ in data.kept]
    axes.step(
        [*xs, data.num_decided + 0.6],
        [*ys, ys[-1]],
        where="post",
        color=_GREEN,
        linewidth=2.2,
        label="best so far",
        zorder=4,
    )
    axes.scatter(xs, ys, s=52, color=_GREEN, edgecolors="white", linewidths=1.2, label="kept", zorder=5)


def _draw_labels(axes: Any, data: PictureData) -> None:
    """Titles of kept changes: down and left of their points, where a falling line leaves room, else right."""
    placed: list[_Box] = []
    left, bottom = axes.transAxes.transform((0, 0))
    for x, y, title in _labelled(data):
        label = textwrap.shorten(title, 40, placeholder=" …")
        point_x, point_y = axes.transData.transform((x, y))
        width = _CHARACTER_PX * len(label)
        fits_left = point_x - 12 - width > left + 8
        box_left = point_x - 12 - width if fits_left else point_x + 14
        top = point_y - 12 if fits_left else point_y + _LINE_PX
        while any(other.meets(box_left, top, width) for other in placed):
            top -= 4
        if top - _LINE_PX < bottom:
            continue
        placed.append(_Box(box_left, top, width))
        axes.annotate(
            label.replace("$", r"\$"),
            (x, y),
            xytext=(box_left - point_x, top - point_y),
            textcoords="offset pixels",
            fontsize=_LABEL_PT,
            color=_INK,
            va="top",
            arrowprops={
                "arrowstyle": "-",
                "color": _GREEN,
                "linewidth": 0.5,
                "alpha": 0.6,
                "relpos": (1, 1) if fits_left else (0, 0.5),
            },
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "alpha": 0.75, "linewidth": 0},
            zorder=6,
        )


@dataclass(frozen=True)
class _Box:
    """A label's place in pixels: `top` is its upper edge, y grows upwards."""

    left: float
    top: float
    width: float

    def meets(self, left: float, top: float, width: float) -> bool:
        apart = left > self.left + self.width + 6 or left + width + 6 < self.left
        return not apart and abs(top - self.top) < _LINE_PX


def _labelled(data: PictureData) -> list[tuple[int, float, str]]:
    """The kept changes that get their title: all, or those that gained most."""
    gains = {after[0]: before[1] - after[1] for before, after in pairwise(data.kept)}
    largest = set(sorted(gains, key=lambda x: -gains[x])[:_MAX_LABELS])
    return [point for point in data.kept[1:] if point[0] in largest]


def _dress(axes: Any, data: PictureData) -> None:
    best, baseline = data.kept[-1][1], data.kept[0][1]
    improvements = len(data.kept) - 1
    headline = f"{data.tag}: {data.num_decided} experiments, {improvements} kept"
    if improvements:
        headline += f", val_bpb {baseline:.4f} → {best:.4f}"
    axes.set_title(headline.replace("$", r"\$"), loc="left", fontsize=14, color=_INK, pad=12, weight="bold")
    axes.set_xlabel("experiment, in the order of decisions", color=_INK, loc="left")
    axes.set_ylabel("validation bits per byte (lower is better)", color=_INK)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(axis="y", color="#e7ebee", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#9aa5ae")
    axes.tick_params(colors=_INK, labelsize=9)
    axes.figure.legend(loc="lower right", frameon=False, fontsize=8.5, ncols=7, columnspacing=1.4)
