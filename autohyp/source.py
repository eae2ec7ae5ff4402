"""The text of train.py: its constants, the edits made to it, and when two versions are the same program.

Constants are what the file assigns at its top level, once, to a name in capitals and as a plain literal
(numbers, strings, flat tuples of them, and arithmetic such as `2**19`). Setting one changes that literal
and nothing else: comments stay, and stay in their column. A unified diff is applied strictly: every context
line must match, though a hunk may have moved. The fingerprint sees the program, not its spelling.

Nothing here executes the source. Not covered: whether the program makes sense (`autohyp.shapes` and
`autohyp.execution.preflight`).
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import io
import math
import re
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from autohyp.errors import EditError
from autohyp.records import ConstantsEdit, ConstantValue, DiffEdit, Edit, Scalar

__all__ = [
    "TARGET_NAME",
    "Hunk",
    "apply_edit",
    "apply_patch",
    "fingerprint",
    "line_count",
    "parse_source",
    "read_constants",
    "reverse_patch",
    "set_constants",
    "unified_diff",
]

TARGET_NAME = "train.py"
"""The one file that an edit may change."""

CONSTANT_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
MAX_EXPONENT = 64
HUNK_HEADER = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


def parse_source(source: str) -> ast.Module:
    """The syntax tree of `source`. Raises EditError, naming the line, if it is not Python."""
    try:
        return ast.parse(source)
    except SyntaxError as error:
        raise EditError(f"{TARGET_NAME} line {error.lineno}: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise EditError(f"{TARGET_NAME} cannot be parsed: {error or type(error).__name__}") from None


# ---------------------------------------------------------------------------------------------
# Constants


def _fold_binary(operator: ast.operator, left: float, right: float) -> int | float | None:
    """The value of an arithmetic operation on two numbers, or None if it is not one we fold."""
    match operator:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Div() if right:
            return left / right
        case ast.FloorDiv() if right:
            return left // right
        case ast.Pow() if abs(right) <= MAX_EXPONENT and abs(left) <= 2**32 and (left or right >= 0):
            power = left**right
            return power if isinstance(power, int | float) else None  # a root of a negative is complex
    return None


def _scalar(node: ast.expr) -> Scalar | None:
    """The value of a literal or of arithmetic on number literals, else None."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, bool | int | float | str) else None
    value: int | float | None = None
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        operand = _scalar(node.operand)
        if isinstance(operand, int | float) and not isinstance(operand, bool):
            value = -operand if isinstance(node.op, ast.USub) else operand
    elif isinstance(node, ast.BinOp):
        left, right = _scalar(node.left), _scalar(node.right)
        if isinstance(left, int | float) and isinstance(right, int | float):
            try:
                value = _fold_binary(node.op, left, right)
            except OverflowError:
                return None
    return value if value is not None and math.isfinite(value) else None


def _literal(node: ast.expr) -> ConstantValue | None:
    """The value of a scalar or of a flat tuple of scalars, else None."""
    if not isinstance(node, ast.Tuple):
        return _scalar(node)
    items = [_scalar(item) for item in node.elts]
    return tuple(item for item in items if item is not None) if None not in items else None


@lru_cache(maxsize=16)
def _constant_nodes(source: str) -> dict[str, ast.expr]:
    """The value node of every constant: assigned once at the top level, name in capitals, plain literal."""
    nodes: dict[str, ast.expr] = {}
    repeated: set[str] = set()
    for statement in parse_source(source).body:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target, value = statement.targets[0], statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            target, value = statement.target, statement.value
        else:
            continue
        if isinstance(target, ast.Name) and CONSTANT_NAME.fullmatch(target.id):
            if target.id in nodes:
                repeated.add(target.id)
            nodes[target.id] = value
    return {name: node for name, node in nodes.items() if name not in repeated and _literal(node) is not None}


def read_constants(source: str) -> dict[str, ConstantValue]:
    """The constants of `source` by name, in the order of the file. Raises EditError if it does not parse."""
    values = {name: _literal(node) for name, node in _constant_nodes(source).items()}
    return {name: value for name, value in values.items() if value is not None}


def _same_sort(name: str, old: ConstantValue, new: ConstantValue) -> None:
    """Refuse a value that the program cannot mean: a string for a number, a tuple of another length."""

    def sort(value: ConstantValue) -> str:
        if isinstance(value, tuple):
            return f"a tuple of {len(value)}"
        if isinstance(value, bool):
            return "a truth value"
        return "text" if isinstance(value, str) else "a number"

    if sort(old) != sort(new):
        raise EditError(f"constant {name} is {sort(old)} ({old!r}) and cannot become {sort(new)} ({new!r})")
    if isinstance(old, tuple) and isinstance(new, tuple):
        for index, (old_item, new_item) in enumerate(zip(old, new, strict=True)):
            _same_sort(f"{name}[{index}]", old_item, new_item)
    if isinstance(new, float) and not math.isfinite(new):
        raise EditError(f"constant {name} cannot become {new!r}: only finite numbers")


