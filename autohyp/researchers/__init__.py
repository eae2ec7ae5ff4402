"""Who proposes hypotheses: one contract (`base`), and the researchers that keep it."""

from __future__ import annotations

from collections.abc import Callable

from autohyp.errors import ConfigError
from autohyp.researchers.base import Researcher
from autohyp.researchers.library import LibraryResearcher
from autohyp.researchers.random_search import RandomResearcher

__all__ = ["RESEARCHERS", "LibraryResearcher", "RandomResearcher", "Researcher", "make_researcher"]

RESEARCHERS: dict[str, Callable[[], Researcher]] = {
    "library": LibraryResearcher,
    "random": RandomResearcher,
}
"""How each researcher that `campaign.yaml` may name is made."""


def make_researcher(name: str) -> Researcher:
    """The researcher called `name` in `campaign.yaml`. Raises ConfigError if there is none."""
    make = RESEARCHERS.get(name)
    if make is None:
        raise ConfigError(f"researchers: there is no {name!r}; known: {', '.join(RESEARCHERS)}")
    return make()
