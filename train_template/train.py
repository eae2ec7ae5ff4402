"""Train a small language model for a fixed budget and measure its validation bits per byte.

    python prepare.py && python train.py

This is the one file an experiment may change. It reads top to bottom: constants, model, optimizer,
schedules, training. The data, the tokenizer, the clock, the seed and the measurement come from
`prepare` and stay as they are. The last lines printed are the summary, `val_bpb` first.

Guarantees: on a CPU the same seed and the same number of steps give the same losses, bit for bit.
Compilation on a GPU happens before the clock starts and leaves weights and optimizer untouched.
Not covered: more than one device a run (run more experiments instead), checkpoints.

Ideas and where they come from:
  RMS normalisation                 Zhang & Sennrich 2019, arXiv 1910.07467
  rotary position embedding         Su et al. 2021, arXiv 2104.09864
  normalised queries and keys       Henry et al. 2020, arXiv 2010.04245
  squared ReLU                      So et al. 2021 (Primer), arXiv 2109.08668
  sliding attention windows         Beltagy et al. 2020 (Longformer), arXiv 2004.05150
  value embeddings, input skips     Jordan et al. 2024, github.com/KellerJordan/modded-nanogpt;
                                    value residuals: Zhou et al. 2024, arXiv 2410.17897
  soft-capped logits                Gemma 2, 2024, arXiv 2408.00118
  AdamW                             Loshchilov & Hutter 2017, arXiv 1711.05101
  Muon                              Jordan et al. 2024, kellerjordan.github.io/posts/muon
  Polar Express                     Amsel et al. 2025, arXiv 2505.16932
  per-neuron normalisation          Li et al. 2025 (NorMuon), arXiv 2510.05491
  cautious weight decay             Chen et al. 2025, arXiv 2510.12402
  the composition, its figures      Karpathy, github.com/karpathy/nanochat and .../autoresearch
"""

from __future__ import annotations

import gc
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

import prepare

# --------------------------------------------------------------------------------------------------
# Constants: the reference configuration. Plain literals, one a line, so that tools can edit them.
# --------------------------------------------------------------------------------------------------

# fmt: off
# Shape
DEPTH = 8                           # layers
ASPECT_RATIO = 64                   # width = DEPTH * ASPECT_RATIO, rounded up to whole heads
HEAD_DIM = 128                      # channels of one attention head
MLP_RATIO = 4                       # hidden width of the MLP / width
WINDOW_PATTERN = "SSSL"             # a letter a layer, repeated: S short, L long; the last is long
SHORT_WINDOW_FRAC = 0.5             # reach of a short window / sequence length
ROPE_BASE = 10_000                  # slowest rotation: about 2 pi * ROPE_BASE tokens a turn
LOGIT_SOFTCAP = 15.0                # logits stay within -cap .. cap
VALUE_EMBEDDING_EVERY = 2           # layers from one value embedding to the next; the last has one
VALUE_GATE_CHANNELS = 32            # leading channels that set the gate of the value embedding
VALUE_GATE_SCALE = 2.0              # gate = scale * sigmoid, so 2 starts at 1

# Initial weights
INIT_SCALE = 1.0                    # matrices: uniform of standard deviation scale / sqrt(width)
EMBEDDING_INIT_STD = 1.0            # token embedding: normal
HEAD_INIT_STD = 0.001               # output head: normal
RESIDUAL_INIT = 1.0                 # per-layer factor on the residual stream
X0_INIT = 0.1                       # per-layer factor on the normalised input embedding

# Batch
TOTAL_BATCH_SIZE = 2**19            # tokens an optimizer step
DEVICE_BATCH_SIZE = 128             # rows a forward pass; fewer save memory

# Learning rates
MATRIX_LR = 0.04                    # Muon, for the matrices in the layers
EMBEDDING_LR = 0.6                  # AdamW, token and value embeddings
VALUE_EMBEDDING_LR_SCALE = 1.0      # times EMBEDDING_LR
UNEMBEDDING_LR = 0.004              # AdamW, output head
SCALAR_LR = 0.5                     # AdamW, factors on the input embedding
RESIDUAL_LR_SCALE = 0.01            # times SCALAR_LR, factors on the residual stream
LR_REFERENCE_WIDTH = 768            # head and embedding rates scale by (width / this) ** -0.5

