"""The contract that every researcher must pass, as a list of named checks.

Each check takes a fresh researcher and a train.py and plays a short part of a campaign. Use it from a test:

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name) def test_contract(check):
    check.run(LibraryResearcher, Target(source=..., profile="cpu"))

A check that is broken raises ContractError with a sentence. Researchers that may say nothing (a model that
was refused, say) are held to all checks but `never_runs_dry`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from autohyp.records import (
    BASELINE_KIND,
    Brief,
    ConstantsEdit,
    Hypothesis,
    NoiseFloor,
    PastExperiment,
    Verdict,
)
from autohyp.researchers.base import Researcher
from autohyp.source import apply_edit, fingerprint, read_constants, set_constants

__all__ = ["CHECKS", "ContractCheck", "ContractError", "Target", "past_experiment"]

BASELINE_BPB = 1.0
NOISE_BPB = 0.001
MakeResearcher = Callable[[], Researcher]


class ContractError(AssertionError):
    """A researcher breaks the contract."""


@dataclass(frozen=True)
class Target:
    """A train.py to propose for, with its profile; `deaf_source` is one that most structural edits do not
    fit.
    """

    source: str
    profile: str = "gpu"
    deaf_source: str = "MATRIX_LR = 0.04\nEMBEDDING_LR = 0.6\nDEPTH = 4\n"


@dataclass(frozen=True)
class ContractCheck:
    """One clause of the contract."""

    name: str
    run: Callable[[MakeResearcher, Target], None] = field(repr=False)


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise ContractError(problem)


# ---------------------------------------------------------------------------------------------
# A campaign on paper


def past_experiment(
    ordinal: int, hypothesis: Hypothesis, source: str, parent: PastExperiment | None, gain_bpb: float
) -> PastExperiment:
    """A decided experiment whose gain over its parent is `gain_bpb`; kept when that is above the noise."""
    before = parent.mean_bpb if parent and parent.mean_bpb is not None else BASELINE_BPB
    return PastExperiment(
        experiment_id=f"exp-{ordinal:04d}-x",
        hypothesis=hypothesis,
        parent_experiment_id=parent.experiment_id if parent else None,
        constants=read_constants(source),
        fingerprint=fingerprint(source),
        verdict=Verdict.KEEP if parent is None or gain_bpb > 3 * NOISE_BPB else Verdict.DISCARD,
        gain_bpb=None if parent is None else gain_bpb,
        gain_sd_bpb=None if parent is None else NOISE_BPB,
        mean_bpb=before - gain_bpb,
    )


@dataclass
class PaperCampaign:
    """Briefs that grow as experiments are added; every third gains, and becomes the champion."""

    target: Target
    history: list[PastExperiment] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.champion_source = self.target.source
        baseline = Hypothesis(
            hypothesis_id="baseline",
            title="baseline",
            rationale="",
            edit=None,
            kind=BASELINE_KIND,
            researcher="x",
        )
        self.champion = past_experiment(1, baseline, self.champion_source, None, 0.0)
        self.history.append(self.champion)

    def brief(
        self, queued: Sequence[Hypothesis] = (), refused: Iterable[tuple[str, str]] = (), parallel: int = 1
    ) -> Brief:
        return Brief(
            tag="paper",
            objective="lower val_bpb",
            constraints=(),
            profile=self.target.profile,
            champion_id=self.champion.experiment_id,
            champion_source=self.champion_source,
            champion_bpb=self.champion.mean_bpb,
            baseline_bpb=BASELINE_BPB,
            noise=NoiseFloor(sd_bpb=NOISE_BPB, degrees_of_freedom=2),
            history=tuple(self.history),
            queued=tuple(queued),
            refused=tuple(refused),
            parallel=parallel,
        )

    def run(self, hypothesis: Hypothesis) -> PastExperiment:
        source = apply_edit(self.champion_source, hypothesis.edit)
        ordinal = len(self.history) + 1
        gain = 5 * NOISE_BPB if ordinal % 3 == 0 else -2 * NOISE_BPB
        experiment = past_experiment(ordinal, hypothesis, source, self.champion, gain)
        self.history.append(experiment)
        if experiment.verdict is Verdict.KEEP:
            self.champion, self.champion_source = experiment, source
        return experiment


def _programs(source: str, hypotheses: Iterable[Hypothesis]) -> list[str]:
    return [fingerprint(apply_edit(source, hypothesis.edit)) for hypothesis in hypotheses]


def _told(hypotheses: Iterable[Hypothesis]) -> list[dict[str, object]]:
    """Hypotheses without the time at which they were made."""
    return [hypothesis.model_dump(exclude={"created_at"}) for hypothesis in hypotheses]


# ---------------------------------------------------------------------------------------------
# The clauses


def _respects_n(make: MakeResearcher, target: Target) -> None:
    brief = PaperCampaign(target).brief()
    for n in (0, 1, 5):
        count = len(make().propose(brief, n))
        _require(count <= n, f"asked for {n} hypotheses, it gave {count}")


def _speaks_for_itself(make: MakeResearcher, target: Target) -> None:
    researcher = make()
    for hypothesis in researcher.propose(PaperCampaign(target).brief(), 5):
        _require(
            hypothesis.researcher == researcher.name,
            f"{hypothesis.hypothesis_id} is not signed by {researcher.name}",
        )
        for part in ("hypothesis_id", "title", "rationale", "kind"):
            _require(bool(getattr(hypothesis, part).strip()), f"{hypothesis.hypothesis_id} has no {part}")
        _require(hypothesis.kind != BASELINE_KIND, "only the observer proposes a baseline")


def _edits_apply_and_differ(make: MakeResearcher, target: Target) -> None:
    campaign = PaperCampaign(target)
    hypotheses = make().propose(campaign.brief(), 20)
    programs = _programs(target.source, hypotheses)
    _require(len(set(programs)) == len(programs), "it proposed the same program twice at once")
    _require(fingerprint(target.source) not in programs, "it proposed the champion itself")
    ids = [hypothesis.hypothesis_id for hypothesis in hypotheses]
    _require(len(set(ids)) == len(ids), "two hypotheses have the same id")


def _never_repeats(make: MakeResearcher, target: Target) -> None:
    """Over a campaign with a queue: nothing that was tried or is queued comes again."""
    campaign, researcher = PaperCampaign(target), make()
    queued: list[Hypothesis] = []
    for _ in range(8):
        known = {experiment.fingerprint for experiment in campaign.history}
        known |= set(_programs(campaign.champion_source, queued))
        for program in _programs(campaign.champion_source, researcher.propose(campaign.brief(queued), 2)):
            _require(program not in known, "it proposed a program that was tried or is queued")
        queued = researcher.propose(campaign.brief(), 3)
        for hypothesis in queued[:1]:
            researcher.observe(campaign.run(hypothesis))
        queued = []


def _same_brief_same_answer(make: MakeResearcher, target: Target) -> None:
    """Also after a restart: one that watched and one that only reads the history agree."""
    campaign, watcher = PaperCampaign(target), make()
    for _ in range(4):
        for hypothesis in watcher.propose(campaign.brief(), 1):
            watcher.observe(campaign.run(hypothesis))
    brief = campaign.brief()
    again = Brief.model_validate_json(brief.model_dump_json())
    first, second = _told(watcher.propose(brief, 4)), _told(make().propose(again, 4))
    _require(first == second, "a restart changed its answer to the same brief")


def _takes_no_for_an_answer(make: MakeResearcher, target: Target) -> None:
    campaign = PaperCampaign(target)
    first = make().propose(campaign.brief(), 3)
    refused = [(hypothesis.title, "does not fit") for hypothesis in first]
    second = make().propose(campaign.brief(refused=refused), 3)
    again = {hypothesis.title for hypothesis in first} & {hypothesis.title for hypothesis in second}
    _require(not again, f"it proposed again what was refused: {', '.join(sorted(again))}")


def _survives_failures(make: MakeResearcher, target: Target) -> None:
    """Crashed, invalid and running experiments, and one whose parent is unknown."""
    campaign, researcher = PaperCampaign(target), make()
    hypotheses = researcher.propose(campaign.brief(), 4)
    for verdict, hypothesis in zip(
        (Verdict.CRASH, Verdict.INVALID, None, Verdict.CRASH), hypotheses, strict=False
    ):
        experiment = campaign.run(hypothesis)
        orphan = "exp-9999-gone" if verdict is Verdict.INVALID else experiment.parent_experiment_id
        campaign.history[-1] = experiment.model_copy(
            update={
                "verdict": verdict,
                "mean_bpb": None,
                "gain_bpb": None,
                "gain_sd_bpb": None,
                "parent_experiment_id": orphan,
            }
        )
        researcher.observe(campaign.history[-1])
    researcher.propose(campaign.brief(), 3)


def _survives_a_deaf_champion(make: MakeResearcher, target: Target) -> None:
    """A champion that structural edits do not fit, and one without any constant."""
    for source in (target.deaf_source, "print('nothing to tune')\n"):
        campaign = PaperCampaign(Target(source, target.profile))
        _programs(source, make().propose(campaign.brief(), 10))


def _survives_others(make: MakeResearcher, target: Target) -> None:
    """Hypotheses of other researchers in the history and the queue."""
    campaign = PaperCampaign(target)
    name, value = next(
        (n, v) for n, v in read_constants(target.source).items() if isinstance(v, float) and v > 0
    )
    foreign = Hypothesis(
        hypothesis_id="h-1",
        title="by hand",
        rationale="a hunch",
        edit=ConstantsEdit(overrides={name: value * 1.7}),
        kind="hunch",
        researcher="external",
    )
    late = foreign.model_copy(update={"hypothesis_id": "h-2", "edit": ConstantsEdit(overrides={"GONE": 1})})
    campaign.run(foreign)
    make().propose(campaign.brief(queued=[late]), 3)


def _never_runs_dry(make: MakeResearcher, target: Target) -> None:
    """Asked for far more than any catalogue holds, and with that much tried already, it still has ideas."""
    campaign, researcher = PaperCampaign(target), make()
    many = researcher.propose(campaign.brief(), 250)
    for hypothesis in many:
        campaign.history.append(
            past_experiment(
                len(campaign.history) + 1,
                hypothesis,
                apply_edit(campaign.champion_source, hypothesis.edit),
                campaign.champion,
                -NOISE_BPB,
            )
        )
    _require(
        bool(researcher.propose(campaign.brief(), 1)), f"after {len(many)} experiments it had no idea left"
    )


def _follows_the_champion(make: MakeResearcher, target: Target) -> None:
    """A champion that differs from the baseline gets edits that apply to it, not to the baseline."""
    campaign, researcher = PaperCampaign(target), make()
    constants = read_constants(target.source)
    moved = {n: v * 1.5 for n, v in constants.items() if isinstance(v, float) and 0 < v < 0.6}
    campaign.champion_source = set_constants(target.source, dict(list(moved.items())[:3]))
    _programs(campaign.champion_source, researcher.propose(campaign.brief(), 5))


CHECKS: tuple[ContractCheck, ...] = (
    ContractCheck("respects_n", _respects_n),
    ContractCheck("speaks_for_itself", _speaks_for_itself),
    ContractCheck("edits_apply_and_differ", _edits_apply_and_differ),
    ContractCheck("never_repeats", _never_repeats),
    ContractCheck("same_brief_same_answer", _same_brief_same_answer),
    ContractCheck("takes_no_for_an_answer", _takes_no_for_an_answer),
    ContractCheck("survives_failures", _survives_failures),
    ContractCheck("survives_a_deaf_champion", _survives_a_deaf_champion),
    ContractCheck("survives_others", _survives_others),
    ContractCheck("never_runs_dry", _never_runs_dry),
    ContractCheck("follows_the_champion", _follows_the_champion),
)
"""The clauses, in the order in which a new researcher is best made to pass them."""
