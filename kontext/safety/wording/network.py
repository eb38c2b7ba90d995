"""The classifier's encoder in torch, to be trained: the same numbers as `encoder.py`.

The lower layers stay as they are, so their states are made once. The upper ones get adapters (LoRA,
Hu et al. 2022) beside each matrix.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from kontext.safety.wording.packed import Packed, Values

CHANGES_RESULTS = False  # makes the weights, which count as a file

RANK, DROPPED = 16, 0.1
_PARTS = ("q", "k", "v", "ao", "fi", "fo")


class Adapted(nn.Module):
    """A frozen matrix and what is added to it: 2 * up @ down."""

    def __init__(self, model: Packed, name: str, columns: int, rank: int) -> None:
        super().__init__()
        self.weight = torch.from_numpy(model.matrix(f"{name}.w", columns))
        self.bias = torch.from_numpy(model.plain(f"{name}.b"))
        self.down, self.up = None, None
        if rank:
            self.down = nn.Linear(columns, rank, bias=False)
            self.up = nn.Linear(rank, len(self.bias), bias=False)
            nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        made = functional.linear(x, self.weight, self.bias)
        if self.down is None or self.up is None:
            return made
        own: Tensor = self.up(self.down(functional.dropout(x, DROPPED, self.training)))
        return made + 2 * own

    def added(self) -> tuple[Values, Values]:
        """`down` [rank, in] and `up` [out, rank] as `Encoder` takes them."""
        assert self.down is not None and self.up is not None
        return self.down.weight.detach().numpy(), 2 * self.up.weight.detach().numpy()


class Layer(nn.Module):
    """One layer of BERT: norms after attention and after the inner part."""

    def __init__(self, model: Packed, number: int, rank: int) -> None:
        super().__init__()
        width, _, self.heads, inner = model.shape
        self.parts = nn.ModuleDict(
            {
                part: Adapted(model, f"l{number}.{part}", inner if part == "fo" else width, rank)
                for part in _PARTS
            }
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width, model.eps) for _ in range(2))
        for own, name in zip(self.norms, ("aln", "oln"), strict=True):
            _norm(own, model, f"l{number}.{name}")

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """States [B, L, W] and mask [B, L] bool -> states."""
        query, key, value = (
            self.parts[part](x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in ("q", "k", "v")
        )
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=seen[:, None, None, :]
        )
        x = self.norms[0](x + self.parts["ao"](mixed.transpose(1, 2).flatten(2)))
        made: Tensor = self.norms[1](x + self.parts["fo"](functional.gelu(self.parts["fi"](x))))
        return made


def _norm(own: nn.Module, model: Packed, name: str) -> None:
    with torch.no_grad():
        own.weight.copy_(torch.from_numpy(model.plain(f"{name}.w")))  # type: ignore[operator]
        own.bias.copy_(torch.from_numpy(model.plain(f"{name}.b")))  # type: ignore[operator]
    own.requires_grad_(False)


class Network(nn.Module):
    """Frozen lower layers, adapted upper ones, and a head."""

    def __init__(self, model: Packed, lower: int) -> None:
        """Take the packed model; `lower` of its layers stay as they are."""
        super().__init__()
        width, layers, _, _ = model.shape
        self.model, self.lower = model, lower
        positions = torch.from_numpy(model.plain("emb.pos")).reshape(-1, width)
        self.positions = positions + torch.from_numpy(model.plain("emb.type"))[:width]
        self.norm = nn.LayerNorm(width, model.eps)
        _norm(self.norm, model, "emb.ln")
        self.layers = nn.ModuleList(
            Layer(model, number, 0 if number < lower else RANK) for number in range(layers)
        )
        self.head = nn.Linear(2 * width, 1)

    @torch.no_grad()
    def below(self, texts: Sequence[Sequence[int]]) -> list[Tensor]:
        """States of the lower layers, bfloat16 [L, W] of each text."""
        found: list[Tensor] = [torch.zeros(0)] * len(texts)
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        for start in range(0, len(order), 128):
            own = order[start : start + 128]
            cut = [texts[place] for place in own]
            numbers = nn.utils.rnn.pad_sequence([torch.tensor(t) for t in cut], batch_first=True)
            seen = _seen([len(text) for text in cut])
            words = torch.from_numpy(
                self.model.matrix(
                    "emb.word", self.norm.normalized_shape[0], numbers.flatten().numpy()
                )
            )
            with torch.autocast("cpu", torch.bfloat16):
                x = words.reshape(*numbers.shape, -1) + self.positions[: numbers.shape[1]]
                x = self.norm(x)
                for layer in self.layers[: self.lower]:
                    x = layer(x, seen)
            for place, states, text in zip(own, x, cut, strict=True):
                found[place] = states[: len(text)].to(torch.bfloat16).clone()
        return found

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """States of the lower layers -> logits [B], float32."""
        seen = _seen([len(one) for one in states])
        x = nn.utils.rnn.pad_sequence(list(states), batch_first=True)
        with torch.autocast("cpu", torch.bfloat16):
            for layer in self.layers[self.lower :]:
                x = layer(x, seen)
        x = x.float()
        mean = (x * seen[..., None]).sum(1) / seen.sum(1, keepdim=True)
        largest = x.masked_fill(~seen[..., None], -1e9).amax(1)
        made: Tensor = self.head(torch.cat([mean, largest], 1))[:, 0]
        return made

    def added(self) -> dict[str, Values]:
        """What was trained, as `TextClassifier` takes it."""
        found = dict[str, Values]()
        for number in range(self.lower, len(self.layers)):
            for part, own in self.layers[number].parts.items():  # type: ignore[operator, union-attr]
                found[f"l{number}.{part}.down"], found[f"l{number}.{part}.up"] = own.added()
        head, bias = self.head.weight.detach()[0], self.head.bias.detach()
        return {**found, "head": head.numpy(), "head_bias": bias.numpy()}


def _seen(lengths: Sequence[int]) -> Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