# Optimizers
ADAM_BETAS = (0.8, 0.95)            # decay of the first and the second moment
X0_ADAM_BETAS = (0.96, 0.95)        # the same for the factors on the input embedding
ADAM_EPS = 1e-10                    # added to the root of the second moment
MUON_MOMENTUM = 0.95                # after the momentum warm-up
MUON_START_MOMENTUM = 0.85          # at the first step
MOMENTUM_WARMUP_STEPS = 300         # steps from the one to the other
MUON_BETA2 = 0.95                   # decay of the per-neuron second moment
NS_STEPS = 5                        # Polar Express iterations
WEIGHT_DECAY = 0.2                  # Muon, cautious
FINAL_WEIGHT_DECAY_FRAC = 0.0       # share of WEIGHT_DECAY left at the end of the budget
HEAD_WEIGHT_DECAY = 0.0             # AdamW, output head
EMBEDDING_WEIGHT_DECAY = 0.0        # AdamW, token embedding
VALUE_EMBEDDING_WEIGHT_DECAY = 0.0  # AdamW, value embeddings

# Schedule, in shares of the training budget
WARMUP_RATIO = 0.0                  # learning rates rise from 0
WARMDOWN_RATIO = 0.5                # learning rates fall to FINAL_LR_FRAC
FINAL_LR_FRAC = 0.0                 # share of the learning rates left at the end
# fmt: on

# --------------------------------------------------------------------------------------------------
# Device: bf16 and compiled kernels on a GPU, fp32 and plain torch on a CPU
# --------------------------------------------------------------------------------------------------

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
COMPUTE_DTYPE = torch.bfloat16 if ON_GPU else torch.float32
PEAK_FLOPS = 989.5e12 if ON_GPU else math.inf  # dense bf16, H100 and H200: mfu_percent's 100 %

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled_on_gpu(function: Function) -> Function:
    """Decorator: one fused graph a shape on a GPU, the function itself on a CPU."""
    return torch.compile(function, dynamic=False, fullgraph=True) if ON_GPU else function


# --------------------------------------------------------------------------------------------------
# Attention: causal, with a limited reach in most layers
# --------------------------------------------------------------------------------------------------

Mask = Tensor | BlockMask


def causal_mask(reach: int, length: int) -> Mask:
    """Which keys a query sees: itself and the `reach` tokens before it.

    A block mask on a GPU, where FlexAttention skips the blocks that nobody sees; bool [length,
    length], rows are queries, on a CPU.
    """

    def visible(_batch: Any, _head: Any, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query - key <= reach)

    if ON_GPU:
        return create_block_mask(visible, None, None, length, length, device=DEVICE)
    position = torch.arange(length)
    return visible(None, None, position[:, None], position)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Mask) -> Tensor:
    """Scaled dot-product attention over [batch, heads, length, channels]."""
    if isinstance(mask, Tensor):
        length = query.size(2)
        return F.scaled_dot_product_attention(query, key, value, mask[:length, :length])
    return flex_attention(query, key, value, block_mask=mask)


def reaches(length: int) -> list[int]:
    """Tokens each layer sees back, from WINDOW_PATTERN; the last layer always sees everything."""
    short = round(SHORT_WINDOW_FRAC * length)
    pattern = [WINDOW_PATTERN[layer % len(WINDOW_PATTERN)] for layer in range(DEPTH - 1)] + ["L"]
    return [{"S": short, "L": length}[letter] for letter in pattern]


# --------------------------------------------------------------------------------------------------
# Model
# --------------------------------------------------------------------------------------------------


def model_width() -> int:
    """Channels of the residual stream: DEPTH * ASPECT_RATIO, rounded up to whole heads."""
    return math.ceil(DEPTH * ASPECT_RATIO / HEAD_DIM) * HEAD_DIM


