"""What a researcher is: something that reads the brief and proposes hypotheses.

A researcher sees the past only through `Brief`, which is replayed from the journal. Given the same brief it
gives the same proposals (ids, edits, order), in any process: what it draws at random is seeded from the
brief. It keeps nothing that it could not rebuild from `brief.history`, so a restart of the observer changes
nothing.
"""

from __future__ import annotations

import hashlib
import random
from typing import Protocol, runtime_checkable

from autohyp.errors import EditError
from autohyp.records import Brief, Hypothesis, PastExperiment
from autohyp.source import apply_edit, fingerprint

__all__ = ["Researcher", "known_fingerprints", "seeded_rng"]


@runtime_checkable
class Researcher(Protocol):
    """Proposes hypotheses; `name` is what the journal calls it."""

    @property
    def name(self) -> str: ...

    def propose(self, brief: Brief, n: int) -> list[Hypothesis]:
        """At most `n` hypotheses, best first, each an edit that applies to `brief.champion_source`.

        None repeats a program that was tried, is queued or is proposed beside it. An empty list means that
        the researcher has nothing to say now.
        """
        ...

    def observe(self, experiment: PastExperiment) -> None:
        """Hear of a decision as soon as it falls; the next brief tells it again."""
        ...


def known_fingerprints(brief: Brief) -> set[str]:
    """Programs that a proposal must not repeat: the champion, the past, and the queue on this champion."""
    known = {experiment.fingerprint for experiment in brief.history}
    known.add(fingerprint(brief.champion_source))
    for hypothesis in brief.queued:
        try:
            known.add(fingerprint(apply_edit(brief.champion_source, hypothesis.edit)))
        except EditError:
            continue  # it was made for an earlier champion and will be refused
    return known


def seeded_rng(brief: Brief, name: str) -> random.Random:
    """Random numbers that are the same for the same brief: tag, champion, past and queue."""
    parts = [name, brief.tag, fingerprint(brief.champion_source)]
    parts += [experiment.fingerprint for experiment in brief.history]
    parts += [hypothesis.hypothesis_id for hypothesis in brief.queued]
    return random.Random(hashlib.sha256("\n".join(parts).encode()).digest())
