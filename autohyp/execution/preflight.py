"""Whether a proposed train.py is worth a run: everything that can be told in milliseconds, without torch.

Checked: size, syntax, imports, that it is another program than its parent and than every one tried before,
that its constants fit together, and that the seed, the clock, the data and the measurement still come from
prepare. Each refusal is a sentence a person understands.

This saves GPU time and catches honest mistakes. It is not what makes a result trustworthy: a script that
hides its intent gets past any reading of its text, and is held by the sandbox, the launcher's clock and the
evaluator.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from autohyp.errors import EditError
from autohyp.records import ConstantValue
from autohyp.shapes import shape_problems
from autohyp.source import fingerprint, read_constants, walk_source

__all__ = ["ALLOWED_IMPORTS", "PREPARED_NAMES", "PreflightLimits", "PreflightReport", "check"]

ALLOWED_IMPORTS = frozenset(
    {
        "__future__", "abc", "argparse", "bisect", "collections", "contextlib", "copy", "dataclasses", "enum",
        "functools", "gc", "heapq", "itertools", "json", "math", "operator", "os", "random", "statistics",
        "string", "sys", "time", "types", "typing", "warnings",
        "einops", "flash_attn", "flash_attn_interface", "kernels", "numpy", "prepare", "torch", "triton",
    }
)  # fmt: skip
"""Top-level modules that a train.py may import; what its parent imports is allowed too."""

PREPARED_NAMES = frozenset(
    {"EVAL_TOKENS", "MAX_SEQ_LEN", "SEED", "TIME_BUDGET", "Tokenizer", "TrainingClock", "evaluate_bpb",
     "make_dataloader", "print_summary"}
)  # fmt: skip
"""What prepare gives a train.py; never defined or replaced there."""

REFUSED_CALLS = frozenset({"__import__", "compile", "delattr", "eval", "exec", "globals", "vars"})
SEEDERS = frozenset({"manual_seed", "manual_seed_all", "seed"})


@dataclass(frozen=True)
class PreflightLimits:
    """What a source is held to; `sequence_len` None leaves out the rules about batches and shapes."""

    max_source_bytes: int = 256 * 1024
    sequence_len: int | None = None
    allowed_imports: frozenset[str] = ALLOWED_IMPORTS


@dataclass(frozen=True)
class PreflightReport:
    """The problems found (none: go), and what was read on the way."""

    problems: tuple[str, ...]
    fingerprint: str = ""
    constants: Mapping[str, ConstantValue] = field(default_factory=dict)

    @property
    def is_clear(self) -> bool:
        return not self.problems

    @property
    def reason(self) -> str:
        """All problems in one line."""
        return "; ".join(self.problems)


def check(
    source: str,
    parent_source: str | None,
    known_fingerprints: Collection[str] | Mapping[str, str] = (),
    limits: PreflightLimits | None = None,
) -> PreflightReport:
    """Check a proposed train.py against its parent and what was tried before.

    `parent_source` is None for the baseline, which may be what it is. `known_fingerprints` may map a
    fingerprint to the experiment that had it, which is then named. Never raises on a bad source: that is a
    problem reported.
    """
    limits = limits or PreflightLimits()
    size = len(source.encode("utf-8", "surrogatepass"))
    if size > limits.max_source_bytes:
        return PreflightReport((f"train.py has {size:,} bytes; at most {limits.max_source_bytes:,}",))
    try:
        told, program, constants = _telling_nodes(source), fingerprint(source), read_constants(source)
    except EditError as error:
        return PreflightReport((str(error),))
    parent = _parent_nodes(parent_source)
    problems = [
        *_novelty_problems(program, parent_source, known_fingerprints),
        *_import_problems(told, limits.allowed_imports | _imported_roots(parent)),
        *_call_problems(told),
        *_prepare_problems(told, parent),
        *(shape_problems(constants, limits.sequence_len) if limits.sequence_len else []),
    ]
    return PreflightReport(tuple(dict.fromkeys(problems)), program, constants)


_Nodes = tuple[ast.AST, ...]

_TELLING = (
    ast.Import, ast.ImportFrom, ast.Call, ast.Attribute,
    ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.arg,
)  # fmt: skip


@lru_cache(maxsize=8)
def _telling_nodes(source: str) -> _Nodes:
    """The nodes that the rules look at, in one pass; a champion is asked about again and again."""
    return tuple(
        node
        for node in walk_source(source)
        if isinstance(node, _TELLING) or (isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load))
    )


def _parent_nodes(parent_source: str | None) -> _Nodes | None:
    try:
        return None if parent_source is None else _telling_nodes(parent_source)
    except EditError:
        return None  # nothing can be compared with it


def _novelty_problems(
    program: str, parent_source: str | None, known: Collection[str] | Mapping[str, str]
) -> Iterator[str]:
    try:
        parent_program = None if parent_source is None else fingerprint(parent_source)
    except EditError:
        parent_program = None
    if program == parent_program:
        yield "the edit changes nothing: the program is the same as its parent's"
    elif program in known:
        who = f" as {known[program]}" if isinstance(known, Mapping) else ""
        yield f"the same program was tried or proposed before{who}"


# ---------------------------------------------------------------------------------------------
# Imports and calls


def _imports(nodes: _Nodes) -> Iterator[tuple[int, str]]:
    """Line and module of every import; a relative one starts with a dot."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "." * node.level + (node.module or "")