def has_value_embedding(layer: int) -> bool:
    return (DEPTH - 1 - layer) % VALUE_EMBEDDING_EVERY == 0


def normalise(x: Tensor) -> Tensor:
    """To a root mean square of 1 over the last axis, without weights; keeps the dtype."""
    return F.rms_norm(x, (x.size(-1),)).to(x.dtype)


def rotary_tables(length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every position's rotation angles, [length, 1, HEAD_DIM / 2] each."""
    frequency = ROPE_BASE ** -(torch.arange(0, HEAD_DIM, 2, dtype=torch.float32) / HEAD_DIM)
    angle = torch.outer(torch.arange(length, dtype=torch.float32), frequency)[:, None, :]
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turns channel i with channel i + HEAD_DIM / 2, x [batch, length, heads, HEAD_DIM]."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cosine + second * sine, second * cosine - first * sine), dim=-1)


class Attention(nn.Module):
    """Multi-head attention; some layers add a gated embedding of the token itself to its value."""

    def __init__(self, width: int, gated: bool) -> None:
        super().__init__()
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.gate_channels = min(VALUE_GATE_CHANNELS, width)
        heads = width // HEAD_DIM
        self.gate = nn.Linear(self.gate_channels, heads, bias=False) if gated else None

    def forward(
        self, x: Tensor, token_value: Tensor | None, cosine: Tensor, sine: Tensor, mask: Mask
    ) -> Tensor:
        heads = (*x.shape[:2], -1, HEAD_DIM)
        query = self.query(x).view(heads)
        key = self.key(x).view(heads)
        value = self.value(x).view(heads)
        if token_value is not None:
            gate = VALUE_GATE_SCALE * torch.sigmoid(self.gate(x[..., : self.gate_channels]))
            value = value + gate.unsqueeze(-1) * token_value.view(heads)
        query = normalise(rotate(query, cosine, sine)).to(value.dtype)
        key = normalise(rotate(key, cosine, sine)).to(value.dtype)
        mixed = attend(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), mask)
        return self.output(mixed.transpose(1, 2).reshape(x.shape))


class MLP(nn.Module):
    """Two matrices around a squared ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = int(MLP_RATIO * width)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.relu(self.up(x)).square())


class Layer(nn.Module):
    """Attention, then the MLP, each added to the residual stream it reads normalised."""

    def __init__(self, width: int, gated: bool) -> None:
        super().__init__()
        self.attention = Attention(width, gated)
        self.mlp = MLP(width)

    def forward(
        self, x: Tensor, token_value: Tensor | None, cosine: Tensor, sine: Tensor, mask: Mask
    ) -> Tensor:
        x = x + self.attention(normalise(x), token_value, cosine, sine, mask)
        return x + self.mlp(normalise(x))


class GPT(nn.Module):
    """A decoder-only transformer over sequences of up to `length` tokens.

    On a GPU sequences have exactly `length` tokens, as the block masks do.
    """

    def __init__(self, vocab_size: int, length: int) -> None:
        super().__init__()
        width = model_width()
        gated = [has_value_embedding(layer) for layer in range(DEPTH)]
        self.embedding = nn.Embedding(vocab_size, width)
        self.value_embeddings = nn.ModuleDict(
            {str(layer): nn.Embedding(vocab_size, width) for layer in range(DEPTH) if gated[layer]}
        )
        self.layers = nn.ModuleList(Layer(width, gated[layer]) for layer in range(DEPTH))
        self.residual_scales = nn.Parameter(torch.full((DEPTH,), float(RESIDUAL_INIT)))
        self.x0_scales = nn.Parameter(torch.full((DEPTH,), float(X0_INIT)))
        self.head = nn.Linear(width, vocab_size, bias=False)
        cosine, sine = rotary_tables(length)
        self.register_buffer("cosine", cosine, persistent=False)
        self.register_buffer("sine", sine, persistent=False)
        masks = {reach: causal_mask(reach, length) for reach in set(reaches(length))}
        self.masks = [masks[reach] for reach in reaches(length)]
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Every layer starts as the identity: the matrices that write to the stream are zero."""
        bound = INIT_SCALE * math.sqrt(3 / model_width())
        nn.init.normal_(self.embedding.weight, std=EMBEDDING_INIT_STD)
        nn.init.normal_(self.head.weight, std=HEAD_INIT_STD)
        for embedding in self.value_embeddings.values():
            nn.init.uniform_(embedding.weight, -bound, bound)
        for layer in self.layers:
            attention, mlp = layer.attention, layer.mlp
            for linear in (attention.query, attention.key, attention.value, mlp.up):
                nn.init.uniform_(linear.weight, -bound, bound)
            for linear in (attention.output, mlp.down):
                nn.init.zeros_(linear.weight)
            if attention.gate is not None:
                nn.init.zeros_(attention.gate.weight)

    def forward(self, inputs: Tensor, targets: Tensor | None = None, reduction: str = "mean") -> Tensor:
        """Logits float32 [batch, length, vocabulary]; with targets the loss in nats a token.

        `inputs` and `targets` are int64 [batch, length]. `reduction` is "mean" for one number or
        "none" for float32 [batch, length].
        """
        length = inputs.size(1)
        cosine, sine = self.cosine[:length], self.sine[:length]
        x = x0 = normalise(self.embedding(inputs))
        for number, layer in enumerate(self.layers):
            token_value = None
            if has_value_embedding(number):
                token_value = self.value_embeddings[str(number)](inputs)
            x = self.residual_scales[number] * x + self.x0_scales[number] * x0
            x = layer(x, token_value, cosine, sine, self.masks[number])
        # The cap is divided out before the head, where it costs least.
        logits = LOGIT_SOFTCAP * torch.tanh(self.head(normalise(x) / LOGIT_SOFTCAP).float())
        if targets is None:
            return logits
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction=reduction)
        return loss.view(targets.shape) if reduction == "none" else loss


