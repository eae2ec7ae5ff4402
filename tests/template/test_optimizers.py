"""The optimizers against what defines them, and the schedules."""

from __future__ import annotations

import math
from types import ModuleType

import pytest
import torch
from torch import nn

from .conftest import TINY, Load


def test_every_parameter_belongs_to_exactly_one_optimizer(tiny: ModuleType) -> None:
    model = tiny.build_model(32, 16)
    optimized = [id(p) for optimizer in tiny.build_optimizers(model) for p in optimizer.parameters]
    assert len(optimized) == len(set(optimized))
    assert set(optimized) == {id(p) for p in model.parameters()}


def test_muon_has_the_matrices_in_the_layers_and_adamw_the_rest(tiny: ModuleType) -> None:
    model = tiny.build_model(32, 16)
    by_muon = {
        id(p)
        for optimizer in tiny.build_optimizers(model)
        if isinstance(optimizer, tiny.Muon)
        for p in optimizer.parameters
    }
    assert by_muon == {id(p) for p in model.layers.parameters()}


def test_learning_rates_follow_the_reference(load: Load) -> None:
    width_512 = (512 / 768) ** -0.5
    template = load(**TINY | {"DEPTH": 8, "ASPECT_RATIO": 64, "HEAD_DIM": 128})
    model = template.GPT(8, 16)
    rates = {id(optimizer.parameters[0]): optimizer.rate for optimizer in template.build_optimizers(model)}
    assert rates[id(model.head.weight)] == pytest.approx(0.004 * width_512)
    assert rates[id(model.embedding.weight)] == pytest.approx(0.6 * width_512)
    assert rates[id(model.value_embeddings["7"].weight)] == pytest.approx(0.6 * width_512)
    assert rates[id(model.residual_scales)] == pytest.approx(0.005)
    assert rates[id(model.x0_scales)] == 0.5
    first = model.layers[0]
    assert rates[id(first.attention.query.weight)] == 0.04
    assert rates[id(first.mlp.up.weight)] == pytest.approx(0.04 * math.sqrt(4))
    assert rates[id(first.mlp.down.weight)] == 0.04


@pytest.mark.parametrize("shape", [(24, 24), (96, 24), (24, 96)])
def test_orthogonalise_moves_all_singular_values_close_to_one(
    tiny: ModuleType, shape: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(3, *shape), full_matrices=False)
    spectrum = torch.logspace(0, -2, 24)
    scale = torch.tensor([1e-3, 1.0, 1e3]).view(3, 1, 1)
    matrices = scale * (left * spectrum) @ right
    result = tiny.orthogonalise(matrices, 5)
    assert result.shape == matrices.shape
    singular = torch.linalg.svdvals(result)
    assert singular.min() > 0.75
    assert singular.max() < 1.25
    for mine, exact in zip(result, left @ right, strict=True):
        assert torch.cosine_similarity(mine.flatten(), exact.flatten(), dim=0) > 0.98


def test_more_iterations_than_coefficients_stay_close_to_one(tiny: ModuleType) -> None:
    singular = torch.linalg.svdvals(tiny.orthogonalise(torch.randn(1, 16, 16), 9))
    assert singular.min() > 0.75
    assert singular.max() < 1.25


