"""What a run is charged, from the launcher's own clock.

The clock starts when the script says that training starts, or when its allowance for imports and
compilation is used up, whichever comes first: a script that never says so, or says so late, gains the
allowance at most. It stops when the script asks to be evaluated. Times are of `time.monotonic()`.

Not covered: training during the allowance; the launcher reports how long the GPU computed in it.
"""

from __future__ import annotations

__all__ = ["BudgetClock"]

MIN_TOLERANCE_S = 1.0
TOLERANCE = 0.02


class BudgetClock:
    """The charged seconds of one run that was launched at `launched_s`."""

    def __init__(self, launched_s: float, budget_s: float, startup_allowance_s: float) -> None:
        self.launched_s = launched_s
        self.budget_s = budget_s
        self._allowed_until_s = launched_s + startup_allowance_s
        self._start_event_s: float | None = None
        self.stopped_s: float | None = None

    @property
    def tolerance_s(self) -> float:
        """The script's last step may end this much after the budget."""
        return max(MIN_TOLERANCE_S, TOLERANCE * self.budget_s)

    @property
    def kill_at_s(self) -> float:
        """When a run that has not asked to be evaluated is ended: well past what would be valid."""
        return self._counted_from_s + self.budget_s + 2 * self.tolerance_s

    @property
    def _counted_from_s(self) -> float:
        if self._start_event_s is None:
            return self._allowed_until_s
        return min(self._start_event_s, self._allowed_until_s)

    def start(self, now_s: float) -> None:
        """The script says that training starts; only the first time counts."""
        if self._start_event_s is None:
            self._start_event_s = now_s

    def stop(self, now_s: float) -> None:
        """The script asks to be evaluated; only the first time counts."""
        if self.stopped_s is None:
            self.stopped_s = now_s

    def has_begun(self, now_s: float) -> bool:
        """Whether the time before training is over."""
        return self._counted_from_s <= now_s or self.stopped_s is not None

    def is_training(self, now_s: float) -> bool:
        """Whether seconds are being charged."""
        return self.has_begun(now_s) and self.stopped_s is None

    def startup_s(self, now_s: float) -> float:
        """Seconds that were not charged before training."""
        end_s = min(self._counted_from_s, self.stopped_s or now_s, now_s)
        return max(0.0, end_s - self.launched_s)

    def charged_s(self, now_s: float) -> float:
        """Seconds charged so far."""
        return max(0.0, (self.stopped_s or now_s) - self._counted_from_s)

    def is_over(self, charged_s: float) -> bool:
        """Whether that many seconds are more than a valid run may have used."""
        return charged_s > self.budget_s + self.tolerance_s
