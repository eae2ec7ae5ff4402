"""Differences between two versions of train.py: made, applied, and taken back.

A unified diff is applied strictly: every old line must be there, though a hunk may have moved. What
`git_diff` makes, `git apply` takes, and `apply_patch` gives the new text to the byte. The cost of making one
is bounded: what differs too much becomes one hunk that replaces it all.

Only \\n ends a line. Not covered: files other than train.py, binary files, renames.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from autohyp.errors import EditError

__all__ = [
    "TARGET_NAME",
    "Hunk",
    "apply_patch",
    "blob_hash",
    "git_diff",
    "reverse_patch",
    "short_stat",
    "unified_diff",
]

TARGET_NAME = "train.py"
"""The one file that an edit may change."""

CONTEXT_LINES = 3
MAX_COMPARISONS = 1_000_000
"""Lines that differ, old times new, up to which the shortest way between them is looked for."""

NO_NEWLINE = "\\ No newline at end of file\n"
HUNK_HEADER = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")

_Opcode = tuple[str, int, int, int, int]


# ---------------------------------------------------------------------------------------------
# Made


def _split_lines(text: str) -> list[str]:
    """Lines with their ends; only \\n ends a line, as in diffs."""
    lines = text.split("\n")
    ended = [line + "\n" for line in lines[:-1]]
    return [*ended, lines[-1]] if lines[-1] else ended


def _common_head(old: Sequence[str], new: Sequence[str]) -> int:
    count = 0
    for before, after in zip(old, new, strict=False):
        if before != after:
            break
        count += 1
    return count


def _hunks(old: list[str], new: list[str]) -> list[list[_Opcode]]:
    """The opcodes of each hunk, as from `difflib.SequenceMatcher.get_grouped_opcodes`.

    Only what is between the common head and tail is compared: a change never moves into its own context,
    whose length tells `git apply` whether a hunk has to stand at the file's end.
    """
    head = _common_head(old, new)
    tail = _common_head(old[head:][::-1], new[head:][::-1])
    old_stop, new_stop = len(old) - tail, len(new) - tail
    matcher = difflib.SequenceMatcher(None, old[head:old_stop], new[head:new_stop])
    changes: list[_Opcode] = [("replace", head, old_stop, head, new_stop)]
    if (old_stop - head) * (new_stop - head) <= MAX_COMPARISONS:
        changes = [(tag, *(at + head for at in places)) for tag, *places in matcher.get_opcodes()]  # type: ignore[misc]
    codes = [("equal", 0, head, 0, head), *changes, ("equal", old_stop, len(old), new_stop, len(new))]
    matcher.opcodes = [  # type: ignore[attr-defined]  # what get_opcodes gives once it is known
        code for code in codes if code[1] < code[2] or code[3] < code[4]
    ]
    return [list(group) for group in matcher.get_grouped_opcodes(CONTEXT_LINES)]


def _range(start: int, stop: int) -> str:
    """A hunk header's place and length; an empty one is named by the line before it."""
    length = stop - start
    if length == 1:
        return f"{start + 1}"
    return f"{start + 1 if length else start},{length}"


def unified_diff(old: str, new: str) -> str:
    """A unified diff of train.py from `old` to `new`; empty when they are equal."""
    if old == new:
        return ""
    before, after = _split_lines(old), _split_lines(new)
    pieces = [f"--- a/{TARGET_NAME}\n+++ b/{TARGET_NAME}\n"]
    for hunk in _hunks(before, after):
        (_, old_start, _, new_start, _), (_, _, old_stop, _, new_stop) = hunk[0], hunk[-1]
        pieces.append(f"@@ -{_range(old_start, old_stop)} +{_range(new_start, new_stop)} @@\n")
        for tag, i, j, k, m in hunk:
            if tag == "equal":
                pieces += (f" {line}" for line in before[i:j])
            else:
                pieces += (f"-{line}" for line in before[i:j])
                pieces += (f"+{line}" for line in after[k:m])
    return "".join(piece if piece.endswith("\n") else f"{piece}\n{NO_NEWLINE}" for piece in pieces)


def git_diff(old: str, new: str) -> str:
    """The same with git's header; empty when they are equal."""
    if old == new:
        return ""
    hashes = f"{blob_hash(old.encode())[:12]}..{blob_hash(new.encode())[:12]}"
    return f"diff --git a/{TARGET_NAME} b/{TARGET_NAME}\nindex {hashes} 100644\n{unified_diff(old, new)}"