def _spell(value: ConstantValue, old: ConstantValue, spelling: str) -> str:
    """`value` as source, in the manner in which the `old` value was spelled."""
    if isinstance(value, tuple):
        olds = old if isinstance(old, tuple) else value
        items = [_spell(item, old_item, "") for item, old_item in zip(value, olds, strict=True)]
        return f"({', '.join(items)}{',' if len(items) == 1 else ''})"
    if isinstance(value, bool):
        return repr(value)
    if isinstance(value, str):
        quoted = repr(value)
        if quoted.startswith("'") and not spelling.startswith("'") and '"' not in value:
            quoted = f'"{quoted[1:-1]}"'
        return quoted
    if isinstance(old, float):
        return repr(float(value))
    if isinstance(value, float) and not value.is_integer():
        return repr(value)
    whole = int(value)
    if "**" in spelling and whole > 0 and whole.bit_count() == 1:
        return f"2**{whole.bit_length() - 1}"
    return f"{whole:_}" if "_" in spelling or ("**" in spelling and whole >= 10_000) else str(whole)


def _line_starts(data: bytes) -> list[int]:
    """Byte offsets of the lines, as the Python parser counts lines."""
    return [0, *(match.end() for match in re.finditer(rb"\r\n|\r|\n", data))]


def _replacement(rest_of_line: bytes, old: bytes, new: bytes) -> tuple[bytes, int]:
    """What stands for `old`, and how many bytes of padding to drop: a comment keeps its column."""
    gap = re.match(rb"( +)#", rest_of_line)
    if gap is None or b"\n" in old:
        return new, 0
    padding = max(2, len(gap[1]) + len(old) - len(new))
    return new + b" " * padding, len(gap[1])


def set_constants(source: str, overrides: Mapping[str, ConstantValue]) -> str:
    """`source` with new values for some constants; all else, comments and layout included, stays.

    Numbers keep their spelling where that is possible (`2**19` becomes `2**18`, a float stays a float).
    Raises EditError for a name that is no constant of the source (close ones are named), for a value of
    another sort, and when `source` does not parse.
    """
    nodes = _constant_nodes(source)
    data = source.encode()
    starts = _line_starts(data)
    replacements: list[tuple[int, int, bytes]] = []
    for name, value in overrides.items():
        node = nodes.get(name)
        old = None if node is None else _literal(node)
        if node is None or old is None:
            close = difflib.get_close_matches(name, nodes, n=3)
            hint = f"; did you mean {', '.join(close)}?" if close else ""
            raise EditError(f"{TARGET_NAME} has no constant {name}{hint}")
        _same_sort(name, old, value)
        if value == old and type(value) is type(old):
            continue
        begin = starts[node.lineno - 1] + node.col_offset
        end = starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
        spelling = data[begin:end]
        text, dropped = _replacement(data[end:], spelling, _spell(value, old, spelling.decode()).encode())
        replacements.append((begin, end + dropped, text))
    for begin, end, text in sorted(replacements, reverse=True):
        data = data[:begin] + text + data[end:]
    return data.decode()


# ---------------------------------------------------------------------------------------------
# Diffs


@dataclass(frozen=True)
class Hunk:
    """One hunk of a unified diff; `old_start` counts lines from 0."""

    number: int
    old_start: int
    old_lines: tuple[str, ...]
    new_lines: tuple[str, ...]


def _split_lines(text: str) -> list[str]:
    """Lines with their ends; only \\n ends a line, as in diffs."""
    lines = text.split("\n")
    ended = [line + "\n" for line in lines[:-1]]
    return [*ended, lines[-1]] if lines[-1] else ended


def unified_diff(old: str, new: str) -> str:
    """A unified diff of train.py from `old` to `new`; empty when they are equal."""
    lines = difflib.unified_diff(_split_lines(old), _split_lines(new), f"a/{TARGET_NAME}", f"b/{TARGET_NAME}")
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
    )


def _check_file_header(line: str) -> None:
    path = line[4:].split("\t")[0].strip()
    if path == "/dev/null" or path.rsplit("/", 1)[-1] != TARGET_NAME:
        raise EditError(f"the patch touches {path}; only {TARGET_NAME} may change")


