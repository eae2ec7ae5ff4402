"""What happened: every kill and every violation as a JSON line, and the table of it at the end."""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any, TextIO

__all__ = ["Record"]

NUM_LAST_KILLS = 20


class Record:
    """Shared by the lanes. A violation is printed at once, with the kills before it; `stop` ends them all."""

    def __init__(self, path: Path, output: TextIO) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._output = output
        self._lock = threading.Lock()
        self._start = time.monotonic()
        self._last: dict[str, deque[str]] = {}
        self._recovery_s: dict[str, list[float]] = {}
        self._num_kills: dict[str, int] = {}
        self._campaigns: list[dict[str, Any]] = []
        self.violations: list[str] = []
        self.stop = threading.Event()

    def event(self, what: str, lane: str, **facts: Any) -> str:
        """Any happening, as a line of the log."""
        at_s = round(time.monotonic() - self._start, 2)
        line = json.dumps({"at_s": at_s, "time": time.time(), "what": what, "lane": lane, **facts})
        with self._lock:
            self._file.write(line + "\n")
            self._file.flush()
        return line

    def kill(self, lane: str, part: str, **facts: Any) -> None:
        """One part was killed."""
        line = self.event("kill", lane, part=part, **facts)
        with self._lock:
            self._num_kills[part] = self._num_kills.get(part, 0) + 1
            self._last.setdefault(lane, deque(maxlen=NUM_LAST_KILLS)).append(line)

    def recovered(self, lane: str, part: str, seconds: float) -> None:
        """The campaign went on so long after the kill."""
        self.event("recovered", lane, part=part, seconds=round(seconds, 3))
        with self._lock:
            self._recovery_s.setdefault(part, []).append(seconds)

    def campaign(self, lane: str, **facts: Any) -> None:
        """One campaign was finished and verified."""
        self.event("campaign", lane, **facts)
        with self._lock:
            self._campaigns.append({"lane": lane, **facts})

    def violation(self, lane: str, campaign: str, text: str, details: str = "") -> None:
        """Something that must never happen."""
        self.event("violation", lane, campaign=campaign, text=text, details=details)
        with self._lock:
            self.violations.append(f"{lane} {campaign}: {text}")
            last = "\n".join(self._last.get(lane, []))
            print(
                f"\nVIOLATION in {lane} {campaign}: {text}\n{details}\nits last kills:\n{last}\n",
                file=self._output,
                flush=True,
            )

    def say(self, text: str) -> None:
        """A line for whoever waits."""
        with self._lock:
            print(f"{time.monotonic() - self._start:7.1f} s  {text}", file=self._output, flush=True)

    @property
    def num_kills(self) -> int:
        return sum(self._num_kills.values())

    def table(self) -> str:
        """Part, kills, seconds to the next progress (median, largest); then the campaigns."""
        rows = [f"{'part':24} {'kills':>6} {'median s':>9} {'max s':>7}"]
        for part, count in sorted(self._num_kills.items(), key=lambda item: -item[1]):
            times = self._recovery_s.get(part) or [float("nan")]
            rows.append(f"{part:24} {count:6} {statistics.median(times):9.2f} {max(times):7.2f}")
        rows.append(f"{'all':24} {self.num_kills:6}")
        for lane in sorted({campaign["lane"] for campaign in self._campaigns}):
            mine = [campaign for campaign in self._campaigns if campaign["lane"] == lane]
            total = {
                key: sum(c[key] for c in mine) for key in ("experiments", "results", "acknowledged", "starts")
            }
            words = ", ".join(f"{value:,} {key}" for key, value in total.items())
            rows.append(f"{lane}: {len(mine)} campaigns finished, {words}")
        elapsed_s = time.monotonic() - self._start
        return "\n".join([*rows, f"{len(self.violations)} violations, {elapsed_s:.0f} s"])

    def close(self) -> None:
        self._file.close()
