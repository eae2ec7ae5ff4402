"""Tools edit the constants of train.py by syntax tree: their form is a contract."""

from __future__ import annotations

import ast
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

from .conftest import TEMPLATE_DIR, TRAIN_PY, Load

SOURCE = TRAIN_PY.read_text()

# COMPAT.md, "The model and optimizer of the reference configuration".
REFERENCE = {
    "DEPTH": 8,
    "ASPECT_RATIO": 64,
    "HEAD_DIM": 128,
    "MLP_RATIO": 4,
    "WINDOW_PATTERN": "SSSL",
    "SHORT_WINDOW_FRAC": 0.5,
    "ROPE_BASE": 10_000,
    "LOGIT_SOFTCAP": 15.0,
    "RESIDUAL_INIT": 1.0,
    "X0_INIT": 0.1,
    "TOTAL_BATCH_SIZE": 524_288,
    "DEVICE_BATCH_SIZE": 128,
    "MATRIX_LR": 0.04,
    "EMBEDDING_LR": 0.6,
    "UNEMBEDDING_LR": 0.004,
    "SCALAR_LR": 0.5,
    "ADAM_BETAS": (0.8, 0.95),
    "ADAM_EPS": 1e-10,
    "MUON_START_MOMENTUM": 0.85,
    "MUON_MOMENTUM": 0.95,
    "MOMENTUM_WARMUP_STEPS": 300,
    "MUON_BETA2": 0.95,
    "NS_STEPS": 5,
    "WEIGHT_DECAY": 0.2,
    "WARMUP_RATIO": 0.0,
    "WARMDOWN_RATIO": 0.5,
    "FINAL_LR_FRAC": 0.0,
}


def literal(node: ast.expr) -> Any:
    """A literal, or a power of two literals."""
    if isinstance(node, ast.BinOp):
        assert isinstance(node.op, ast.Pow)
        return literal(node.left) ** literal(node.right)
    return ast.literal_eval(node)


def constants_block() -> dict[str, ast.Assign]:
    """The assignments between the ruled headings "Constants" and "Device"."""
    first = SOURCE[: SOURCE.index("# Constants")].count("\n") + 1
    last = SOURCE[: SOURCE.index("# Device")].count("\n") + 1
    block = [node for node in ast.parse(SOURCE).body if first < node.lineno < last]
    named = {}
    for node in block:
        assert isinstance(node, ast.Assign)
        [target] = node.targets
        assert isinstance(target, ast.Name)
        named[target.id] = node
    assert len(named) == len(block)
    return named


@pytest.fixture(scope="module")
def benchmark() -> dict[str, Any]:
    path = TEMPLATE_DIR / "benchmarks" / "published_126_runs.yaml"
    content = yaml.safe_load(path.read_text())
    assert isinstance(content, dict)
    return content


def test_each_constant_is_a_literal_on_a_line_of_its_own_with_its_meaning() -> None:
    lines = SOURCE.splitlines()
    for name, node in constants_block().items():
        literal(node.value)
        assert name == name.upper()
        assert node.lineno == node.end_lineno
        assert "  # " in lines[node.lineno - 1], f"{name} has no comment"


def test_constants_have_the_reference_values() -> None:
    values = {name: literal(node.value) for name, node in constants_block().items()}
    assert {name: values[name] for name in REFERENCE} == REFERENCE


def test_no_tunable_literal_hides_outside_the_block() -> None:
    block = set(constants_block())
    for node in ast.parse(SOURCE).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name.isupper() and name not in block:
                assert not isinstance(node.value, ast.Constant | ast.UnaryOp | ast.BinOp), name


def test_every_constant_is_used() -> None:
    read = {
        node.id
        for node in ast.walk(ast.parse(SOURCE))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    assert set(constants_block()) <= read


def test_the_published_configuration_is_reached_by_constants_alone(
    load: Load, benchmark: dict[str, Any]
) -> None:
    values = {name: literal(node.value) for name, node in constants_block().items()}
    overrides = benchmark["constants"]
    assert set(overrides) <= set(values)
    for name, value in overrides.items():
        assert type(value) is type(values[name]), name
    template = load(**overrides)
    with torch.device("meta"):
        model = template.GPT(vocab_size=8192, length=2048)
    assert template.model_width() == 640
    assert template.reaches(2048) == [256, 256, 256, 256, 2048, 256, 256, 256, 2048]
    assert len(model.value_embeddings) == 5
    assert template.accumulation_steps(2048) == 1


def test_the_benchmark_names_its_source_and_its_figures(benchmark: dict[str, Any]) -> None:
    assert benchmark["source"].startswith("https://github.com/karpathy/autoresearch")
    assert benchmark["measured"]["val_bpb"] == 0.969686


def test_reference_has_the_published_size_and_windows(load: Load) -> None:
    template: ModuleType = load()
    with torch.device("meta"):
        model = template.GPT(vocab_size=8192, length=2048)
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters / 1e6 == pytest.approx(50.3, abs=0.05)
    assert template.model_width() == 512
    assert template.reaches(2048) == [1024, 1024, 1024, 2048] * 2
    assert template.accumulation_steps(2048) == 2
    # 39.8 % of 989.5 TFLOP/s at 499.6 M tokens in 300 s.
    tokens_per_second = 0.398 * 989.5e12 / template.flops_per_token(model, 2048)
    assert tokens_per_second * 300 / 1e6 == pytest.approx(499.6, rel=0.02)
