"""Constants, diffs and fingerprints of a train.py."""

from __future__ import annotations

import ast
import io
import subprocess
import tokenize
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import autohyp.source
from autohyp.errors import EditError
from autohyp.records import ConstantsEdit, DiffEdit, SourceEdit
from autohyp.source import (
    apply_edit,
    apply_patch,
    fingerprint,
    line_count,
    parse_source,
    read_constants,
    reverse_patch,
    set_constants,
    unified_diff,
    walk_source,
)

TRAIN = Path(__file__).parents[1].joinpath("train_template", "train.py").read_text(encoding="utf-8")

SOURCE = '''"""Docstring."""

import torch

# Batch
BATCH = 2**19                       # tokens
LR: float = 0.04  # größer
BETAS = (0.8, 0.95)                 # both
BASE = 10_000
NEGATIVE = -1.5
PATTERN = "SSSL"  # letters
FLAG = True
WIDTH = 8 * 64
TWICE = 1
TWICE = 2
DEVICE = torch.device("cpu")
lower = 3


def f() -> int:
    """Inner."""
    LOCAL = 5
    return LOCAL
'''


def test_reads_what_is_a_constant() -> None:
    assert read_constants(SOURCE) == {
        "BATCH": 524288,
        "LR": 0.04,
        "BETAS": (0.8, 0.95),
        "BASE": 10_000,
        "NEGATIVE": -1.5,
        "PATTERN": "SSSL",
        "FLAG": True,
        "WIDTH": 512,
    }


def test_reads_the_template() -> None:
    constants = read_constants(TRAIN)
    assert constants["TOTAL_BATCH_SIZE"] == 2**19
    assert constants["ADAM_BETAS"] == (0.8, 0.95)
    assert len(constants) >= 40


def test_only_the_literal_changes() -> None:
    changed = set_constants(
        SOURCE,
        {
            "BATCH": 2**18,
            "LR": 0.05,
            "BETAS": (0.85, 0.95),
            "BASE": 200_000,
            "PATTERN": "SSSSL",
            "NEGATIVE": 2,
        },
    )
    expected = (
        SOURCE.replace("2**19 ", "2**18 ")
        .replace("0.04  # größer", "0.05  # größer")
        .replace("(0.8, 0.95)                 #", "(0.85, 0.95)                #")
        .replace("10_000", "200_000")
        .replace('"SSSL"', '"SSSSL"')
        .replace("-1.5", "2.0")
    )
    assert changed == expected


def test_windows_line_ends_and_byte_offsets_stay() -> None:
    source = "A = 'ä'; B = 1\r\nC = 2  # c\r\n"
    assert set_constants(source, {"B": 12, "C": 3}) == "A = 'ä'; B = 12\r\nC = 3  # c\r\n"