def flops_per_token(model: GPT, length: int) -> float:
    """Training FLOPs a token: 6 a matrix weight, 12 a channel and visible token of attention.

    Counted as in PaLM (arXiv 2204.02311, appendix B), windows taken into account.
    """
    matrices = sum(p.numel() for layer in model.layers for p in layer.parameters())
    attention = sum(12 * model_width() * min(reach, length) for reach in reaches(length))
    return 6 * (matrices + model.head.weight.numel()) + attention


# --------------------------------------------------------------------------------------------------
# Optimizers: Muon for the matrices in the layers, AdamW for everything else
# --------------------------------------------------------------------------------------------------

# Polar Express for five iterations, with its safety margin of 2 % and cushion of 2, as computed for
# modded-nanogpt. An iteration beyond the last repeats the last.
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def orthogonalise(matrices: Tensor, iterations: int) -> Tensor:
    """The nearest (semi-)orthogonal matrices, about: all singular values move towards 1.

    `matrices` [number, rows, columns]. Odd polynomials of the matrix act on its singular values
    alone, so no decomposition is needed; they work on the smaller of the two Gram matrices.
    """
    x = matrices.to(COMPUTE_DTYPE)
    x = x / (1.02 * x.norm(dim=(-2, -1), keepdim=True) + 1e-6)
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    for iteration in range(iterations):
        a, b, c = POLAR_EXPRESS[min(iteration, len(POLAR_EXPRESS) - 1)]
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


def equalise_neurons(updates: Tensor, second_moment: Tensor) -> Tensor:
    """Gives every neuron an update of like size, the whole matrix's norm unchanged (NorMuon).

    A neuron is a row, or a column of a wide matrix. `updates` [number, rows, columns];
    `second_moment`, updated in place, has size 1 along the axis averaged over.
    """
    axis = -1 if second_moment.size(-1) == 1 else -2
    power = updates.float().square().mean(dim=axis, keepdim=True)
    second_moment.lerp_(power, 1 - MUON_BETA2)
    scale = second_moment.clamp_min(1e-10).rsqrt()
    norm_before = power.sum(dim=(-2, -1), keepdim=True).sqrt()
    norm_after = (power * scale.square()).sum(dim=(-2, -1), keepdim=True).sqrt()
    return updates * (scale * norm_before / norm_after.clamp_min(1e-10)).to(updates.dtype)


