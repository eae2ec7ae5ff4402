"""Every researcher keeps the contract, on the real train.py and on a toy."""

from __future__ import annotations

from pathlib import Path

import pytest

from autohyp.config import CPU_CONSTANTS
from autohyp.errors import ConfigError
from autohyp.records import Brief, Hypothesis, PastExperiment
from autohyp.researchers import RESEARCHERS, RandomResearcher, Researcher, make_researcher
from autohyp.source import set_constants
from autohyp.testing.researcher_contract import CHECKS, ContractCheck, ContractError, Target
from autohyp.testing.search_game import TOY_SOURCE

TRAIN = Path(__file__).parents[2].joinpath("train_template", "train.py").read_text(encoding="utf-8")
ON_TRAIN = {"edits_apply_and_differ", "respects_n", "speaks_for_itself"}


@pytest.mark.parametrize("name", RESEARCHERS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_toy(check: ContractCheck, name: str) -> None:
    check.run(RESEARCHERS[name], Target(TOY_SOURCE))


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
@pytest.mark.parametrize("check", [c for c in CHECKS if c.name in ON_TRAIN], ids=lambda check: check.name)
def test_train(check: ContractCheck, profile: str) -> None:
    source = set_constants(TRAIN, CPU_CONSTANTS) if profile == "cpu" else TRAIN
    check.run(RESEARCHERS["library"], Target(source, profile))


class Parrot(RandomResearcher):
    """Says the same for ever, to anybody, more often than asked."""

    name = "parrot"

    def observe(self, experiment: PastExperiment) -> None:
        self.heard = experiment

    def propose(self, brief: Brief, n: int) -> list[Hypothesis]:
        emptied = brief.model_copy(
            update={"history": (), "queued": (), "refused": (), "tag": f"{hasattr(self, 'heard')}"}
        )
        return super().propose(emptied, 1) * 2


@pytest.mark.parametrize("broken", ["respects_n", "edits_apply_and_differ", "never_repeats",
                                    "same_brief_same_answer", "takes_no_for_an_answer"])  # fmt: skip
def test_contract_catches_a_parrot(broken: str) -> None:
    check = next(check for check in CHECKS if check.name == broken)
    with pytest.raises(ContractError):
        check.run(Parrot, Target(TOY_SOURCE))


def test_made_by_name() -> None:
    assert isinstance(make_researcher("library"), Researcher)
    with pytest.raises(ConfigError, match="known: library"):
        make_researcher("oracle")
