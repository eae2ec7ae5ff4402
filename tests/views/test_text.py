"""Cleaning hostile text and writing times, numbers and JSON."""

from __future__ import annotations

import json

import pytest

from autohyp.views.files import json_text
from autohyp.views.text import (
    clean_line,
    clean_text,
    clock_time,
    duration,
    plus_seconds,
    seconds_between,
    sparkline,
    sureness,
    to_seconds,
)


@pytest.mark.parametrize(
    ("dirty", "line"),
    [
        ("plain", "plain"),
        ("  two   spaces ", "two spaces"),
        ("a\r\nb\tc\x0bd\x85e", "a b cd e"),
        ("\x1b[2J\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]0;title\x07x", "x"),
        ("\x9b31mred", "31mred"),
        ("nul\x00 bell\x07 back\x08", "nul bell back"),
        ("abc\u202edcba", "abcdcba"),
        ("line\u2028paragraph\u2029end", "line paragraph end"),
        ("[bold]markup stays text[/bold]", "[bold]markup stays text[/bold]"),
        ("größer → 好", "größer → 好"),
    ],
)
def test_clean_line(dirty: str, line: str) -> None:
    assert clean_line(dirty) == line


def test_clean_text_keeps_its_lines() -> None:
    assert clean_text("a\r\nb\n\tc\x1b[31md\x1b[0m\n") == "a\nb\n\tcd\n"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (65, "1 min 05 s"),
        (3600, "1 h 00 min"),
        (12000, "3 h 20 min"),
        (187200, "2 d 4 h"),
    ],
)
def test_duration(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_times() -> None:
    stamp = "2026-03-08T23:59:59.500Z"
    assert to_seconds(stamp) == "2026-03-08T23:59:59+00:00"
    assert plus_seconds(stamp, 0.75) == "2026-03-09T00:00:00.250Z"
    assert clock_time("2026-03-08T10:00:00+02:00") == "08:00:00"
    assert seconds_between(stamp, "2026-03-09T00:00:01Z") == 1.5
    assert seconds_between("2026-03-09T00:00:01Z", stamp) == 0.0
    assert (to_seconds("soon"), plus_seconds("soon", 1), clock_time("soon")) == ("soon", "soon", "--:--:--")
    assert seconds_between("soon", stamp) == 0.0


def test_sparkline_spans_its_values_and_keeps_both_ends() -> None:
    assert sparkline([3.0, 2.0, 1.0], 10) == "█▅▁"
    assert sparkline([1.0, 1.0], 10) == "▁▁"
    assert sparkline([], 10) == ""
    long = sparkline([float(value) for value in range(100)], 12)
    assert (len(long), long[0], long[-1]) == (12, "▁", "█")


def test_nobody_is_more_sure_than_he_is() -> None:
    assert [sureness(p) for p in (0.5, 0.994, 0.9999, 1.0)] == ["50 %", "99 %", ">99 %", "100 %"]


def test_json_text_is_json_in_ascii_with_one_line_a_field() -> None:
    document = {
        "a": {"b": [1, 2.5, "ü\u2028"], "c": {}},
        "list": [{"x": None}, {"y": True}],
        "t": (0.8, 0.95),
    }
    text = json_text(document)
    assert json.loads(text) == json.loads(json.dumps(document))
    assert text.isascii()
    assert text.endswith("}\n")
    assert '    "b": [1, 2.5, "\\u00fc\\u2028"],\n' in text
    assert json_text([]) == "[]\n"


def test_json_text_refuses_what_is_not_json() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_text({"loss": float("nan")})
