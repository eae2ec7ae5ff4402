"""Logs are cleaned, capped and parsed as data."""

from __future__ import annotations

from pathlib import Path
from unicodedata import category

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from autohyp.execution.logs import (
    MASK,
    MAX_HELD,
    TAIL_CHARACTERS,
    LogSink,
    SecretMasker,
    TextCleaner,
    clean,
    error_line,
    parse_summary,
)
from autohyp.execution.streams import CURVE_POINTS, Curve, Lines, as_object, number


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"plain\ttext\n", "plain\ttext\n"),
        (b"step 1\rstep 2\r\nend", "step 1\nstep 2\nend"),
        (b"\x1b[31mred\x1b[0m \x1b[2J\x1b[10;10Hgone", "red gone"),
        (b"\x1b]0;title\x07a\x1b]8;;http://x\x1b\\b", "ab"),
        (b"bell\x07 back\x08 nul\x00 del\x7f", "bell back nul del"),
        ("over\u202eride \u200bzero \u2028line".encode(), "override zero line"),
        ("caf\u00e9 \U0001f600".encode(), "caf\u00e9 \U0001f600"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"\x1b]never ended\nnext line", "\nnext line"),
    ],
)
def test_cleaning(raw: bytes, shown: str) -> None:
    assert clean(raw) == shown


PIECES = [b"\x1b", b"[", b"31", b"m", b"]0;", b"\x07", b"\\", b"a", b"\r", b"\n", b"\xc3", b"\xa9"]


@given(st.lists(st.sampled_from(PIECES)))
@example([b"\r", b"\x1b", b"[", b"\n"])
@example([b"\r", b"\x1b[31m", b"\n"])
def test_cleaning_does_not_depend_on_how_the_stream_is_cut(pieces: list[bytes]) -> None:
    cleaner = TextCleaner()
    streamed = "".join(cleaner.feed(piece) for piece in pieces) + cleaner.feed(b"", final=True)
    assert "\x1b" not in streamed
    assert streamed == clean(b"".join(pieces))


@given(st.binary())
def test_nothing_unprintable_is_left(raw: bytes) -> None:
    assert all(shown in "\n\t" or shown.isprintable() or category(shown) == "Zs" for shown in clean(raw))


KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nAAAA\n-----END RSA PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("using sk-proj-abcdefghijklmnopqrstu now", f"using {MASK} now"),
        ("ghp_" + "a1B2" * 9, MASK),
        ("aws AKIAIOSFODNN7EXAMPLE!", f"aws {MASK}!"),
        ("HF: hf_abcdefghijklmnopqrstuv", f"HF: {MASK}"),
        ("OPENAI_API_KEY=abc12345xyz", f"OPENAI_API_KEY={MASK}"),
        ('{"password": "hunter2hunter2"}', f'{{"password": "{MASK}"}}'),
        ("Authorization: Bearer abcdefgh12345", f"Authorization: Bearer {MASK}"),
        ("AWS_SECRET_ACCESS_KEY: wJalrXUtnFEMI/K7MDENG", f"AWS_SECRET_ACCESS_KEY: {MASK}"),
        (KEY + "after", f"{MASK}\n" * 4 + "after"),
    ],
)
def test_secrets_are_masked_however_the_stream_is_cut(line: str, kept: str) -> None:
    masker = SecretMasker()
    assert masker.feed(line, final=True) == kept
    masker = SecretMasker()
    assert "".join(map(masker.feed, line)) + masker.feed("", final=True) == kept


@pytest.mark.parametrize(
    "line",
    [
        "tokens: 1234567890 total_tokens_M: 499.6",
        "token = tensor([1, 2, 3])",
        "the secret is out, key: short",
        "_ZN2at6native29vectorized_elementwise_kernelILi4ENS0_11FillFunctor",
        "sha256 56fea55362a91d3756fea55362a91d3756fea55362a91d37",
        "tokens_per_second: 1_640_000 api_key: 12345678901",
    ],
)
def test_what_is_no_secret_stays(line: str) -> None:
    assert SecretMasker().feed(line, final=True) == line