def test_same_value_changes_nothing() -> None:
    assert set_constants(SOURCE, read_constants(SOURCE)) == SOURCE


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"BACH": 1}, "no constant BACH; did you mean BATCH"),
        ({"TWICE": 1}, "no constant TWICE"),
        ({"LOCAL": 1}, "no constant LOCAL"),
        ({"LR": "fast"}, "constant LR is a number"),
        ({"BETAS": 0.9}, "constant BETAS is a tuple of 2"),
        ({"BETAS": (0.9,)}, "cannot become a tuple of 1"),
        ({"BETAS": (0.9, "x")}, r"constant BETAS\[1\] is a number"),
        ({"FLAG": 1}, "constant FLAG is a truth value"),
        ({"LR": float("nan")}, "only finite numbers"),
    ],
)
def test_bad_overrides_are_named(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(EditError, match=message):
        set_constants(SOURCE, overrides)  # type: ignore[arg-type]


def test_broken_source_names_the_line() -> None:
    with pytest.raises(EditError, match="line 2"):
        read_constants("A = 1\nB = = 2\n")
    with pytest.raises(EditError):
        read_constants("A = 1\0\n")


def test_huge_arithmetic_is_not_computed() -> None:
    assert read_constants("A = 9**9**9**9\nB = 2**1000\nC = 10**400\nD = 1.0 / 0\n") == {}


@given(st.floats(min_value=1e-12, max_value=1e12), st.integers(min_value=1, max_value=2**40))
def test_values_come_back(real: float, whole: int) -> None:
    changed = set_constants(SOURCE, {"LR": real, "BATCH": whole, "BASE": whole})
    constants = read_constants(changed)
    assert (constants["LR"], constants["BATCH"], constants["BASE"]) == (real, whole, whole)


# -- diffs -------------------------------------------------------------------------------------

LINES = st.lists(st.sampled_from(["a", "b", "c", "", "    d", "-x", "+y", "\\ z"]), max_size=30)


@given(LINES, LINES, st.booleans())
def test_a_diff_takes_there_and_back(before: list[str], after: list[str], ended: bool) -> None:
    end = "\n" if ended else ""
    old, new = "\n".join(before) + "\n", "\n".join(after) + ("\n" if after else "") + end
    if old != new:
        patch = unified_diff(old, new)
        assert apply_patch(old, patch) == new
        assert apply_patch(new, reverse_patch(patch)) == old


def test_git_reads_our_diffs(tmp_path: Path) -> None:
    new = set_constants(TRAIN, {"MATRIX_LR": 0.05, "DEPTH": 9})
    (tmp_path / "train.py").write_text(TRAIN, encoding="utf-8")
    patch = unified_diff(TRAIN, new)
    subprocess.run(
        ["git", "apply", "-"], cwd=tmp_path, input=patch, text=True, check=True, capture_output=True
    )
    assert (tmp_path / "train.py").read_text(encoding="utf-8") == new


def test_a_moved_hunk_finds_its_place() -> None:
    patch = unified_diff(SOURCE, set_constants(SOURCE, {"LR": 0.05}))
    moved = "# one\n# two\n" + SOURCE
    assert apply_patch(moved, patch) == "# one\n# two\n" + set_constants(SOURCE, {"LR": 0.05})


def test_a_hunk_that_fits_twice_is_refused() -> None:
    patch = "@@ -9,1 +9,1 @@\n-x = 1\n+x = 2\n"
    with pytest.raises(EditError, match="hunk 1 fits 2 places"):
        apply_patch("x = 1\ny = 0\nx = 1\n", patch)


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ("@@ -1,1 +1,1 @@\n-nope\n+x\n", "hunk 1 does not match.*nope"),
        ('@@ -1,3 +1,3 @@\n """Docstring."""\n', "hunk 1"),
        ('@@ -1,1 +1,1 @@\n-"""Docstring."""\n+x\n+y\n', "hunk 1 has more lines"),
        ("@@ -0,0 +1,1 @@\n+x\n", "no context"),
        ("--- a/prepare.py\n+++ b/prepare.py\n@@ -1 +1 @@\n-a\n+b\n", "touches a/prepare.py"),
        ("--- a/train.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n", "only train.py"),
        ("rename from train.py\nrename to x.py\n", "more than change lines"),
        ("make it faster", "no hunk"),
        ("", "no hunk"),
        ("@@ -1,1 +1,1 @@\n*x\n", "starts with"),
    ],
)
def test_bad_patches_are_refused(patch: str, message: str) -> None:
    with pytest.raises(EditError, match=message):
        apply_patch(SOURCE, patch)


def test_apply_edit_takes_every_kind() -> None:
    new = set_constants(SOURCE, {"LR": 0.05})
    assert apply_edit(SOURCE, None) == SOURCE
    assert apply_edit(SOURCE, ConstantsEdit(overrides={"LR": 0.05})) == new
    assert apply_edit(SOURCE, DiffEdit(patch=unified_diff(SOURCE, new))) == new
    assert apply_edit(SOURCE, SourceEdit(source="x = 1\n")) == "x = 1\n"


