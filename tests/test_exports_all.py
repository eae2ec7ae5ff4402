"""Every module says what it offers: `__all__` is sorted, importable, of this package, and complete."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import autohyp

PACKAGE = Path(autohyp.__file__).parent
MODULES = {
    ".".join(["autohyp", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if "_target" not in path.parts
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
NOT_OFFERED = ("autohyp.cli", "autohyp.testing", "autohyp.execution.sandbox.")
"""Commands are reached by their application, the parts of fakes and of the sandbox by what they build."""


def declared(name: str) -> list[str] | None:
    """The module's `__all__`, read without importing it."""
    for node in TREES[name].body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            names = ast.literal_eval(node.value)
            assert isinstance(names, list)
            return names
    return None


def defined(name: str) -> set[str]:
    """Public classes and functions of the module's own."""
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        node.name for node in TREES[name].body if isinstance(node, kinds) and not node.name.startswith("_")
    }


def assigned(name: str) -> set[str]:
    """Names that the module assigns at its top level."""
    nodes = [node for node in TREES[name].body if isinstance(node, ast.Assign | ast.AnnAssign)]
    targets = [t for node in nodes for t in (node.targets if isinstance(node, ast.Assign) else [node.target])]
    return {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}


def taken_over(name: str) -> set[str]:
    """Names that the module imports from others of this package: a facade may offer them again."""
    nodes = [node for node in TREES[name].body if isinstance(node, ast.ImportFrom)]
    return {alias.name for node in nodes if (node.module or "").startswith("autohyp") for alias in node.names}


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """By module, the names that other modules of the package import from it."""
    taken: dict[str, set[str]] = {}
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                taken.setdefault(node.module, set()).update(alias.name for alias in node.names)
    return taken


@pytest.mark.parametrize("name", MODULES)
def test_all_is_there_sorted_and_without_repeats(name: str) -> None:
    names = declared(name)
    if names is None:
        assert not defined(name), f"{name} defines public names and no __all__"
        return
    assert len(names) == len(set(names))
    constants = sorted(n for n in names if n.isupper())
    classes = sorted(n for n in names if not n.isupper() and n[:1].isupper())
    assert names == constants + classes + sorted(set(names) - {*constants, *classes})


@pytest.mark.parametrize("name", [name for name in MODULES if declared(name) is not None])
def test_all_can_be_imported_and_is_of_this_package(name: str) -> None:
    module = importlib.import_module(name)
    for public in declared(name) or []:
        assert hasattr(module, public), f"{name} has no {public}"
    foreign = set(declared(name) or []) - defined(name) - assigned(name) - taken_over(name)
    assert not foreign, f"{name} offers what is not of this package: {sorted(foreign)}"


@pytest.mark.parametrize("name", [name for name in MODULES if not name.startswith(NOT_OFFERED)])
def test_all_is_complete(name: str) -> None:
    missing = defined(name) - set(declared(name) or [])
    assert not missing, f"{name}.__all__ lacks {sorted(missing)}"


@pytest.mark.parametrize("name", MODULES)
def test_what_others_import_is_offered(name: str, imports: dict[str, set[str]]) -> None:
    submodules = {other.removeprefix(f"{name}.") for other in MODULES if other.startswith(f"{name}.")}
    public = {taken for taken in imports.get(name, ()) if not taken.startswith("_")}
    missing = public - set(declared(name) or []) - submodules
    assert not missing, f"others import {sorted(missing)} from {name}, which does not offer it"
