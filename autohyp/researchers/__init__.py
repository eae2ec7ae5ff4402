"""Who proposes hypotheses: one contract (`base`), and the researchers that keep it."""

from collections.abc import Callable

from autohyp.errors import ConfigError
from autohyp.researchers.base import Researcher
from autohyp.researchers.library import LibraryResearcher

__all__ = ["RESEARCHERS", "LibraryResearcher", "Researcher", "make_researcher"]

RESEARCHERS: dict[str, Callable[[], Researcher]] = {"library": LibraryResearcher}
"""How each researcher that `campaign.yaml` may name is made."""


def make_researcher(name: str) -> Researcher:
    """The researcher of that name. Raises ConfigError naming those there are."""
    if name not in RESEARCHERS:
        raise ConfigError(f"researchers: {name!r} is unknown; there are: {', '.join(sorted(RESEARCHERS))}")
    return RESEARCHERS[name]()