def _imported_roots(nodes: _Nodes | None) -> frozenset[str]:
    return frozenset(module.split(".")[0] for _, module in _imports(nodes or ()))


def _import_problems(nodes: _Nodes, allowed: frozenset[str]) -> Iterator[str]:
    for line, module in _imports(nodes):
        root = module.split(".")[0]
        if not root:
            yield f"line {line} imports {module} relatively; train.py is one file"
        elif root not in allowed:
            yield f"line {line} imports {module}; a train.py may import torch, numpy, prepare and the like"


def _call_problems(nodes: _Nodes) -> Iterator[str]:
    for node in nodes:
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id in REFUSED_CALLS:
            yield f"line {node.lineno} calls {node.func.id}(): code must be readable before it runs"
        if isinstance(node.func, ast.Name) and node.func.id == "setattr" and _mentions_prepare(node.args[:1]):
            yield f"line {node.lineno} changes prepare, which stays as it is"
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        # Within an argument too: SEED + 1 is a search for seeds from experiment to experiment.
        if name in SEEDERS and any(isinstance(p, ast.Constant) for a in node.args for p in ast.walk(a)):
            yield f"line {node.lineno} sets a seed of its own; the seed is prepare.SEED"


def _mentions_prepare(nodes: list[ast.expr]) -> bool:
    return any(
        isinstance(part, ast.Name) and part.id == "prepare" for node in nodes for part in ast.walk(node)
    )


# ---------------------------------------------------------------------------------------------
# What comes from prepare


def _uses_of_prepare(nodes: _Nodes) -> set[str]:
    """Names of prepare that the source reads, as `prepare.name` or by `from prepare import name`."""
    used: set[str] = set()
    for node in nodes:
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "prepare"
        ):
            used.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and node.module == "prepare":
            used.update(alias.name for alias in node.names)
    return used & PREPARED_NAMES


def _bindings(nodes: _Nodes) -> Iterator[tuple[int, str]]:
    """Line and name of everything the source binds, other than by the plain import of prepare."""
    for node in nodes:
        match node:
            case ast.Name(ctx=ast.Store() | ast.Del()):
                yield node.lineno, node.id
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.lineno, node.name
            case ast.arg():
                yield node.lineno, node.arg
            case ast.Attribute(value=ast.Name(id="prepare"), ctx=ast.Store() | ast.Del()):
                yield node.lineno, f"prepare.{node.attr}"
            case ast.Import():
                renamed = [a for a in node.names if (a.asname or a.name) == "prepare" and a.name != "prepare"]
                yield from ((node.lineno, "prepare") for _ in renamed)
            case ast.ImportFrom() if node.module != "prepare":
                yield from ((node.lineno, alias.asname or alias.name) for alias in node.names)


def _prepare_problems(nodes: _Nodes, parent: _Nodes | None) -> Iterator[str]:
    allowed_before = {name for _, name in _bindings(parent)} if parent is not None else set()
    for line, name in _bindings(nodes):
        protected = name == "prepare" or name.startswith("prepare.") or name in PREPARED_NAMES
        if protected and name not in allowed_before:
            yield f"line {line} redefines {name}, which comes from prepare and stays as it is"
    used = _uses_of_prepare(nodes)
    expected = _uses_of_prepare(parent) if parent is not None else {"evaluate_bpb"}
    for name in sorted(expected - used):
        yield f"prepare.{name} is no longer used; seed, clock, data and measurement come from prepare"
    if not _calls(nodes, "evaluate_bpb"):
        yield "evaluate_bpb is never called, so there would be no result"


def _calls(nodes: _Nodes, name: str) -> bool:
    for node in nodes:
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called == name:
                return True
    return False
