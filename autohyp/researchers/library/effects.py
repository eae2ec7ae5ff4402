"""What is believed about effects: one linear-Gaussian model of published and measured differences.

val_bpb, as a share of the reference's, is modelled as a sum: one smooth function for each constant, one
number for each structural switch, and a smaller joint term for interactions (a Gaussian process with an
additive kernel; Duvenaud et al. 2011, arXiv 1112.4394). Published effects enter as observed differences
whose errors are the uncertainty of carrying them over, correlated within a kind of change: where this
campaign finds that learning rates do less than published, all published learning-rate effects shrink.
Measurements enter with the campaign's own noise. All is conditioned exactly, so a bundle's result is shared
out among its parts, a step that worked makes the next one likely, and one that lost makes its opposite
likely.

How large effects are on this machine is learnt as well: the prior's scale is the most probable of a few.
Not covered: more than `MAX_MEASURED` measurements (the newest are used), different GPU types.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from autohyp.researchers.library.space import Space

__all__ = ["Array", "Belief", "EffectModel", "Measured", "Point", "Published", "expected_improvement"]

Array = NDArray[np.float64]

MAX_MEASURED = 300
LENGTH_STEPS = 2.0
"""Steps over which an effect's function bends."""
STEP_SHARE = math.sqrt(2 * (1 - math.exp(-0.5 / LENGTH_STEPS**2)))
"""Standard deviation of a one-step difference of a function with unit variance."""
CURVATURE = 0.35
"""What a step away from the reference costs before anything is known, in spreads; grows with its square."""
CURVATURE_LIMIT_STEPS = 4.0
SWITCH_SPREAD = 0.004
JOINT_SPREAD = 0.0008
JOINT_LENGTH_STEPS = 3.0
KIND_CORRELATION = 0.3
OFFSET_SD = 0.3
SCALES = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8)
SCALE_OCTAVES_SD = 0.7
JITTER = 1e-12
MIN_VARIANCE = 1e-16
MIN_MEASURED_FOR_SCALE = 5


@dataclass(frozen=True)
class Point:
    """A configuration: coordinates in steps, and which structural changes are in."""

    coordinates: tuple[float, ...]
    switches: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Published:
    """A difference seen elsewhere, `after` less `before`, as a share of val_bpb; `sd` of carrying it over."""

    before: Point
    after: Point
    mean: float
    sd: float
    kind: str


@dataclass(frozen=True)
class Measured:
    """A configuration measured in this campaign: val_bpb as a share of the reference's, less 1."""

    point: Point
    value: float
    sd: float


class Belief:
    """Joint posterior of several points' differences to the champion, negative is better.

    `mean` [m] and `variance` [m]. `know` takes the uncertainty of one of them out, as if it had been
    measured and had come out as expected; columns of the covariance are computed when they are needed.
    """

    def __init__(self, mean: Array, variance: Array, column: Callable[[int], Array]) -> None:
        self.mean = mean
        self.variance = np.maximum(variance, MIN_VARIANCE)
        self._column = column
        self._known: list[Array] = []

    @property
    def sd(self) -> Array:
        return np.asarray(np.sqrt(self.variance))

    def know(self, index: int, noise_sd: float) -> None:
        """Condition on a measurement of the point at `index` with `noise_sd`; the mean stays."""
        column = self._column(index) - sum((known * known[index] for known in self._known), np.zeros(1))
        known = column / math.sqrt(max(column[index], MIN_VARIANCE) + noise_sd**2)
        self._known.append(known)
        self.variance = np.maximum(self.variance - known**2, MIN_VARIANCE)


def expected_improvement(mean: Array, sd: Array, margin: float) -> Array:
    """Expected gain beyond `margin` of differences N(mean, sd) where negative is better (Mockus 1974)."""
    z = (-mean - margin) / sd
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    return np.asarray(np.maximum((-mean - margin) * ndtr(z) + sd * density, 0.0))