def test_what_is_held_back_of_a_line_without_end_is_bounded(tmp_path: Path) -> None:
    with LogSink(tmp_path / "train.log", limit_bytes=10_000) as log:
        log.feed(b"." * 2000)
        assert len(log.tail) == 2000 - MAX_HELD
    assert log.tail == "." * 2000


def test_the_file_is_capped_and_the_tail_is_kept(tmp_path: Path) -> None:
    with LogSink(tmp_path / "new" / "train.log", limit_bytes=10) as log:
        log.feed(b"0123")
        log.feed("456\u00e9\u00e9\u00e9".encode())
        log.feed(b"the end")
    assert (tmp_path / "new" / "train.log").read_text() == "0123456\u00e9\n[autohyp: the log was cut here]\n"
    assert log.is_cut
    assert log.tail.endswith("the end")
    assert log.received_bytes == 20


def test_the_tail_is_bounded(tmp_path: Path) -> None:
    with LogSink(tmp_path / "train.log", limit_bytes=10) as log:
        for _ in range(100):
            log.feed(b"x" * 5000)
    assert len(log.tail) == TAIL_CHARACTERS


def test_a_summary_is_what_follows_the_last_rule() -> None:
    text = "val_bpb: 9\n---\nval_bpb: 1\nx\n---\nval_bpb:    0.9979\nnum_steps:  953\nbad line\ndepth:\n"
    assert parse_summary(text) == {"val_bpb": "0.9979", "num_steps": "953"}
    assert parse_summary("val_bpb: 1") == {}


@pytest.mark.parametrize(
    ("log", "line"),
    [
        ("Traceback\n  x\nValueError: bad\n", "ValueError: bad"),
        ("torch.OutOfMemoryError: no\ntail\n", "torch.OutOfMemoryError: no"),
        ("RuntimeError: first\nin between\n", "RuntimeError: first"),
        ("only this\n\n", "only this"),
        ("", ""),
    ],
)
def test_the_line_that_explains(log: str, line: str) -> None:
    assert error_line(log) == line


def test_lines_are_bounded() -> None:
    lines = Lines()
    assert lines.feed(b"a\nb") == [b"a"]
    assert lines.feed(b"c\n") == [b"bc"]
    assert lines.feed(b"[" * 100_000) == []
    assert lines.feed(b"\nnext\n") == [b"", b"next"]


@pytest.mark.parametrize("raw", [b"", b"\xff", b"[1]", b"[" * 50_000, b"nul"])
def test_what_is_no_object_is_empty(raw: bytes) -> None:
    assert as_object(raw) == {}


@pytest.mark.parametrize(
    ("value", "expected"),
    [("1.5", 1.5), (2, 2.0), (True, None), ("nan", None), (float("inf"), None), ("x", None), (10**400, None)],
)
def test_numbers_are_finite(value: object, expected: float | None) -> None:
    assert number(value) == expected


@pytest.mark.parametrize("n", [1, 99, 100, 101, 250, 5000])
def test_curves_are_thinned_between_their_ends(n: int) -> None:
    curve = Curve()
    for step in range(n):
        curve.add({"step": step, "loss": 1.0, "progress": step / n})
    points = curve.points()
    steps = [point.step for point in points]
    assert (steps[0], steps[-1]) == (0, n - 1)
    assert steps == sorted(set(steps))
    assert min(n, CURVE_POINTS // 2) <= len(steps) <= CURVE_POINTS


def test_a_curve_ignores_what_is_no_step() -> None:
    curve = Curve()
    for step, loss in (("1", 1.0), (True, 1.0), (-1, 1.0), (1 << 60, 1.0), (3, float("nan")), (4, None)):
        curve.add({"step": step, "loss": loss, "progress": 0.5})
    assert curve.points() == ()
    assert curve.num_steps == 4