def _read_hunk(number: int, header: re.Match[str], lines: Iterator[str]) -> Hunk:
    """Read a hunk's body: exactly as many lines as its header promises."""
    old_left, new_left = (int(header[group]) if header[group] else 1 for group in (2, 4))
    old_start = int(header[1])
    old: list[str] = []
    new: list[str] = []
    has_old_lines = old_left > 0
    while old_left > 0 or new_left > 0:
        line = next(lines, None)
        if line is None:
            raise EditError(f"hunk {number} is cut off: its header promises more lines")
        mark, text = line[:1], line[1:] + "\n"
        if mark == "\\":
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
    return Hunk(number, old_start - 1 if has_old_lines else old_start, tuple(old), tuple(new))


def _read_patch(patch: str) -> list[Hunk]:
    hunks: list[Hunk] = []
    lines = iter(patch.split("\n"))
    for line in lines:
        header = HUNK_HEADER.match(line)
        if header:
            hunks.append(_read_hunk(len(hunks) + 1, header, lines))
        elif line.startswith(("--- ", "+++ ")):
            _check_file_header(line)
        elif line.startswith(
            ("rename ", "copy ", "old mode", "new mode", "deleted file", "new file", "GIT binary")
        ):
            raise EditError(f"the patch does more than change lines ({line.strip()!r})")
        elif hunks and line[:1] in {" ", "-", "+"} and line.strip():
            raise EditError(f"hunk {len(hunks)} has more lines than its header promises")
    if not hunks:
        raise EditError("the patch holds no hunk (a line that starts with '@@ -')")
    return hunks


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
    ended = source.endswith("\n") or not source
    lines = _split_lines(source if ended else source + "\n")
    result: list[str] = []
    done = drift = 0
    for hunk in _read_patch(patch):
        at = _place(hunk, lines, hunk.old_start + drift, done)
        drift = at - hunk.old_start
        result += lines[done:at]
        result += hunk.new_lines
        done = at + len(hunk.old_lines)
    return "".join(result + lines[done:])


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


def apply_edit(source: str, edit: Edit | None) -> str:
    """`source` after `edit`; None changes nothing. Raises EditError, naming the constant or the hunk."""
    if edit is None:
        return source
    if isinstance(edit, ConstantsEdit):
        return set_constants(source, edit.overrides)
    if isinstance(edit, DiffEdit):
        return apply_patch(source, edit.patch)
    return edit.source


# ---------------------------------------------------------------------------------------------
# Comparison

SKIPPED_FIELDS = frozenset({"ctx", "kind", "type_comment", "type_ignores"})


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        return body[1:] if isinstance(body[0].value.value, str) else body
    return body


def _canonical(node: object, pieces: list[str]) -> None:
    """Append a spelling of the tree that neither layout nor the Python version changes.

    `ast.dump` would not do: what it prints for empty fields differs between Python versions.
    """
    if isinstance(node, ast.expr):
        folded = _scalar(node)
        if folded is not None:
            pieces.append(repr(folded))
            return
    if isinstance(node, ast.AST):
        pieces.append(f"({type(node).__name__}")
        for field, value in ast.iter_fields(node):
            if value is None or value == [] or field in SKIPPED_FIELDS:
                continue
            if field == "body" and isinstance(
                node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
            ):
                value = _without_docstring(value)
            pieces.append(f" {field}=")
            _canonical(value, pieces)
        pieces.append(")")
    elif isinstance(node, list):
        pieces.append("[")
        for item in node:
            _canonical(item, pieces)
            pieces.append(",")
        pieces.append("]")
    else:
        pieces.append(repr(node))


@lru_cache(maxsize=1024)
def fingerprint(source: str) -> str:
    """SHA-256 (hex) of the program: comments, docstrings, layout and constant arithmetic make no difference.

    Raises EditError if `source` does not parse.
    """
    pieces: list[str] = []
    try:
        _canonical(parse_source(source), pieces)
    except RecursionError:
        raise EditError(f"{TARGET_NAME} is nested too deeply") from None
    return hashlib.sha256("".join(pieces).encode("utf-8", "surrogatepass")).hexdigest()


def _docstring_lines(tree: ast.Module) -> set[int]:
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for statement in node.body[: len(node.body) - len(_without_docstring(node.body))]:
                lines.update(range(statement.lineno, (statement.end_lineno or statement.lineno) + 1))
    return lines


def line_count(source: str) -> int:
    """Lines that hold code: blank lines, comments and docstrings are free. Raises EditError as
    `parse_source`.
    """
    skipped = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    docstrings = _docstring_lines(parse_source(source))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in skipped:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)