def blob_hash(data: bytes) -> str:
    """What git calls a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def short_stat(diff: str) -> str:
    """What `git diff --shortstat` would say of a diff made here."""
    added = removed = 0
    body = diff.partition("\n@@ ")[2]  # behind the file's header, whose lines look like changes
    for line in body.split("\n")[1:]:
        added += line.startswith("+")
        removed += line.startswith("-")
    counts = [(added, "insertion", "+"), (removed, "deletion", "-")]
    parts = [f"{count} {word}{'s' * (count != 1)}({sign})" for count, word, sign in counts if count]
    return ", ".join(["1 file changed", *parts]) if parts else ""


# ---------------------------------------------------------------------------------------------
# Applied


@dataclass(frozen=True)
class Hunk:
    """One hunk of a unified diff; `old_start` counts lines from 0.

    Old lines all end with \\n; the last new one does not where the patch says so.
    """

    number: int
    old_start: int
    old_lines: tuple[str, ...]
    new_lines: tuple[str, ...]


def _check_file_header(line: str) -> None:
    path = line[4:].split("\t")[0].strip()
    if path == "/dev/null" or path.rsplit("/", 1)[-1] != TARGET_NAME:
        raise EditError(f"the patch touches {path}; only {TARGET_NAME} may change")


def _read_hunk(number: int, header: re.Match[str], lines: Sequence[str], at: int) -> tuple[Hunk, int]:
    """Read a hunk's body from line `at`: exactly as many lines as its header promises.

    Returns it and the line behind it.
    """
    old_left, new_left = (int(header[group]) if header[group] else 1 for group in (2, 4))
    old_start = int(header[1]) - (1 if old_left else 0)
    old: list[str] = []
    new: list[str] = []
    mark = ""
    while old_left > 0 or new_left > 0 or (at < len(lines) and lines[at].startswith("\\")):
        if at == len(lines):
            raise EditError(f"hunk {number} is cut off: its header promises more lines")
        last_mark, mark, text = mark, lines[at][:1], lines[at][1:] + "\n"
        at += 1
        if mark == "\\":
            if last_mark != "-" and new:
                new[-1] = new[-1].removesuffix("\n")
            continue
        if mark not in {" ", "-", "+", ""}:
            raise EditError(f"hunk {number}: a line starts with {mark!r} instead of ' ', '-' or '+'")
        if mark != "+":
            old.append(text)
            old_left -= 1
        if mark != "-":
            new.append(text)
            new_left -= 1
    if old_left or new_left:
        raise EditError(f"hunk {number} has more lines than its header promises")
    return Hunk(number, old_start, tuple(old), tuple(new)), at


def _read_patch(patch: str) -> Iterator[Hunk]:
    lines = patch.split("\n")
    number = at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        header = HUNK_HEADER.match(line)
        if header:
            number += 1
            hunk, at = _read_hunk(number, header, lines, at)
            yield hunk
        elif line.startswith(("--- ", "+++ ")):
            _check_file_header(line)
        elif line.startswith(
            ("rename ", "copy ", "old mode", "new mode", "deleted file", "new file", "GIT binary")
        ):
            raise EditError(f"the patch does more than change lines ({line.strip()!r})")
        elif number and line[:1] in {" ", "-", "+"} and line.strip():
            raise EditError(f"hunk {number} has more lines than its header promises")
    if not number:
        raise EditError("the patch holds no hunk (a line that starts with '@@ -')")


def _place(hunk: Hunk, lines: list[str], expected: int, earliest: int) -> int:
    """The line where the hunk's old lines stand: where expected, else the one other place."""
    size = len(hunk.old_lines)
    if not size and lines:
        raise EditError(f"hunk {hunk.number} has no context line to find its place by")

    def fits(at: int) -> bool:
        return tuple(lines[at : at + size]) == hunk.old_lines

    if expected >= earliest and fits(expected):
        return expected
    places = [at for at in range(earliest, len(lines) - size + 1) if fits(at)]
    if len(places) == 1:
        return places[0]
    first = next((line.strip() for line in hunk.old_lines if line.strip()), "")
    problem = f"fits {len(places)} places" if places else "does not match the source"
    raise EditError(f"hunk {hunk.number} {problem} (it starts with {first!r})")


def apply_patch(source: str, patch: str) -> str:
    """`source` with a unified diff of train.py applied, strictly.

    Every old line must be there as it is; a hunk that is not where its header says may stand elsewhere if
    that is the only place. Raises EditError that names the hunk, and for a patch of any other file.
    """
    is_ended = source.endswith("\n") or not source
    lines = _split_lines(source if is_ended else source + "\n")
    result: list[str] = []
    done = drift = 0
    for hunk in list(_read_patch(patch)):
        at = _place(hunk, lines, hunk.old_start + drift, done)
        drift = at - hunk.old_start
        result += lines[done:at]
        result += hunk.new_lines
        done = at + len(hunk.old_lines)
    end = "".join(lines[done:])
    return "".join(result) + (end if is_ended else end.removesuffix("\n"))


# ---------------------------------------------------------------------------------------------
# Taken back


def reverse_patch(patch: str) -> str:
    """The patch that takes `patch` back."""
    flipped = []
    for line in patch.split("\n"):
        header = HUNK_HEADER.match(line)
        if header:
            old, new = re.findall(r"[-+](\d+(?:,\d+)?)", header[0])
            flipped.append(f"@@ -{new} +{old} @@")
        elif line.startswith(("--- ", "+++ ")):
            flipped.append(line)
        else:
            flipped.append({"-": "+", "+": "-"}.get(line[:1], line[:1]) + line[1:])
    return "\n".join(flipped)