@compiled_on_gpu
def muon_update(
    weights: Tensor,
    gradients: Tensor,
    momentum_buffer: Tensor,
    second_moment: Tensor,
    rate: Tensor,
    momentum: Tensor,
    decay: Tensor,
) -> None:
    """One Muon step in place on `weights` [number, rows, columns]; the scalars are 0-d tensors."""
    momentum_buffer.lerp_(gradients, 1 - momentum)
    update = torch.lerp(gradients, momentum_buffer, momentum)  # Nesterov's look ahead
    update = equalise_neurons(orthogonalise(update, NS_STEPS), second_moment)
    shrinks = (update * weights) >= 0  # cautious: decay only where the update agrees with it
    weights.sub_(rate * (update + decay * weights * shrinks))


@compiled_on_gpu
def adamw_update(
    weight: Tensor,
    gradient: Tensor,
    first_moment: Tensor,
    second_moment: Tensor,
    betas: tuple[float, float],
    rate: Tensor,
    correction: Tensor,
    decay: Tensor,
) -> None:
    """One AdamW step in place; `rate` and `correction` carry the two moments' bias corrections."""
    first_moment.lerp_(gradient, 1 - betas[0])
    second_moment.lerp_(gradient.square(), 1 - betas[1])
    update = first_moment / ((second_moment * correction).sqrt() + ADAM_EPS)
    weight.sub_(rate * update + decay * weight)


