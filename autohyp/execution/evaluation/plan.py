"""What is asked of a model, and in which order: drawn anew from secret randomness for each evaluation.

Every validation row is asked about once, in random order. Most are *claimed*: the model says the
losses. Some are *open*, where logits are small enough to send: the model gives all its logits before
it is told the row's last token, and the evaluator computes the losses. In between, at random times,
come *probes* for the logits of rows at a few positions. Three kinds of rows are mixed in a probe:

- *blind*: the first s tokens of a row that was not sent before, followed by another row's suffix.
  When the model answers it cannot know the token that really follows; the later claim of that row
  must agree.
- *again*: a row that was claimed and probed before, whole or with another suffix: the whole
  distribution at the same position must be the same as before.
- *after*: a row that was claimed before, with another suffix: the logits must agree with the claim.

A few *decoys* are claimed among the real rows (another suffix after a row's prefix): the losses
before the splice must be those of the real row; the decoys do not count. Steps are sent ahead of
the answers to keep the model busy, but a claim that reveals what a blind probe hides waits for the
probe's answer, and a probe waits for the claims that it checks.

Not covered: a process that remembers every row it was sent can be honest where it was probed before
the claim, and forge later answers from memory. `Checks.finish` compares blind losses with all
others, which uncovers only large forgeries. To close this, the probes must be answered by a second
process that never saw the claims.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["ClaimStep", "OpenStep", "Plan", "ProbeStep", "Splice", "Step", "make_plan"]

Rows = npt.NDArray[np.uint16]

MIN_CLAIM_TOKENS = 4096
MAX_CLAIM_TOKENS = 2**22
PROBE_FRACTION = 0.06  # of the cost of the claims
BLIND_SHARE = 0.75  # of the rows of a probe that is neither the first nor the last
MAX_PROBE_ROWS = 256  # of all probes together
DECOY_FRACTION = 0.015
PROBE_ROWS, PROBE_POSITIONS = 2, 32
OPEN_BYTES = 32 << 20  # logits of all open rows
OPEN_SHARE = 4  # at most one row in so many is open
OPEN_ROWS = 4  # of one request
PROBE_ROWS_FIXED_SHAPE, PROBE_POSITIONS_FIXED_SHAPE = 64, 16


@dataclass(frozen=True, slots=True)
class Splice:
    """The first `length` tokens of row `row`, then those of row `donor` from `length` on."""

    row: int
    donor: int
    length: int

    def tokens(self, rows: Rows, row_len: int) -> Rows:
        """The row that is sent, uint16 [row_len]."""
        tokens = rows[self.row, :row_len].copy()
        tokens[self.length :] = rows[self.donor, self.length : row_len]
        return tokens


@dataclass(frozen=True, slots=True)
class ClaimStep:
    """A CLAIM for these rows of T+1 tokens (decoys: shorter `length`), sent once `after` is answered."""

    rows: tuple[Splice, ...]
    after: int


@dataclass(frozen=True, slots=True)
class ProbeStep:
    """A PROBE of these rows of T tokens at `positions` (increasing). Sent once step `after` is answered.

    `keys` has one of the positions for each row: the last one before its splice, or that of an earlier probe.
    """

    rows: tuple[Splice, ...]
    keys: tuple[int, ...]
    positions: npt.NDArray[np.int64]
    after: int


@dataclass(frozen=True, slots=True)
class OpenStep:
    """A PROBE of these rows, whole, at every position; it takes the place of their claim."""

    rows: tuple[Splice, ...]
    positions: npt.NDArray[np.int64]
    after: int = -1


Step = ClaimStep | ProbeStep | OpenStep


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps in order; `blind` rows are probed before they are claimed, `watched` ones checked."""

    steps: tuple[Step, ...]
    blind: frozenset[int]
    watched: frozenset[int]


def make_plan(
    rows: Rows, vocab_size: int, device_batch_size: int, fixed_shape: bool, rng: np.random.Generator
) -> Plan:
    """Draws a plan for `rows` [n_rows, T+1] and a model that takes `device_batch_size` rows at a time.

    `fixed_shape`: a smaller batch costs as much as a full one (a model compiled for one shape), so
    there are fewer and larger probes, decoys fill the last claim, and no rows are open.
    """
    return _Planner(rows, vocab_size, device_batch_size, fixed_shape, rng).plan()


