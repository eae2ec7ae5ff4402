"""The documents are true: links lead somewhere, the README names every module, the CLI page is current."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "research" / "README.md"])
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    links = [link for link in LINK.findall(document.read_text()) if "://" not in link]
    missing = [link for link in links if not (document.parent / link).exists()]
    assert missing == []


def test_the_tree_gives_each_module_one_phrase() -> None:
    readme = (ROOT / "README.md").read_text()
    tree = re.search(r"```\n(autohyp/\n.*?)```", readme, re.DOTALL)
    assert tree is not None
    listed, folders = set(), []
    for line in tree.group(1).splitlines():
        indent = (len(line) - len(line.lstrip())) // 2
        name, _, phrase = line.strip().partition(" ")
        folders[indent:] = [name.rstrip("/")]
        path = "/".join(folders)
        assert (ROOT / path).exists(), f"{path} is gone"
        if name.endswith(".py"):
            assert len(phrase.strip()) > 5, f"{path} has no phrase"
            listed.add(path)
    modules = {
        str(path.relative_to(ROOT))
        for path in [*ROOT.glob("autohyp/**/*.py"), ROOT / "prepare.py", ROOT / "train_template" / "train.py"]
        if path.name != "__init__.py" and "_target" not in path.parts
    }
    assert modules - listed == set()


def test_the_tests_that_the_trust_page_names_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)`", (ROOT / "docs" / "trust.md").read_text())
    assert len(named) > 5
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_the_page_of_commands_is_current() -> None:
    made = subprocess.run(
        [sys.executable, ROOT / "docs" / "make_cli_page.py"], capture_output=True, text=True, check=True
    )
    assert (ROOT / "docs" / "cli.md").read_text() == made.stdout, "run docs/make_cli_page.py > docs/cli.md"