class Muon:
    """Muon over parameters of one shape, stacked so that each operation is one batched kernel."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        rows, columns = parameters[0].shape
        neurons = (rows, 1) if rows >= columns else (1, columns)
        number = len(parameters)
        self.momentum_buffer = torch.zeros(number, rows, columns, device=DEVICE)
        self.second_moment = torch.zeros(number, *neurons, device=DEVICE)
        self.scalars = [torch.zeros((), device=DEVICE) for _ in range(3)]
        # Keeps the size of an output's change the same for a tall matrix.
        self.rate = MATRIX_LR * math.sqrt(max(1, rows / columns))

    @torch.no_grad()
    def step(self, step: int, progress: float) -> None:
        rate, momentum, decay = self.scalars
        rate.fill_(self.rate * learning_rate_factor(progress))
        momentum.fill_(muon_momentum(step))
        decay.fill_(muon_weight_decay(progress))
        weights = torch.stack([parameter.data for parameter in self.parameters])
        gradients = torch.stack([parameter.grad for parameter in self.parameters])
        state = (self.momentum_buffer, self.second_moment)
        muon_update(weights, gradients, *state, rate, momentum, decay)
        torch._foreach_copy_([p.data for p in self.parameters], list(weights.unbind()))

    def reset(self) -> None:
        self.momentum_buffer.zero_()
        self.second_moment.zero_()


class AdamW:
    """AdamW over one parameter."""

    def __init__(
        self,
        parameter: nn.Parameter,
        rate: float,
        betas: tuple[float, float] = ADAM_BETAS,
        decay: float = 0.0,
    ) -> None:
        self.parameters = [parameter]
        self.rate, self.betas, self.decay = rate, betas, decay
        self.first_moment = torch.zeros_like(parameter)
        self.second_moment = torch.zeros_like(parameter)
        self.scalars = [torch.zeros((), device=DEVICE) for _ in range(3)]
        self.steps_taken = 0

    @torch.no_grad()
    def step(self, _step: int, progress: float) -> None:
        self.steps_taken += 1
        rate_now = self.rate * learning_rate_factor(progress)
        rate, correction, decay = self.scalars
        rate.fill_(rate_now / (1 - self.betas[0] ** self.steps_taken))
        correction.fill_(1 / (1 - self.betas[1] ** self.steps_taken))
        decay.fill_(rate_now * self.decay)
        [weight] = self.parameters
        state = (self.first_moment, self.second_moment)
        adamw_update(weight, weight.grad, *state, self.betas, rate, correction, decay)

    def reset(self) -> None:
        self.first_moment.zero_()
        self.second_moment.zero_()
        self.steps_taken = 0


def build_optimizers(model: GPT) -> list[Muon | AdamW]:
    """One optimizer a shape of matrix, one a parameter for the rest; every parameter once."""
    by_shape: dict[torch.Size, list[nn.Parameter]] = {}
    for matrix in model.layers.parameters():
        by_shape.setdefault(matrix.shape, []).append(matrix)
    scale = (model_width() / LR_REFERENCE_WIDTH) ** -0.5
    value_rate = scale * EMBEDDING_LR * VALUE_EMBEDDING_LR_SCALE
    return [
        *(Muon(matrices) for matrices in by_shape.values()),
        AdamW(model.head.weight, scale * UNEMBEDDING_LR, decay=HEAD_WEIGHT_DECAY),
        AdamW(model.embedding.weight, scale * EMBEDDING_LR, decay=EMBEDDING_WEIGHT_DECAY),
        *(
            AdamW(table.weight, value_rate, decay=VALUE_EMBEDDING_WEIGHT_DECAY)
            for table in model.value_embeddings.values()
        ),
        AdamW(model.residual_scales, SCALAR_LR * RESIDUAL_LR_SCALE),
        AdamW(model.x0_scales, SCALAR_LR, X0_ADAM_BETAS),
    ]


# --------------------------------------------------------------------------------------------------
# Schedules
# --------------------------------------------------------------------------------------------------


def learning_rate_factor(progress: float) -> float:
    """Up from 0, flat, down to FINAL_LR_FRAC; `progress` is the share of the budget used, 0..1."""
    if progress < WARMUP_RATIO:
        return progress / WARMUP_RATIO
    if progress <= 1 - WARMDOWN_RATIO:
        return 1.0
    left = (1 - progress) / WARMDOWN_RATIO
    return left + (1 - left) * FINAL_LR_FRAC


def muon_momentum(step: int) -> float:
    share = min(1.0, step / max(1, MOMENTUM_WARMUP_STEPS))
    return MUON_START_MOMENTUM + share * (MUON_MOMENTUM - MUON_START_MOMENTUM)


def muon_weight_decay(progress: float) -> float:
    return WEIGHT_DECAY * (1 - progress * (1 - FINAL_WEIGHT_DECAY_FRAC))


# --------------------------------------------------------------------------------------------------
# Training
# --------------------------------------------------------------------------------------------------

MIXED_PRECISION = torch.autocast(DEVICE.type, dtype=torch.bfloat16, enabled=ON_GPU)
Batches = Iterator[tuple[Tensor, Tensor, int]]


def accumulation_steps(length: int) -> int:
    """Forward passes an optimizer step."""
    tokens = DEVICE_BATCH_SIZE * length
    if TOTAL_BATCH_SIZE % tokens != 0:
        sys.exit(
            f"train: TOTAL_BATCH_SIZE {TOTAL_BATCH_SIZE} is no multiple of DEVICE_BATCH_SIZE x "
            f"sequence length = {tokens}: change one of them"
        )
    return TOTAL_BATCH_SIZE // tokens


def build_model(vocab_size: int, length: int) -> GPT:
    """The same initial weights on every device: drawn on the CPU, then moved."""
    model = GPT(vocab_size, length).to(DEVICE)
    # Lookups are bound by memory, and their optimizer's step by the size of the tables.
    model.embedding.to(COMPUTE_DTYPE)
    model.value_embeddings.to(COMPUTE_DTYPE)
    return model


def backpropagate(model: nn.Module, batches: Batches, accumulation: int) -> Tensor:
    """Adds one optimizer step's gradients; returns the mean loss in nats a token, 0-d."""
    total = torch.zeros((), device=DEVICE)
    for _ in range(accumulation):
        inputs, targets, _epoch = next(batches)
        with MIXED_PRECISION:
            loss = model(inputs, targets) / accumulation
        loss.backward()
        total += loss.detach()
    return total


