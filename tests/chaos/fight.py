"""One campaign under fire: kills what the deck says, starts the driver again whenever it ended, until all
is done.

Everything happens in one thread: while it waits for anything, it follows the journal, looks at the
processes and looks after the driver, its cluster and the client that writes notes.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress

import psutil

from autohyp.agents.driver import driver_facts
from autohyp.errors import CampaignError, ClusterError

from .campaign import Campaign
from .deck import Deck, Step
from .nodes import Nodes
from .notes import NotesClient
from .processes import Found, Herd, Part, kill
from .record import Record
from .verify import verify_campaign, verify_nothing_left
from .watch import JournalWatch, acknowledged_keys

__all__ = ["Abandoned", "Fight"]

POLL_S = 0.04
LOOK_INTERVAL_S = 1.0
STALL_S = 240.0
"""Without any progress for so long a campaign does not go on."""
GONE_S = 30.0
"""How long processes may take to follow what they belonged to."""
RAYS_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
DRIVER_NOTICES_S = 150.0
MAX_ABSENCE_S = 6.0
MAX_TROUBLES = 3
NUM_NODES = 1  # beside the head
NOTES_REST_S = 4.0
BLAMES_THE_RUN = (Part.TRAINING, Part.EVALUATOR, Part.SANDBOX, Part.WORKER, Part.NODE)
"""Kills after which a run may be recorded as a crash: a baseline that crashes ends its campaign, as it
should."""
ROLES = (Part.LEDGER, Part.OBSERVER, Part.SCRIBE, Part.TOOL_BUILDER, Part.WORKER)


class Abandoned(Exception):
    """A campaign that cannot be brought to its end; the violation is recorded."""


class Fight:
    """A campaign with its driver, its cluster and its witnesses."""

    def __init__(
        self,
        lane: str,
        campaign: Campaign,
        environment: dict[str, str],
        deck: Deck,
        rng: random.Random,
        record: Record,
        with_nodes: bool,
    ) -> None:
        self._lane = lane
        self._campaign = campaign
        self._deck, self._rng, self._record = deck, rng, record
        self._with_nodes = with_nodes
        self._herd = Herd(campaign.folder)
        self._watch = JournalWatch(campaign.paths.journal)
        self._notes = NotesClient(campaign.folder, environment, campaign.tag, campaign.acknowledgements)
        self._nodes: Nodes | None = None
        self._pending: list[tuple[str, float]] = []
        self._num_kills = self._num_baseline_kills = self._num_troubles = self._num_sessions_before = 0
        self._driver_killed = self._was_killed_early = self._last_was_killed = self._finished = False
        self._head_killed_at: float | None = None
        self._patience_from = time.monotonic()
        self._looked_at = self._notes_tried_at = self._started_at = 0.0

    def run(self) -> None:
        """From its first line to its verification. Raises Abandoned."""
        self._start()
        while not self._finished:
            step = self._deck.take(with_nodes=self._with_nodes)
            if step is None:
                self._wait(lambda: self._finished)
            else:
                self._carry_out(step)
        self._verify()

    def close(self) -> None:
        """Leave nothing behind, whatever happened."""
        self._end_cluster()
        self._kill_left(self._herd.left())
        if self._campaign.process is not None:
            self._campaign.process.kill()
            self._campaign.process.wait()

    # Kills --------------------------------------------------------------------------------------

    def _carry_out(self, step: Step) -> None:
        """Wait for the moment that was drawn, then kill; a part that does not come is put back."""
        if not step.is_burst:
            self._wait(lambda: not self._pending)
        self._wait_s(step.delay_s)
        deadline = time.monotonic() + MAX_ABSENCE_S
        while not self._finished:
            found = [] if self._is_spared(step.part) else self._victims(step.part)
            if found and self._kill(step, self._rng.choice(found)):
                return
            if time.monotonic() > deadline:
                break
            self._wait_s(0.1)
        self._deck.put_back(step)

    def _is_spared(self, part: str) -> bool:
        """Until the baseline is decided no run of it may be blamed twice."""
        if part not in BLAMES_THE_RUN or self._watch.state.champion_id is not None:
            return False
        return part not in (Part.WORKER, Part.NODE) or self._num_baseline_kills > 0

    def _victims(self, part: str) -> list[list[Found]]:
        if part == Part.DRIVER:
            process = self._campaign.process
            with suppress(psutil.Error):
                if process is not None and process.poll() is None:
                    return [[Found(psutil.Process(process.pid), 0, ("driver",))]]
            return []
        return [] if self._head_killed_at is not None else self._herd.of(part)

    def _kill(self, step: Step, victims: list[Found]) -> bool:
        pids = kill(victims)
        if not pids:
            return False
        self._watch.poll()  # what was written before must not look like progress
        now, state = time.monotonic(), self._watch.state
        self._num_kills += 1
        self._record.kill(
            self._lane,
            step.part,
            campaign=self._campaign.tag,
            pids=pids[:8],
            title=victims[0].title[:80],
            burst=step.is_burst,
            line=state.version,
            in_flight=len(state.in_flight),
            steps_left=len(self._deck),
        )
        self._pending.append((step.part, now))
        self._patience_from = now
        self._follow_up(step.part, now)
        return True

    def _follow_up(self, part: str, now: float) -> None:
        if part in BLAMES_THE_RUN and self._watch.state.champion_id is None:
            self._num_baseline_kills += 1
        if part == Part.DRIVER:
            self._driver_killed = True
        if part in (Part.HEAD, Part.GCS):
            self._head_killed_at, self._was_killed_early = now, not self._session_began()
        if part == Part.NODE and self._nodes is not None:
            self._wait_s(self._rng.uniform(0, 2))
            if self._nodes is not None:
                self._nodes.add()

    # While it waits -----------------------------------------------------------------------------

    def _wait_s(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        self._wait(lambda: time.monotonic() >= deadline)

    def _wait(self, is_over: Callable[[], bool]) -> None:
        """Look after the campaign until this holds, or it has finished."""
        while True:
            self._look_after()
            if self._finished or is_over():
                return
            time.sleep(POLL_S)

    def _look_after(self) -> None:
        if self._record.stop.is_set():
            raise Abandoned
        now = time.monotonic()
        self._follow_journal()
        if now - self._looked_at > LOOK_INTERVAL_S:
            self._looked_at = now
            self._herd.look()
            self._keep_notes_client(now)
        code = self._campaign.exit_code()
        if self._finished:
            return
        if self._was_killed_early and self._session_began():
            # Ray was still starting: the driver started it once more, and there is nothing to notice.
            self._head_killed_at, self._was_killed_early = None, False
        if code is not None:
            self._driver_ended(code)
        elif self._head_killed_at is not None and now - self._head_killed_at > DRIVER_NOTICES_S:
            self._trouble(f"the driver did not notice for {DRIVER_NOTICES_S:g} s that the head is gone")
        elif now - max(self._patience_from, self._watch.progress_at[-1]) > STALL_S:
            self._trouble(f"no progress for {STALL_S:g} s")

    def _follow_journal(self) -> None:
        self._watch.poll()
        if self._watch.problems:
            self._violation(self._watch.problems[-1])
            raise Abandoned
        for part, killed_at in list(self._pending):
            at = self._watch.progress_since(self._counts_from(part, killed_at))
            if at is not None:
                self._pending.remove((part, killed_at))
                self._num_troubles = 0
                self._record.recovered(self._lane, part, at - killed_at)

    def _counts_from(self, part: str, killed_at: float) -> float:
        """After a lost driver or head the campaign goes on with a new driver, not by what still twitches."""
        if part not in (Part.DRIVER, Part.HEAD, Part.GCS):
            return killed_at
        return self._started_at if self._started_at > killed_at else float("inf")

    def _keep_notes_client(self, now: float) -> None:
        """It needs a ledger: the session that runs now must have begun."""
        if self._notes.is_alive or now - self._notes_tried_at < NOTES_REST_S or self._head_killed_at:
            return
        sessions = self._watch.state.sessions
        facts = driver_facts(self._campaign.paths) or {}
        if sessions and facts.get("session_id") == sessions[-1].started.session_id:
            self._notes_tried_at = now
            self._herd.own.add(self._notes.start(facts))

    def _driver_ended(self, code: int) -> None:
        expected = self._driver_killed or self._head_killed_at is not None
        head_s = None if self._head_killed_at is None else round(time.monotonic() - self._head_killed_at, 1)
        facts = {"campaign": self._campaign.tag, "code": code, "expected": expected, "after_head_s": head_s}
        self._record.event("driver ended", self._lane, **facts)
        self._follow_journal()
        if self._watch.state.ended is not None and code == 0:
            self._finished = True
            return
        if self._watch.state.ended is not None and code == CampaignError.exit_code and self._last_was_killed:
            self._finished = True  # there was nothing left to do but to bring the files up to date
            return
        self._last_was_killed = expected  # its roles may have gone on for a moment, to the campaign's end
        if not expected and code == ClusterError.exit_code and not self._session_began():
            # Ray gives its node 30 s to start; a machine that is busy enough takes longer.
            self._record.say(f"{self._lane} {self._campaign.tag}: Ray did not start, once more")
            self._count_trouble()
        elif not expected:
            self._violation(f"the driver ended by itself with exit code {code}", self._campaign.last_words())
            self._count_trouble()
        if not self._with_nodes or self._head_killed_at is not None:
            self._end_cluster()
            self._expect_nothing_left()
        self._start()

    def _session_began(self) -> bool:
        return len(self._watch.state.sessions) > self._num_sessions_before

    def _start(self) -> None:
        """Start the driver: with its own cluster, or on the nodes, whatever they still do."""
        if self._with_nodes and self._nodes is None:
            self._nodes = Nodes(self._campaign.folder, self._campaign.environment, NUM_NODES)
            self._herd.own.add(self._nodes.pid)
            self._campaign.address = self._nodes.address
        self._driver_killed, self._head_killed_at, self._was_killed_early = False, None, False
        self._patience_from = self._started_at = time.monotonic()
        self._num_sessions_before = len(self._watch.state.sessions)
        self._campaign.start()

    def _trouble(self, what: str) -> None:
        """It does not go on: tell all that can be told, then try a new driver."""
        titles = sorted(found.title[:100] for found in self._herd.look())
        self._violation(what, "\n".join([self._campaign.last_words(), "processes:", *titles]))
        self._count_trouble()
        self._driver_killed = True
        self._patience_from = time.monotonic()
        if self._campaign.process is not None:
            self._campaign.process.kill()

    def _count_trouble(self) -> None:
        self._num_troubles += 1
        if self._num_troubles >= MAX_TROUBLES:
            self._violation("it could not be brought to its end")
            raise Abandoned

    # The end ------------------------------------------------------------------------------------

    def _end_cluster(self) -> None:
        self._notes.stop()
        if self._nodes is not None:
            self._herd.own.discard(self._nodes.pid)
            self._nodes.close()
            self._nodes = None

    def _expect_nothing_left(self) -> None:
        """What belonged to a driver or a cluster that is gone must vanish by itself."""
        # Ray's agents stay when the gcs is killed, also those of a node that was only starting. A cluster
        # with nodes is the harness's own, which clears it up as autohyp's keeper does for autohyp's own.
        left = self._herd.wait_gone(GONE_S, ended_by_us=RAYS_AGENTS if self._with_nodes else ())
        for text in verify_nothing_left(self._campaign.folder, left.values()):
            self._violation(text)
        self._kill_left(left)

    def _kill_left(self, left: dict[psutil.Process, str]) -> None:
        kill([Found(process, 0, (title,)) for process, title in left.items()])

    def _verify(self) -> None:
        campaign = self._campaign
        self._notes.stop()
        if self._with_nodes:  # the cluster goes on for others: the campaign's roles must not
            deadline = time.monotonic() + GONE_S
            while (roles := self._roles()) and time.monotonic() < deadline:
                time.sleep(0.1)
            for title in roles:
                self._violation(f"role left on the cluster: {title}")
        self._end_cluster()
        self._expect_nothing_left()
        for text in verify_campaign(campaign, self._watch):
            self._violation(text)
        state = self._watch.state
        self._record.campaign(
            self._lane,
            tag=campaign.tag,
            experiments=len(state.experiments),
            results=state.num_results,
            acknowledged=len(acknowledged_keys(campaign.acknowledgements)),
            starts=campaign.num_starts,
            kills=self._num_kills,
        )
        self._record.say(f"{self._lane} {campaign.tag}: finished after {self._num_kills} kills")

    def _roles(self) -> list[str]:
        return [found.title for part in ROLES for [found] in self._herd.of(part)]

    def _violation(self, text: str, details: str = "") -> None:
        self._record.violation(self._lane, self._campaign.tag, text, details)
