"""What comes over a run's pipes, taken with care: lines of bounded length, JSON that may be anything, a
thinned curve.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from autohyp.records import CurvePoint

__all__ = ["CURVE_POINTS", "MAX_LINE_BYTES", "Curve", "Lines", "as_object", "number"]

CURVE_POINTS = 100
MAX_LINE_BYTES = 65_536


class Lines:
    """Splits a stream into lines; of a line longer than MAX_LINE_BYTES nothing is kept."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            self._rest = b""
        return lines


class Curve:
    """The steps that the script reported, thinned as they come so that any number of them fits."""

    def __init__(self) -> None:
        self._points: list[CurvePoint] = []
        self._every = 1
        self._seen = 0
        self.last: CurvePoint | None = None
        self.num_steps = 0

    def add(self, event: Mapping[str, Any]) -> None:
        """Takes a step event; what is not one is ignored."""
        step, loss, progress = event.get("step"), number(event.get("loss")), number(event.get("progress"))
        if type(step) is not int or not 0 <= step < 1 << 53:
            return
        self.num_steps = max(self.num_steps, step)
        if loss is None:
            return
        self.last = CurvePoint(step=step, progress=min(1.0, max(0.0, progress or 0.0)), loss=loss)
        if self._seen % self._every == 0:
            self._points.append(self.last)
        self._seen += 1
        if len(self._points) >= 2 * CURVE_POINTS:
            self._points = self._points[::2]
            self._every *= 2

    def points(self) -> tuple[CurvePoint, ...]:
        """At most CURVE_POINTS of them, the first and the last included."""
        points = self._points
        if self.last is not None and points[-1] is not self.last:
            points = [*points, self.last]
        if len(points) <= CURVE_POINTS:
            return tuple(points)
        gap = (len(points) - 1) / (CURVE_POINTS - 1)
        return tuple(points[round(i * gap)] for i in range(CURVE_POINTS))


def as_object(line: bytes) -> dict[str, Any]:
    """The JSON object in a line; empty if there is none."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def number(value: object) -> float | None:
    """A finite number, or None."""
    if not isinstance(value, int | float | str) or isinstance(value, bool):
        return None
    try:
        result = float(value)
    except (ValueError, OverflowError):
        return None
    return result if math.isfinite(result) else None
