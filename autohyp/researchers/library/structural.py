"""Known changes of train.py's code, as small replacements of text.

A rewrite replaces passages that must each occur exactly once; where one does not, it raises EditError that
names the passage, and nothing is half-changed. The order of a rewrite's passages is the file's.
"""

from __future__ import annotations

from dataclasses import dataclass

from autohyp.errors import EditError
from autohyp.source import parse_source

__all__ = ["REWRITES", "Rewrite"]


@dataclass(frozen=True)
class Rewrite:
    """Passages of the source and what they become; a switch that is off in the untouched source."""

    passages: tuple[tuple[str, str], ...]

    def __call__(self, source: str) -> str:
        """The rewritten source. Raises EditError if a passage is missing, ambiguous, or the result no
        Python.
        """
        for before, after in self.passages:
            found = source.count(before)
            if found != 1:
                where = "is not there" if not found else f"is there {found} times"
                raise EditError(f"the code to change {where}: {before.strip().splitlines()[0]!r}")
            source = source.replace(before, after)
        parse_source(source)
        return source


def _replace(*passages: tuple[str, str]) -> Rewrite:
    return Rewrite(passages)


QUERY = "        query = normalise(rotate(query, cosine, sine)).to(value.dtype)\n"
OUTPUT = "        return self.output(mixed.transpose(1, 2).reshape(x.shape))\n"
OUTPUT_MATRIX = "        self.output = nn.Linear(width, width, bias=False)\n"
ZERO_INIT = "            for linear in (attention.output, mlp.down):\n"
INPUT = "        x = x0 = normalise(self.embedding(inputs))\n"
FREQUENCY = "    angle = torch.outer("
WARMDOWN = "    left = (1 - progress) / WARMDOWN_RATIO\n"
LOGITS = "        logits = LOGIT_SOFTCAP * torch.tanh(self.head(normalise(x) / LOGIT_SOFTCAP).float())\n"
LOSS_RETURN = '        return loss.view(targets.shape) if reduction == "none" else loss\n'
MLP_BODY = "        return self.down(F.relu(self.up(x)).square())\n"
LAYER_BODY = (
    "        x = x + self.attention(normalise(x), token_value, cosine, sine, mask)\n"
    "        return x + self.mlp(normalise(x))\n"
)
LAYER_CALL = "            x = layer(x, token_value, cosine, sine, self.masks[number])\n"
NORMUON = "    update = equalise_neurons(orthogonalise(update, NS_STEPS), second_moment)\n"
CAUTIOUS = (
    "    shrinks = (update * weights) >= 0  # cautious: decay only where the update agrees with it\n"
    "    weights.sub_(rate * (update + decay * weights * shrinks))\n"
)
MOMENTUM = "        momentum.fill_(muon_momentum(step))\n"
UPDATE_LOOP = "    for optimizer in optimizers:\n        optimizer.step(step, progress)\n"
DECAY_SCHEDULE = "    return WEIGHT_DECAY * (1 - progress * (1 - FINAL_WEIGHT_DECAY_FRAC))\n"

REWRITES: dict[str, Rewrite] = {
    "sharper-queries": _replace((QUERY, QUERY.replace("= normalise(", "= 1.2 * normalise("))),
    "gated-heads": _replace(
        (OUTPUT_MATRIX, OUTPUT_MATRIX +
         "        self.head_gate = nn.Linear(VALUE_GATE_CHANNELS, width // HEAD_DIM, bias=False)\n"),
        (OUTPUT, "        open_share = 2 * torch.sigmoid(self.head_gate(x[..., :VALUE_GATE_CHANNELS]))\n"
         "        mixed = mixed.transpose(1, 2) * open_share.unsqueeze(-1)\n"
         "        return self.output(mixed.reshape(x.shape))\n"),
        (ZERO_INIT, ZERO_INIT.replace("attention.output,", "attention.output, attention.head_gate,")),
    ),
    "smeared-input": _replace(
        (INPUT, "        x = self.embedding(inputs)\n"
         "        x = x + 0.1 * F.pad(x, (0, 0, 1, 0))[:, :-1]  # the token before\n"
         "        x = x0 = normalise(x)\n"),
    ),
    "half-rotary": _replace(
        (FREQUENCY, "    frequency[HEAD_DIM // 4 :] = 0  # these channels carry content alone\n" + FREQUENCY),
    ),
    "backout": _replace(
        (LAYER_CALL, LAYER_CALL + "            if number == DEPTH // 2:\n                halfway = x\n"),
        ("        # The cap is divided out before the head, where it costs least.\n",
         "        x = x - 0.2 * halfway  # context that only the layers needed\n"
         "        # The cap is divided out before the head, where it costs least.\n"),
    ),
    "cosine-warmdown": _replace(
        (WARMDOWN, "    left = 0.5 - 0.5 * math.cos(math.pi * (1 - progress) / WARMDOWN_RATIO)\n"),
    ),
    "sqrt-warmdown": _replace(
        (WARMDOWN, "    left = 1 - math.sqrt(max(0.0, 1 - (1 - progress) / WARMDOWN_RATIO))\n"),
    ),
    "z-loss": _replace(
        (LOSS_RETURN, '        if reduction == "mean" and self.training:\n'
         "            loss = loss + 1e-4 * logits.logsumexp(dim=-1).square().mean()\n" + LOSS_RETURN),
    ),
    "no-softcap": _replace((LOGITS, "        logits = self.head(normalise(x)).float()\n"),
                           ("        # The cap is divided out before the head, where it costs least.\n", "")),
    "swiglu": _replace(
        ("        hidden = int(MLP_RATIO * width)\n", "        hidden = int(2 / 3 * MLP_RATIO * width)\n"),
        ("        self.up = nn.Linear(width, hidden, bias=False)\n",
         "        self.up = nn.Linear(width, 2 * hidden, bias=False)\n"),
        (MLP_BODY, "        gate, value = self.up(x).chunk(2, dim=-1)\n"
         "        return self.down(F.silu(gate) * value)\n"),
    ),
    "leaky-relu-squared": _replace(
        (MLP_BODY, MLP_BODY.replace("F.relu(self.up(x))", "F.leaky_relu(self.up(x), 0.5)")),
    ),
    "parallel-layer": _replace(
        (LAYER_BODY, "        normal = normalise(x)\n"
         "        return x + self.attention(normal, token_value, cosine, sine, mask) + self.mlp(normal)\n"),
    ),
    "plain-muon": _replace((NORMUON, "    update = orthogonalise(update, NS_STEPS)\n")),
    "incautious-decay": _replace((CAUTIOUS, "    weights.sub_(rate * (update + decay * weights))\n")),
    "momentum-cooldown": _replace(
        (MOMENTUM, "        momentum.fill_(muon_momentum(step) - max(0.0, progress - 0.9))\n"),
    ),
    "clipped-gradients": _replace(
        (UPDATE_LOOP, "    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n" + UPDATE_LOOP),
    ),
    "still-scales": _replace(
        (UPDATE_LOOP, "    if step == 0:  # nothing has reached these yet: their gradients are noise\n"
         "        model.residual_scales.grad.zero_()\n"
         "        model.x0_scales.grad.zero_()\n" + UPDATE_LOOP),
    ),
    "decay-follows-rate": _replace(
        (DECAY_SCHEDULE, "    return WEIGHT_DECAY * learning_rate_factor(progress)\n"),
    ),
}  # fmt: skip
"""The rewrites by the key of the catalogue's entry."""
