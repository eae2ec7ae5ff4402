"""Diffs: what is made here, git takes, and it comes back to the byte."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from autohyp.patches import apply_patch, blob_hash, git_diff, reverse_patch, short_stat, unified_diff

LINES = st.lists(
    st.sampled_from(
        ["a", "b", "c", "", "    d", "-x", "+y", "--- a", "+++ b", "@@ -1 +1 @@", "\\ z", "é🙂", "e\r"]
    ),
    max_size=30,
)
TEXTS = st.builds(lambda lines, end: "\n".join(lines) + end, LINES, st.sampled_from(["", "\n", "\r\n"]))


def far_apart(num_lines: int) -> tuple[str, str]:
    """Two long texts without a line in common."""
    return "".join(f"a{i}\n" for i in range(num_lines)), "".join(f"b{i}\n" for i in range(num_lines))


@given(TEXTS, TEXTS)
@example("", "x")
@example("x", "")
@example("x", "x\n")
@example("a\nx", "b\nx")
@example("a\na\na\na\na", "b\na\na\na\na")
@example("x\n" * 9 + "y", "z\n" + "x\n" * 9 + "y")
@example(*far_apart(1001))
def test_a_diff_gives_the_new_text_to_the_byte(old: str, new: str) -> None:
    if old == new:
        assert git_diff(old, new) == unified_diff(old, new) == ""
    else:
        assert apply_patch(old, git_diff(old, new)) == new


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("apply")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXTS, TEXTS)
@example("", "x")
@example("x", "")
@example("x", "x\n")
@example("a\nx", "b\nx")
@example("a\na\na\na\na", "b\na\na\na\na")
@example("a = 1\r\nb = 2\r\n", "a = 1\r\nb = 3")
@example(*far_apart(1001))
def test_git_applies_it(folder: Path, old: str, new: str) -> None:
    (folder / "train.py").write_bytes(old.encode())
    patch = git_diff(old, new).encode()
    if patch:
        command = ["git", "-c", "core.autocrlf=false", "apply", "-"]
        done = subprocess.run(command, cwd=folder, input=patch, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
    assert (folder / "train.py").read_bytes() == new.encode()


@settings(max_examples=25)
@given(TEXTS, TEXTS)
def test_its_header_and_its_counts_are_gits(old: str, new: str) -> None:
    if old != new:
        diff = git_diff(old, new)
        command = ["git", "apply", "--numstat", "-"]
        said = subprocess.run(command, input=diff.encode(), capture_output=True, check=True).stdout.decode()
        told = re.findall(r"(\d+) (insertion|deletion)", short_stat(diff))
        counts = {word: count for count, word in told}
        assert said == f"{counts.get('insertion', 0)}\t{counts.get('deletion', 0)}\ttrain.py\n"
        hashed = subprocess.run(
            ["git", "hash-object", "--no-filters", "--stdin"],
            input=new.encode(),
            capture_output=True,
            check=True,
        )
        assert blob_hash(new.encode()) == hashed.stdout.decode().strip()
        assert f"..{blob_hash(new.encode())[:12]} 100644\n" in diff


@given(LINES, LINES)
def test_a_reversed_diff_takes_it_back(before: list[str], after: list[str]) -> None:
    plain = [[line for line in lines if line[:3] not in {"---", "+++"}] for lines in (before, after)]
    old, new = ("\n".join(lines) + "\n" for lines in plain)
    # A line `-x` that is added looks like a file's header with `++` before it; researchers write no such.
    if old != new:
        assert apply_patch(new, reverse_patch(unified_diff(old, new))) == old


def test_only_what_changed_is_shown_with_three_lines_around() -> None:
    lines = [f"line {i}\n" for i in range(100)]
    changed = [*lines[:50], "another\n", *lines[51:]]
    assert unified_diff("".join(lines), "".join(changed)).splitlines() == [
        *("--- a/train.py", "+++ b/train.py", "@@ -48,7 +48,7 @@"),
        *(" line 47", " line 48", " line 49", "-line 50", "+another", " line 51", " line 52", " line 53"),
    ]


@pytest.mark.parametrize(
    "texts",
    [far_apart(6000), ("a\nb\n" * 5000, "b\nc\na\n" * 5000), ("x\n" * 199, "y\n" + "x\ny\n" * 99)],
    ids=["nothing in common", "the same few lines", "short and alike"],
)
def test_the_cost_is_bounded(texts: tuple[str, str]) -> None:
    old, new = texts
    start = time.process_time()
    patch = git_diff(old, new)
    assert time.process_time() - start < 2.0
    assert apply_patch(old, patch) == new


def test_the_counts_are_in_words() -> None:
    assert short_stat(git_diff("a\n", "b\nc\n")) == "1 file changed, 2 insertions(+), 1 deletion(-)"
    assert short_stat(git_diff("a\n", "")) == "1 file changed, 1 deletion(-)"
    assert short_stat("") == ""