@pytest.mark.parametrize(("shape", "neurons"), [((6, 4), (6, 1)), ((4, 6), (1, 6))])
def test_equalised_neurons_have_one_size_and_the_matrix_keeps_its_norm(
    tiny: ModuleType, shape: tuple[int, int], neurons: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    size = torch.arange(1, max(shape) + 1, dtype=torch.float32).view(1, *neurons)
    updates = torch.randn(1, *shape) * size
    second_moment = torch.zeros(1, *neurons)
    result = tiny.equalise_neurons(updates, second_moment)
    axis = -1 if neurons[1] == 1 else -2
    norms = result.norm(dim=axis).flatten()
    torch.testing.assert_close(norms, norms[:1].expand_as(norms))
    torch.testing.assert_close(result.norm(), updates.norm())
    expected = 0.05 * updates.square().mean(dim=axis, keepdim=True)
    torch.testing.assert_close(second_moment, expected)


def test_muon_decays_only_where_the_update_agrees(tiny: ModuleType) -> None:
    torch.manual_seed(0)
    weights, gradients = torch.randn(2, 1, 8, 8).unbind()

    def step(decay: float) -> torch.Tensor:
        result = weights.clone()
        state = torch.zeros(1, 8, 8), torch.zeros(1, 8, 1)
        scalars = (torch.tensor(value) for value in (0.1, 0.9, decay))
        tiny.muon_update(result, gradients, *state, *scalars)
        return result

    update = (weights - step(0.0)) / 0.1
    decayed = (step(0.0) - step(0.5)) / 0.1
    agrees = update * weights > 0
    torch.testing.assert_close(decayed, 0.5 * weights * agrees, atol=1e-5, rtol=1e-4)
    assert 0 < agrees.sum() < 64


def test_adamw_is_adamw(tiny: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny, "learning_rate_factor", lambda progress: 1.0)
    torch.manual_seed(0)
    mine = nn.Parameter(torch.randn(5, 3))
    theirs = nn.Parameter(mine.detach().clone())
    optimizer = tiny.AdamW(mine, rate=0.1, betas=(0.8, 0.95), decay=0.2)
    reference = torch.optim.AdamW([theirs], 0.1, (0.8, 0.95), eps=1e-10, weight_decay=0.2)
    for step in range(5):
        mine.grad = torch.randn(5, 3)
        theirs.grad = mine.grad.clone()
        optimizer.step(step, 0.0)
        reference.step()
    torch.testing.assert_close(mine, theirs)


def test_muon_updates_each_of_its_parameters_alone(tiny: ModuleType) -> None:
    torch.manual_seed(0)
    together = [nn.Parameter(torch.randn(8, 4)) for _ in range(3)]
    alone = nn.Parameter(together[1].detach().clone())
    for parameter in together:
        parameter.grad = torch.randn(8, 4)
    alone.grad = together[1].grad
    tiny.Muon(together).step(0, 0.0)
    tiny.Muon([alone]).step(0, 0.0)
    torch.testing.assert_close(together[1], alone)


@pytest.mark.parametrize(
    ("progress", "factor"),
    [(0.0, 0.0), (0.05, 0.5), (0.1, 1.0), (0.5, 1.0), (0.75, 0.55), (1.0, 0.1)],
)
def test_learning_rate_rises_holds_and_falls(load: Load, progress: float, factor: float) -> None:
    template = load(WARMUP_RATIO=0.1, WARMDOWN_RATIO=0.5, FINAL_LR_FRAC=0.1)
    assert template.learning_rate_factor(progress) == pytest.approx(factor)


def test_reference_learning_rate_starts_at_once_and_ends_at_nothing(load: Load) -> None:
    template = load()
    assert template.learning_rate_factor(0.0) == 1.0
    assert template.learning_rate_factor(0.5) == 1.0
    assert template.learning_rate_factor(1.0) == 0.0


def test_a_schedule_without_warm_down_stays_up(load: Load) -> None:
    assert load(WARMDOWN_RATIO=0.0).learning_rate_factor(1.0) == 1.0


def test_momentum_and_decay_schedules(load: Load) -> None:
    template = load()
    assert template.muon_momentum(0) == 0.85
    assert template.muon_momentum(150) == pytest.approx(0.9)
    assert template.muon_momentum(10_000) == pytest.approx(0.95)
    assert template.muon_weight_decay(0.0) == 0.2
    assert template.muon_weight_decay(0.5) == pytest.approx(0.1)
    assert template.muon_weight_decay(1.0) == 0.0
    assert load(MOMENTUM_WARMUP_STEPS=0).muon_momentum(1) == pytest.approx(0.95)
    assert load(FINAL_WEIGHT_DECAY_FRAC=1.0).muon_weight_decay(1.0) == 0.2