def update(model: nn.Module, optimizers: list[Muon | AdamW], step: int, progress: float) -> None:
    """Takes the optimizer step and clears the gradients."""
    for optimizer in optimizers:
        optimizer.step(step, progress)
    model.zero_grad(set_to_none=True)


def warm_up(model: nn.Module, optimizers: list[Muon | AdamW], length: int) -> None:
    """Compiles all that training and evaluation need on tokens that mean nothing, and undoes the step."""
    before = [parameter.detach().clone() for parameter in model.parameters()]
    # Two tensors: a graph compiled for inputs that are their own targets would fit nothing else.
    inputs = torch.zeros(DEVICE_BATCH_SIZE, length, dtype=torch.int64, device=DEVICE)
    targets = inputs.clone()
    backpropagate(model, iter([(inputs, targets, 0)]), accumulation=1)
    update(model, optimizers, step=0, progress=0.0)
    model.eval()
    with torch.no_grad(), MIXED_PRECISION:
        model(inputs, targets, reduction="none")
        model(inputs)
    model.train()
    for parameter, value in zip(model.parameters(), before, strict=True):
        parameter.data.copy_(value)
    for optimizer in optimizers:
        optimizer.reset()
    torch.cuda.synchronize()


def train(
    model: nn.Module,
    optimizers: list[Muon | AdamW],
    batches: Batches,
    accumulation: int,
    clock: prepare.TrainingClock,
) -> int:
    """Trains until the clock has expired; returns the optimizer steps taken."""
    step, next_line = 0, 0.0
    while not clock.expired:
        progress = min(1.0, clock.progress)
        mean_loss = backpropagate(model, batches, accumulation)
        update(model, optimizers, step, progress)
        loss = mean_loss.item()  # waits for the device, so that the clock is right
        if not loss <= 100:
            print("FAIL: the loss is not a number or exploded", flush=True)
            sys.exit(1)
        step += 1
        clock.report(step, loss)
        if progress >= next_line:
            speed = f"{step * TOTAL_BATCH_SIZE / clock.elapsed_s:,.0f} tokens/s"
            print(f"step {step:5d}  {progress:4.0%}  loss {loss:.4f}  {speed}", flush=True)
            next_line = progress + 0.02
    return step


def main() -> None:
    started_s = time.monotonic()
    torch.manual_seed(prepare.SEED)
    length = prepare.MAX_SEQ_LEN
    accumulation = accumulation_steps(length)

    plain_model = build_model(prepare.Tokenizer.from_data().vocab_size, length)
    optimizers = build_optimizers(plain_model)
    model = torch.compile(plain_model, dynamic=False) if ON_GPU else plain_model
    batches = prepare.make_dataloader(
        DEVICE_BATCH_SIZE, length, split="train", device=DEVICE, seed=prepare.SEED
    )
    if ON_GPU:
        torch.set_float32_matmul_precision("high")
        warm_up(model, optimizers, length)
    # A collection in mid-training stops a step for up to half a second; nothing here needs one.
    gc.collect()
    gc.freeze()
    gc.disable()

    clock = prepare.TrainingClock()
    clock.start()
    steps = train(model, optimizers, batches, accumulation, clock)
    training_s = clock.elapsed_s
    with MIXED_PRECISION:
        val_bpb = prepare.evaluate_bpb(model, DEVICE_BATCH_SIZE)

    tokens = steps * TOTAL_BATCH_SIZE
    flops = tokens * flops_per_token(plain_model, length)
    prepare.print_summary(
        val_bpb=val_bpb,
        training_seconds=training_s,
        total_seconds=time.monotonic() - started_s,
        peak_vram_mb=torch.cuda.max_memory_allocated() / 2**20 if ON_GPU else 0.0,
        mfu_percent=100 * flops / training_s / PEAK_FLOPS,
        total_tokens_M=tokens / 1e6,
        num_steps=steps,
        num_params_M=sum(p.numel() for p in plain_model.parameters()) / 1e6,
        depth=DEPTH,
    )


if __name__ == "__main__":
    main()
