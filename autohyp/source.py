"""The text of train.py: its constants, the edits made to it, and when two versions are the same program.

Constants are what the file assigns at its top level, once, to a name in capitals and as a plain literal
(numbers, strings, flat tuples of them, and arithmetic such as `2**19`). Setting one changes that literal
and nothing else: comments stay, and stay in their column. The fingerprint sees the program, not its spelling.

A source is parsed and walked once, however often it is asked about: trees are shared, nobody may change one.
Nothing here executes the source. Not covered: whether the program makes sense (`autohyp.shapes` and
`autohyp.execution.preflight`), and diffs (`autohyp.patches`, some of which is offered here again).
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import io
import math
import re
import tokenize
from collections.abc import Mapping
from functools import lru_cache
from itertools import groupby

from autohyp.errors import EditError
from autohyp.patches import TARGET_NAME, apply_patch, reverse_patch, unified_diff
from autohyp.records import ConstantsEdit, ConstantValue, DiffEdit, Edit, Scalar

__all__ = [
    "TARGET_NAME",
    "apply_edit",
    "apply_patch",
    "fingerprint",
    "line_count",
    "parse_source",
    "read_constants",
    "reverse_patch",
    "set_constants",
    "unified_diff",
    "walk_source",
]

CONSTANT_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
MAX_EXPONENT = 64
KEPT_TREES = 8
"""Sources whose trees are kept: a tree of train.py takes some 2 MB."""


@lru_cache(maxsize=KEPT_TREES)
def parse_source(source: str) -> ast.Module:
    """The syntax tree of `source`, shared. Raises EditError, naming the line, if it is not Python."""
    try:
        return ast.parse(source)
    except SyntaxError as error:
        raise EditError(f"{TARGET_NAME} line {error.lineno}: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise EditError(f"{TARGET_NAME} cannot be parsed: {error or type(error).__name__}") from None


SKIPPED_FIELDS = frozenset({"ctx", "kind", "type_comment", "type_ignores"})


_FIELDS: dict[type[ast.AST], tuple[str, ...]] = {}


def _fields(kind: type[ast.AST]) -> tuple[str, ...]:
    """The fields of a kind of node that say something about the program."""
    if kind not in _FIELDS:
        _FIELDS[kind] = tuple(field for field in kind._fields if field not in SKIPPED_FIELDS)
    return _FIELDS[kind]


@lru_cache(maxsize=KEPT_TREES)
def walk_source(source: str) -> tuple[ast.AST, ...]:
    """All nodes of the tree but the contexts of names, outer ones first, as from `ast.walk`."""
    nodes: list[ast.AST] = [parse_source(source)]
    for node in nodes:  # grows meanwhile
        for field in _fields(type(node)):
            value = getattr(node, field, None)
            if isinstance(value, ast.AST):
                nodes.append(value)
            elif isinstance(value, list):
                nodes += (item for item in value if isinstance(item, ast.AST))
    return tuple(nodes)


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
# Edits


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

_WITH_DOCSTRING = (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        return body[1:] if isinstance(body[0].value.value, str) else body
    return body


def _assigned_literal(statement: ast.stmt) -> str | None:
    """The name that a statement binds to a plain literal, which no other such statement can depend on."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target = statement.targets[0]
    elif isinstance(statement, ast.AnnAssign):
        target = statement.target
    else:
        return None
    if isinstance(target, ast.Name) and statement.value is not None and _literal(statement.value) is not None:
        return target.id
    return None


def _in_order(body: list[ast.stmt]) -> list[ast.stmt]:
    """The statements with neighbouring assignments of literals by name: their order means nothing, unless
    a name is assigned twice."""
    ordered: list[ast.stmt] = []
    for is_literal, group in groupby(body, lambda statement: _assigned_literal(statement) is not None):
        statements = list(group)
        names = [_assigned_literal(statement) or "" for statement in statements]
        if is_literal and len(set(names)) == len(names):
            statements = [statements[at] for at in sorted(range(len(names)), key=names.__getitem__)]
        ordered += statements
    return ordered


def _canonical(node: object, pieces: list[str]) -> None:
    """Append a spelling of the tree that neither layout nor the Python version changes.

    `ast.dump` would not do: what it prints for empty fields differs between Python versions.
    """
    if isinstance(node, ast.AST):
        if isinstance(node, ast.Constant | ast.UnaryOp | ast.BinOp):
            folded = _scalar(node)
            if folded is not None:
                pieces.append(repr(folded))
                return
        kind = type(node)
        pieces.append(f"({kind.__name__}")
        for field in _fields(kind):
            value = getattr(node, field, None)
            if value is None or value == []:
                continue
            if field == "body" and isinstance(node, _WITH_DOCSTRING):
                value = _without_docstring(node.body)
                if isinstance(node, ast.Module):
                    value = _in_order(value)
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
    """SHA-256 (hex) of the program. Comments, docstrings, layout, constant arithmetic and the order of
    constants that stand together make no difference.

    Raises EditError if `source` does not parse.
    """
    pieces: list[str] = []
    try:
        _canonical(parse_source(source), pieces)
    except RecursionError:
        raise EditError(f"{TARGET_NAME} is nested too deeply") from None
    return hashlib.sha256("".join(pieces).encode("utf-8", "surrogatepass")).hexdigest()


def _lines_of(node: ast.stmt | ast.expr) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def _docstring_lines(source: str) -> set[int]:
    lines: set[int] = set()
    for node in walk_source(source):
        if isinstance(node, _WITH_DOCSTRING):
            for statement in node.body[: len(node.body) - len(_without_docstring(node.body))]:
                lines.update(_lines_of(statement))
    return lines


_NO_CODE = frozenset(
    {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
)


def _lines_with_tokens(source: str) -> set[int]:
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines


def _plain_code_lines(source: str, docstrings: set[int]) -> set[int] | None:
    """`_lines_with_tokens` read off the lines themselves, a tenth of the time.

    None where they do not tell: in a string of many lines, what looks empty or like a comment may be text.
    """
    texts = source.split("\n")
    bare = {number for number, text in enumerate(texts, 1) if text.strip()[:1] in {"", "#", "\\"}}
    for node in walk_source(source):
        if isinstance(node, ast.Constant | ast.JoinedStr) and node.end_lineno != node.lineno:
            lines = _lines_of(node)
            if not bare.isdisjoint(lines) and not docstrings.issuperset(lines):
                return None
    return set(range(1, len(texts) + 1)) - bare


@lru_cache(maxsize=64)
def line_count(source: str) -> int:
    """Lines that hold code: blank lines, comments and docstrings are free. Raises EditError as
    `parse_source`.
    """
    docstrings = _docstring_lines(source)
    # A lone \r or a form feed counts as the end of a line for some and not for others.
    is_odd = "\f" in source or "\r" in source.replace("\r\n", "\n")
    lines = None if is_odd else _plain_code_lines(source, docstrings)
    return len((_lines_with_tokens(source) if lines is None else lines) - docstrings)
