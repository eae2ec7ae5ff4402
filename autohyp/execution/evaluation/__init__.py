"""The judge: how a model that nobody trusts is measured on text that it has not seen.

`plan` decides what is asked and when, `checks` decides whether the answers can be believed,
`scoring` turns them into bits per byte, and `server` puts the three together. Imports numpy only,
so that the evaluator starts fast.
"""

from __future__ import annotations

from autohyp.execution.evaluation.checks import Checks
from autohyp.execution.evaluation.plan import ClaimStep, OpenStep, Plan, ProbeStep, Splice, make_plan
from autohyp.execution.evaluation.scoring import EvaluationData, Score, load_evaluation_data
from autohyp.execution.evaluation.server import EvaluationResult, serve_evaluation

__all__ = [
    "Checks",
    "ClaimStep",
    "EvaluationData",
    "EvaluationResult",
    "OpenStep",
    "Plan",
    "ProbeStep",
    "Score",
    "Splice",
    "load_evaluation_data",
    "make_plan",
    "serve_evaluation",
]
