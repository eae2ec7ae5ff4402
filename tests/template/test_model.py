"""The model: shapes, losses, and that no token sees what it must not see."""

from __future__ import annotations

import math
import warnings
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .conftest import TINY, Load

LENGTH = 16
VOCAB_SIZE = 32


def random_model(template: ModuleType) -> Any:
    """A model whose every weight matters: at the true start layers are the identity."""
    torch.manual_seed(1)
    model = template.GPT(VOCAB_SIZE, LENGTH)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.5)
    return model


def tokens(rows: int = 2, length: int = LENGTH) -> Tensor:
    return torch.randint(VOCAB_SIZE, (rows, length), generator=torch.Generator().manual_seed(2))


def test_logits_and_losses_have_the_shapes_of_the_contract(tiny: ModuleType) -> None:
    model = random_model(tiny)
    inputs, targets = tokens(), tokens().roll(-1, 1)
    logits = model(inputs)
    losses = model(inputs, targets, reduction="none")
    mean = model(inputs, targets)
    assert logits.shape == (2, LENGTH, VOCAB_SIZE)
    assert losses.shape == (2, LENGTH)
    assert mean.shape == ()
    assert logits.dtype == losses.dtype == torch.float32
    expected = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(mean, losses.mean())


def test_every_parameter_gets_a_gradient(tiny: ModuleType) -> None:
    model = random_model(tiny)
    model(tokens(), tokens().roll(-1, 1)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_training_starts_from_the_uniform_distribution(tiny: ModuleType) -> None:
    model = tiny.GPT(VOCAB_SIZE, LENGTH)
    loss = model(tokens(), tokens().roll(-1, 1)).item()
    assert loss == pytest.approx(math.log(VOCAB_SIZE), abs=0.05)


def test_a_model_narrower_than_the_gate_works(load: Load) -> None:
    model = load(**TINY | {"VALUE_GATE_CHANNELS": 1000}).GPT(VOCAB_SIZE, LENGTH)
    assert model(tokens()).shape == (2, LENGTH, VOCAB_SIZE)


def test_logits_stay_within_the_soft_cap(load: Load) -> None:
    model = random_model(load(**TINY, LOGIT_SOFTCAP=3.0))
    nn.init.normal_(model.head.weight, std=100.0)
    assert model(tokens()).abs().max().item() == pytest.approx(3.0)


@pytest.mark.parametrize("position", [0, 7, LENGTH - 1])
def test_a_later_token_changes_nothing_before_it(tiny: ModuleType, position: int) -> None:
    model = random_model(tiny)
    inputs = tokens()
    changed = inputs.clone()
    changed[:, position] = (changed[:, position] + 1) % VOCAB_SIZE
    before, after = model(inputs), model(changed)
    assert torch.equal(before[:, :position], after[:, :position])
    assert not torch.allclose(before[:, position:], after[:, position:])


def test_a_shorter_sequence_is_a_prefix(tiny: ModuleType) -> None:
    model = random_model(tiny)
    inputs = tokens()
    torch.testing.assert_close(model(inputs[:, :5]), model(inputs)[:, :5])


@pytest.mark.parametrize("reach", [0, 3, LENGTH])
def test_attention_reaches_exactly_as_far_as_its_window(tiny: ModuleType, reach: int) -> None:
    attention = random_model(tiny).layers[1].attention
    cosine, sine = tiny.rotary_tables(LENGTH)
    mask = tiny.causal_mask(reach, LENGTH)
    x = torch.randn(1, LENGTH, tiny.model_width(), requires_grad=True)
    y = attention(x, None, cosine, sine, mask)
    for position in range(LENGTH):
        [gradient] = torch.autograd.grad(y[0, position].sum(), x, retain_graph=True)
        seen = set(gradient[0].abs().sum(dim=-1).nonzero().flatten().tolist())
        assert seen == set(range(max(0, position - reach), position + 1))


def test_the_pattern_repeats_and_the_last_layer_sees_everything(load: Load) -> None:
    template = load(**TINY | {"DEPTH": 6}, WINDOW_PATTERN="SSL", SHORT_WINDOW_FRAC=0.25)
    assert template.reaches(LENGTH) == [4, 4, LENGTH, 4, 4, LENGTH]
    monotone = load(**TINY | {"DEPTH": 2}, WINDOW_PATTERN="S")
    assert monotone.reaches(LENGTH) == [8, LENGTH]
    model = monotone.GPT(VOCAB_SIZE, LENGTH)
    assert [int(mask[-1].sum()) for mask in model.masks] == [9, LENGTH]


@pytest.mark.parametrize("reach", [3, LENGTH])
def test_the_gpu_mask_allows_what_the_cpu_mask_allows(
    tiny: ModuleType, monkeypatch: pytest.MonkeyPatch, reach: int
) -> None:
    query, key, value = torch.randn(3, 2, 4, LENGTH, 8).unbind()
    on_cpu = tiny.attend(query, key, value, tiny.causal_mask(reach, LENGTH))
    monkeypatch.setattr(tiny, "ON_GPU", True)
    block_mask = tiny.causal_mask(reach, LENGTH)
    assert not isinstance(block_mask, Tensor)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        on_gpu = tiny.attend(query, key, value, block_mask)
    torch.testing.assert_close(on_cpu, on_gpu)


def test_rotation_keeps_norms_and_sees_distances_only(tiny: ModuleType) -> None:
    cosine, sine = tiny.rotary_tables(LENGTH)
    query, key = torch.randn(2, tiny.HEAD_DIM).unbind()
    queries = tiny.rotate(query.expand(1, LENGTH, 1, -1), cosine, sine)[0, :, 0]
    keys = tiny.rotate(key.expand(1, LENGTH, 1, -1), cosine, sine)[0, :, 0]
    torch.testing.assert_close(queries.norm(dim=-1), query.norm().expand(LENGTH))
    scores = queries @ keys.T
    for distance in (0, 1, 5):
        diagonal = scores.diagonal(-distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    assert not torch.allclose(scores[5, 5], scores[5, 0])


@pytest.mark.parametrize(("depth", "expected"), [(4, [1, 3]), (5, [0, 2, 4])])
def test_every_other_layer_has_a_value_embedding_the_last_included(
    load: Load, depth: int, expected: list[int]
) -> None:
    template = load(**TINY | {"DEPTH": depth})
    model = template.GPT(VOCAB_SIZE, LENGTH)
    assert [layer for layer in range(depth) if template.has_value_embedding(layer)] == expected
    assert sorted(model.value_embeddings) == [str(layer) for layer in expected]
    assert [layer.attention.gate is not None for layer in model.layers] == [
        layer in expected for layer in range(depth)
    ]


def test_width_is_rounded_up_to_whole_heads(load: Load) -> None:
    assert load(DEPTH=9, ASPECT_RATIO=57, HEAD_DIM=128).model_width() == 640
    assert load(DEPTH=4, ASPECT_RATIO=16, HEAD_DIM=32).model_width() == 64