def _block_rows(n_rows: int, sequence_len: int, device_batch_size: int, fixed_shape: bool) -> int:
    """Rows per claim: full batches of at least MIN_CLAIM_TOKENS, but at least four claims in all."""
    block = device_batch_size * math.ceil(MIN_CLAIM_TOKENS / (device_batch_size * sequence_len))
    most = max(1, min(math.ceil(n_rows / 4), MAX_CLAIM_TOKENS // sequence_len))
    if block > most and fixed_shape and device_batch_size <= most:
        return most // device_batch_size * device_batch_size
    return min(block, most)


class _Planner:
    """Draws one plan. Time t is after the first t claims; a slot is a place for a row in the claims."""

    def __init__(
        self,
        rows: Rows,
        vocab_size: int,
        device_batch_size: int,
        fixed_shape: bool,
        rng: np.random.Generator,
    ) -> None:
        self._rows = rows
        self._rng = rng
        n_rows, self._row_len = rows.shape
        self._sequence_len = self._row_len - 1
        n_open = min(n_rows // OPEN_SHARE, OPEN_BYTES // (4 * vocab_size * self._sequence_len))
        order = rng.permutation(n_rows).tolist()
        self._open = [] if fixed_shape else order[:n_open]
        claimed = iter(order[len(self._open) :])
        n_claimed = n_rows - len(self._open)
        self._block = _block_rows(n_claimed, self._sequence_len, device_batch_size, fixed_shape)
        n_decoys = max(1, round(DECOY_FRACTION * n_claimed))
        if fixed_shape:
            n_decoys += -(n_claimed + n_decoys) % self._block
        self._n_slots = n_claimed + n_decoys
        self._n_claims = math.ceil(self._n_slots / self._block)
        decoy_slots = {int(slot) for slot in rng.choice(self._n_slots, size=n_decoys, replace=False)}
        self._slots = [None if slot in decoy_slots else next(claimed) for slot in range(self._n_slots)]
        self._slot_of = {row: slot for slot, row in enumerate(self._slots) if row is not None}
        probe_rows = min(PROBE_ROWS_FIXED_SHAPE, device_batch_size) if fixed_shape else PROBE_ROWS
        self._probe_rows = min(probe_rows, n_rows // 8)
        n_positions = PROBE_POSITIONS_FIXED_SHAPE if fixed_shape else PROBE_POSITIONS
        self._n_positions = min(n_positions, self._sequence_len)
        share = n_rows / (device_batch_size if fixed_shape else self._probe_rows)
        n_probes = max(2, min(round(PROBE_FRACTION * share), MAX_PROBE_ROWS // self._probe_rows))
        between = rng.integers(1, max(2, self._n_claims), size=n_probes - 2)
        self._times = [0, *sorted(between.tolist()), self._n_claims]
        self._blind = self._draw_blind()
        hidden = {splice.row for group in self._blind for splice in group}
        self._donors = np.array([row for row in self._slot_of if row not in hidden])

    def plan(self) -> Plan:
        claims = self._draw_claims()
        probes = self._draw_probes()
        opened = self._draw_open()
        steps: list[Step] = []
        asked: dict[int, int] = {}  # row -> the step that asks about it before it is claimed, then its claim
        for time in range(self._n_claims + 1):
            for rows, keys in (probes[i] for i, at in enumerate(self._times) if at == time):
                after = max((asked.get(splice.row, -1) for splice in rows), default=-1)
                asked |= {splice.row: len(steps) for splice in rows if splice.row not in asked}
                steps.append(ProbeStep(rows, keys, self._draw_positions(keys), after))
            steps += opened.get(time, [])
            if time < self._n_claims:
                after = max(asked.get(splice.row, -1) for splice in claims[time])
                asked |= {splice.row: len(steps) for splice in claims[time] if splice.length == self._row_len}
                steps.append(ClaimStep(claims[time], after))
        blind = frozenset(splice.row for group in self._blind for splice in group)
        watched = {splice.row for rows, _ in probes for splice in rows}
        watched |= {splice.row for claim in claims for splice in claim if splice.length < self._row_len}
        return Plan(tuple(steps), blind, frozenset(watched))

    def _draw_blind(self) -> list[list[Splice]]:
        """For each probe its blind rows, donors still open; all rows of the first, none of the last."""
        groups: list[list[Splice]] = []
        taken: set[int] = set()
        for time in self._times:
            middle = math.ceil(BLIND_SHARE * self._probe_rows)
            share = {0: self._probe_rows, self._n_claims: 0}.get(time, middle)
            future = self._slots[time * self._block :]
            candidates = [row for row in future if row is not None and row not in taken]
            chosen = self._rng.choice(candidates or [0], size=min(share, len(candidates) // 2), replace=False)
            taken.update(chosen.tolist())
            groups.append([Splice(row, row, self._draw_length()) for row in chosen.tolist()])
        return groups

    def _draw_length(self) -> int:
        return int(self._rng.integers(1, self._sequence_len + 1))

    def _with_donor(self, row: int, length: int) -> Splice:
        """A donor that is never blind and goes on with another token than the row itself, if one is found."""
        donor = row
        for _ in range(32):
            donor = int(self._rng.choice(self._donors))
            if donor != row and self._rows[donor, length] != self._rows[row, length]:
                break
        return Splice(row, donor, length)

    def _draw_claims(self) -> list[tuple[Splice, ...]]:
        claimed = [
            Splice(row, row, self._row_len)
            if row is not None
            else self._with_donor(int(self._rng.choice(self._donors)), self._draw_length())
            for row in self._slots
        ]
        return [tuple(claimed[start : start + self._block]) for start in range(0, self._n_slots, self._block)]

    def _draw_open(self) -> dict[int, list[OpenStep]]:
        """The open rows, a few at a time, by when they are asked for."""
        everywhere = np.arange(self._sequence_len)
        opened: dict[int, list[OpenStep]] = {}
        for start in range(0, len(self._open), OPEN_ROWS):
            group = self._open[start : start + OPEN_ROWS]
            rows = tuple(Splice(row, row, self._sequence_len) for row in group)
            time = int(self._rng.integers(0, self._n_claims + 1))
            opened.setdefault(time, []).append(OpenStep(rows, everywhere))
        return opened

    def _draw_probes(self) -> list[tuple[tuple[Splice, ...], tuple[int, ...]]]:
        """For each probe its rows, shuffled, and their key positions."""
        probes = []
        n_again = 0
        repeatable: list[Splice] = [splice for group in self._blind for splice in group]
        for time, group in zip(self._times, self._blind, strict=True):
            chosen = [(self._with_donor(splice.row, splice.length), splice.length - 1) for splice in group]
            past = [row for row in self._slots[: time * self._block] if row is not None]
            while past and len(chosen) < self._probe_rows:
                again = [splice for splice in repeatable if self._slot_of[splice.row] < time * self._block]
                if again and (not chosen or self._rng.random() < 0.6):
                    repeatable.remove(again[0])
                    chosen.append((self._again(again[0], whole=n_again % 2 == 0), again[0].length - 1))
                    n_again += 1
                else:
                    splice = self._with_donor(past[self._rng.integers(len(past))], self._draw_length())
                    chosen.append((splice, splice.length - 1))
            shuffled = [chosen[i] for i in self._rng.permutation(len(chosen))]
            probes.append((tuple(s for s, _ in shuffled), tuple(key for _, key in shuffled)))
        return probes

    def _again(self, earlier: Splice, whole: bool) -> Splice:
        """The row whole, or the same prefix with another suffix."""
        if whole:
            return Splice(earlier.row, earlier.row, self._sequence_len)
        return self._with_donor(earlier.row, earlier.length)

    def _draw_positions(self, keys: tuple[int, ...]) -> npt.NDArray[np.int64]:
        wanted = set(keys)
        others = self._rng.permutation(self._sequence_len).tolist()
        for position in others:
            if len(wanted) >= self._n_positions:
                break
            wanted.add(position)
        return np.array(sorted(wanted), dtype=np.int64)
