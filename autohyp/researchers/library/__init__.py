"""The library researcher: a catalogue of known hypotheses and a model of their effects."""

from autohyp.researchers.library.catalogue import CATALOGUE
from autohyp.researchers.library.researcher import LibraryResearcher

__all__ = ["CATALOGUE", "LibraryResearcher"]