class EffectModel:
    """The posterior given what was published and measured; `scale` multiplies the prior's spreads.

    `reference` is the baseline: there, published effects start and the prior mean is lowest.
    """

    def __init__(
        self,
        space: Space,
        reference: Point,
        published: Sequence[Published],
        measured: Sequence[Measured],
        profile_scale: float = 1.0,
    ) -> None:
        self._space = space
        self._reference = np.array(reference.coordinates)
        self._published = list(published)
        self._measured = list(measured)[-MAX_MEASURED:]
        self._spreads = profile_scale * np.array([dimension.spread for dimension in space.dimensions])
        self._profile_scale = profile_scale
        self._switches = sorted({s for point in self._points() for s in point.switches})
        self._assemble()
        self.scale = self._most_probable_scale()
        self._cholesky, self._white = self._solve(self.scale)

    def _points(self) -> list[Point]:
        points = [point for item in self._published for point in (item.before, item.after)]
        return points + [item.point for item in self._measured]

    # -- prior ---------------------------------------------------------------------------------

    def _arrays(self, points: Sequence[Point]) -> tuple[Array, Array]:
        """Coordinates [n, dimensions] and switches [n, switches] of `points`."""
        dimensions = len(self._space.dimensions)
        coordinates = np.array([point.coordinates for point in points]).reshape(len(points), dimensions)
        switches = np.array([[float(s in point.switches) for s in self._switches] for point in points])
        return coordinates, switches.reshape(len(points), len(self._switches))

    def _prior_mean(self, points: Sequence[Point]) -> Array:
        away = np.minimum(np.abs(self._arrays(points)[0] - self._reference), CURVATURE_LIMIT_STEPS)
        return np.asarray((CURVATURE * self._spreads * away**2).sum(axis=1))

    def _kernel(self, left: Sequence[Point], right: Sequence[Point]) -> Array:
        """Prior covariance of val_bpb at `left` [n] and `right` [m] at scale 1: [n, m]."""
        (x, s), (y, t) = self._arrays(left), self._arrays(right)
        total = (SWITCH_SPREAD * self._profile_scale) ** 2 * (s @ t.T)
        apart = np.zeros_like(total)
        for index, amplitude in enumerate(self._spreads / STEP_SHARE):
            squared = np.subtract.outer(x[:, index], y[:, index]) ** 2
            apart += squared
            total += amplitude**2 * np.exp(-0.5 * squared / LENGTH_STEPS**2)
        apart += s.sum(axis=1)[:, None] + t.sum(axis=1)[None, :] - 2 * (s @ t.T)
        joint = (JOINT_SPREAD * self._profile_scale) ** 2 * np.exp(-0.5 * apart / JOINT_LENGTH_STEPS**2)
        return np.asarray(total + joint)

    def _switch_variance(self, points: Sequence[Point]) -> Array:
        """What the switches of each point [n] add to its prior variance; all else is the same everywhere."""
        return np.array(
            [(SWITCH_SPREAD * self._profile_scale) ** 2 * len(point.switches) for point in points]
        )

    # -- data ----------------------------------------------------------------------------------

    def _assemble(self) -> None:
        """Observations as combinations [rows, points] of values at points: differences first, then values."""
        published, measured = self._published, self._measured
        pairs, rows = len(published), len(published) + len(measured)
        points = list(dict.fromkeys(self._points()))
        place = {point: index for index, point in enumerate(points)}
        combine = np.zeros((rows, len(points)))
        for row, item in enumerate(published):
            combine[row, place[item.before]] -= 1
            combine[row, place[item.after]] += 1
        for row, observation in enumerate(measured, start=pairs):
            combine[row, place[observation.point]] = 1
        values = [item.mean for item in published] + [item.value for item in measured]
        self._combine, self._observed_points = combine, points
        self._values, self._prior_values = np.array(values), combine @ self._prior_mean(points)
        self._signal = combine @ self._kernel(points, points) @ combine.T
        self._carry = self._published_covariance(rows)
        offset = np.array([0.0] * pairs + [OFFSET_SD] * len(measured))
        self._noise = np.outer(offset, offset) + np.diag([0.0] * pairs + [item.sd**2 for item in measured])

    def _published_covariance(self, rows: int) -> Array:
        covariance = np.zeros((rows, rows))
        for i, first in enumerate(self._published):
            for j, second in enumerate(self._published):
                if i == j or first.kind == second.kind:
                    covariance[i, j] = (1.0 if i == j else KIND_CORRELATION) * first.sd * second.sd
        return covariance

    def _solve(self, scale: float) -> tuple[Array, Array]:
        """The Cholesky factor of the observations' covariance, and the whitened residual."""
        covariance = scale**2 * (self._signal + self._carry) + self._noise
        cholesky = np.linalg.cholesky(covariance + JITTER * np.eye(len(covariance)))
        return np.asarray(cholesky), np.asarray(
            np.linalg.solve(cholesky, self._values - scale * self._prior_values)
        )

    def _most_probable_scale(self) -> float:
        """The scale that predicts this campaign's measurements best, drawn towards 1; 1 while few are in.

        The published differences come first, so the factor's last rows hold the measurements' distribution
        given them.
        """
        if len(self._measured) < MIN_MEASURED_FOR_SCALE:
            return 1.0
        here = slice(len(self._published), None)

        def log_probability(scale: float) -> float:
            cholesky, white = self._solve(scale)
            fit = -0.5 * float((white[here] ** 2).sum()) - float(np.log(np.diag(cholesky)[here]).sum())
            return fit - 0.5 * (math.log2(scale) / SCALE_OCTAVES_SD) ** 2

        return max(SCALES, key=log_probability)

    # -- posterior -----------------------------------------------------------------------------

    def differences(self, champion: Point, points: Sequence[Point]) -> Belief:
        """What `points` are believed to change against `champion`; negative is better."""
        unknown = {s for point in (champion, *points) for s in point.switches} - set(self._switches)
        if unknown:
            raise ValueError(f"switches without a prior: {', '.join(sorted(unknown))}")
        everything = [champion, *points]
        cross = self.scale**2 * self._kernel(everything, self._observed_points) @ self._combine.T
        half = np.linalg.solve(self._cholesky, cross.T)
        mean = self.scale * self._prior_mean(everything) + half.T @ self._white
        against = half[:, 1:] - half[:, :1]
        with_champion = self._kernel(everything, [champion])[:, 0]
        prior = 2 * (self._kernel([champion], [champion])[0, 0] - with_champion[1:])
        prior += self._switch_variance(points) - self._switch_variance([champion])
        variance = self.scale**2 * prior - (against**2).sum(axis=0)

        def column(index: int) -> Array:
            to_point = self._kernel(everything, [points[index]])[:, 0]
            prior_column = to_point[1:] - to_point[0] - with_champion[1:] + with_champion[0]
            return np.asarray(self.scale**2 * prior_column - against.T @ against[:, index])

        return Belief(mean[1:] - mean[0], variance, column)