# -- fingerprints ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A = 2**19\n", "A = 524_288  # tokens\n"),
        ("A = -(-3)\n", "A = 3\n"),
        ("def f():\n    '''doc'''\n    return 1\n", "def f():\n\n    return 1\n"),
        ("x = (1,\n  2)\n", "x = 1, 2\n"),
        ("x = 'a'\n", 'x = "a"\n'),
        ("A = 1\nB: int = 2**3\nC = 'c'\n", "C = 'c'\nA = 1\nB: int = 8\n"),
        ("import torch\nA = 1\nB = 2\nf(A)\n", "import torch\nB = 2\nA = 1\nf(A)\n"),
    ],
)
def test_spelling_makes_no_difference(one: str, other: str) -> None:
    assert fingerprint(one) == fingerprint(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A = 1\n", "A = 2\n"),
        ("A = 1\n", "A = 1.0\n"),
        ("A = 1\n", "A = True\n"),
        ("A = '1'\n", "A = 1\n"),
        ("x = a + b\n", "x = b + a\n"),
        ("A = 1\nA = 2\n", "A = 2\nA = 1\n"),
        ("A = 1\nf(A)\nA = 2\n", "A = 2\nf(A)\nA = 1\n"),
        ("A = 1\nB = A\n", "B = A\nA = 1\n"),
        ("def f():\n    a = 1\n    b = 2\n", "def f():\n    b = 2\n    a = 1\n"),
        ("f(a=1)\n", "f(b=1)\n"),
        ("x = [1, 2]\n", "x = (1, 2)\n"),
        ("def f(a, /): 0\n", "def f(a): 0\n"),
        ("x = f(None)\n", "x = f()\n"),
    ],
)
def test_meaning_makes_a_difference(one: str, other: str) -> None:
    assert fingerprint(one) != fingerprint(other)


def test_fingerprints_are_the_same_in_every_python() -> None:
    """A journal written under one version is replayed under another."""
    assert fingerprint("A = 2**3\ndef f(x):\n    return [x, None, 'é']\n")[:16] == "56fea55362a91d37"


def test_line_count_is_of_code() -> None:
    assert line_count('"""Doc\nstring."""\n\n# comment\nx = 1  # why\ny = (\n    2\n)\n') == 4
    assert line_count("") == 0


ODD_SOURCES = (
    'x = """one\n\n# text\nfour"""\n',
    'x = f"""one\n\n# text {1}\nfour"""\n',
    'x = ("a"\n# no text\n     "b")\n',
    "x = 1 + \\\n\\\n    2\n",
    "x = 1\r\n\r\n# y\r\ny = 2\r\n",
    "x = 1\n\f\ny = 2\n",
    'def f():\n    """Doc\n\n    # more\n    """; return 1\n',
    "class A: 'doc'\n",
    "x = 1",
)


@pytest.mark.parametrize(
    "text", [TRAIN, Path(autohyp.source.__file__).read_text(encoding="utf-8"), *ODD_SOURCES]
)
def test_line_count_is_the_tokenizers(text: str) -> None:
    """However it is counted: reading it off the lines takes a tenth of the time."""
    skipped = {"COMMENT", "NL", "NEWLINE", "INDENT", "DEDENT", "ENDMARKER"}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if tokenize.tok_name[token.type] not in skipped:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)
            and ast.get_docstring(node) is not None
        ):
            first = node.body[0]
            lines -= set(range(first.lineno, (first.end_lineno or 0) + 1))
    assert line_count(text) == len(lines)


def test_a_source_is_parsed_once_whatever_is_asked_about_it(monkeypatch: pytest.MonkeyPatch) -> None:
    text, parsed = TRAIN + "# read by nobody else\n", []
    parse = ast.parse
    monkeypatch.setattr(ast, "parse", lambda given: parsed.append(given) or parse(given))
    for ask in (read_constants, fingerprint, line_count, walk_source, parse_source, fingerprint):
        ask(text)
    assert parsed == [text]


def test_the_walk_meets_what_pythons_own_meets() -> None:
    theirs = [node for node in ast.walk(parse_source(TRAIN)) if not isinstance(node, ast.expr_context)]
    assert list(walk_source(TRAIN)) == theirs
