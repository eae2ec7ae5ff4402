"""Small words: cleaning what came from experiments, and writing times and numbers.

Titles, reasons and logs come from models and from training code, so before they reach a terminal or a line-
based file every control character is taken out (an escape sequence could repaint the screen or forge a
line). Rich markup is not interpreted anywhere in the views: strings go in as `rich.text.Text`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

__all__ = [
    "clean_line",
    "clean_text",
    "clock_time",
    "duration",
    "parse_time",
    "plus_seconds",
    "seconds_between",
    "signed_bpb",
    "sparkline",
    "sureness",
    "to_seconds",
]

_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_LINE_SPACE = re.compile(r"[\s\u2028\u2029]+")


def clean_text(text: str) -> str:
    """`text` without escape sequences, control and direction characters; newlines and tabs stay."""
    if text.isprintable():
        return text
    return _CONTROL.sub("", _ESCAPE.sub("", text.replace("\r\n", "\n")))


def clean_line(text: str) -> str:
    """`text` as one line: cleaned, and every run of white space one space."""
    if text.isprintable():
        return " ".join(text.split())
    return _LINE_SPACE.sub(" ", clean_text(text.replace("\r", " ").replace("\x85", " "))).strip()


def parse_time(timestamp: str) -> datetime | None:
    """The time of an ISO 8601 string, UTC where it names no zone; None when it is none."""
    try:
        parsed = datetime.fromisoformat(timestamp)
    except ValueError:
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def to_seconds(timestamp: str) -> str:
    """An ISO 8601 time cut to whole seconds, as the older tools write it."""
    parsed = parse_time(timestamp)
    return timestamp if parsed is None else parsed.replace(microsecond=0).isoformat()


def plus_seconds(timestamp: str, seconds: float) -> str:
    """The time `seconds` later, to the millisecond; unchanged when `timestamp` is not a time."""
    parsed = parse_time(timestamp)
    if parsed is None:
        return timestamp
    moved = datetime.fromtimestamp(parsed.timestamp() + seconds, UTC)
    return moved.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_between(earlier: str, later: str) -> float:
    """Seconds from one ISO 8601 time to another, 0 when either is missing or they are reversed."""
    first, second = parse_time(earlier), parse_time(later)
    return 0.0 if first is None or second is None else max(0.0, (second - first).total_seconds())


def clock_time(timestamp: str) -> str:
    """`HH:MM:SS` of an ISO 8601 time (UTC)."""
    parsed = parse_time(timestamp)
    return "--:--:--" if parsed is None else parsed.astimezone(UTC).strftime("%H:%M:%S")


def duration(seconds: float) -> str:
    """A length of time in at most two units: `42 s`, `12 min 05 s`, `3 h 20 min`, `2 d 4 h`."""
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    if total < 86400:
        return f"{total // 3600} h {total % 3600 // 60:02d} min"
    return f"{total // 86400} d {total % 86400 // 3600} h"


def signed_bpb(value: float | None) -> str:
    """A difference of val_bpb with its sign, or a dash."""
    return "-" if value is None else f"{value:+.6f}"


def sureness(probability: float) -> str:
    """A probability in per cent that never claims certainty it does not have."""
    if 0.995 <= probability < 1:
        return ">99 %"
    return f"{probability:.0%}".replace("%", " %")


_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: list[float], width: int) -> str:
    """Values as a row of at most `width` bars, the lowest value the lowest; thinned evenly when too many."""
    if not values or width < 1:
        return ""
    if len(values) > width:
        values = [values[round(i * (len(values) - 1) / max(1, width - 1))] for i in range(width)]
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(_BARS[round((value - low) / span * (len(_BARS) - 1))] for value in values)
