"""The flow against a plain PyTorch loop that shares model, data order and noise, nothing else."""

import math

import pytest
import torch

from kontext.models.flux.transformer import FluxTransformer
from kontext.train.loop.fit import fit, generator
from kontext.train.methods.flow import FlowMethod
from schemas.sections.training import ParallelConfig
from tests.train.toy import toy_config, toy_model, toy_pairs

STEPS, PHASE_ONE, BATCH, SINGLES, WARMUP = 50, 10, 8, 2, 5
LR, DECAY, CLIP, DROP = 5e-3, 0.01, 1.0, 0.25


def tokens_of(latents: torch.Tensor) -> torch.Tensor:
    """2 x 2 patches of [B, C, 4, 4] by explicit loops, channel-major inside a token."""
    out = []
    for row in range(0, 4, 2):
        for column in range(0, 4, 2):
            out.append(latents[:, :, row : row + 2, column : column + 2].flatten(1))
    return torch.stack(out, dim=1)


def positions(images: int) -> torch.Tensor:
    return torch.tensor(
        [[float(t), float(r), float(c)] for t in range(images) for r in range(2) for c in range(2)]
    )


def rate(step: int) -> float:
    if step < WARMUP:
        return LR * (step + 1) / WARMUP
    done = (step - WARMUP) / (STEPS - WARMUP)
    return LR * (0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2)


def reference_losses(model: FluxTransformer) -> list[float]:
    data = toy_pairs()
    edits, singles = range(8), range(8, 12)
    # categories weigh the same whatever their size
    sizes = torch.bincount(data.category[:8], minlength=6)
    odds = torch.tensor([1 / int(sizes[data.category[i]]) for i in edits])
    adam = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=DECAY)
    mu = 0.5 + (4 - 256) * (1.15 - 0.5) / (4096 - 256)  # BFL's line at 4 target tokens
    losses = []
    for step in range(STEPS):
        order, noise, time, drop = (
            generator(3, step, name) for name in ("batch", "noise", "time", "dropout")
        )
        groups = []
        count = BATCH if step < PHASE_ONE else SINGLES
        if step >= PHASE_ONE:
            drawn = torch.multinomial(odds / odds.sum(), BATCH - SINGLES, True, generator=order)
            groups.append([edits[i] for i in drawn])
        groups.append([singles[i] for i in torch.randint(4, (count,), generator=order)])
        total = torch.tensor(0.0)
        for pairs in groups:
            words = [
                0 if u < DROP else int(data.text[p])
                for u, p in zip(torch.rand(len(pairs), generator=drop).tolist(), pairs, strict=True)
            ]
            x = tokens_of(torch.stack([data.latents[data.target[p]] for p in pairs]))
            e = torch.randn(x.shape, generator=noise)
            t = torch.sigmoid(mu + torch.randn(len(pairs), generator=time))
            z, images = (1 - t)[:, None, None] * x + t[:, None, None] * e, 1
            if pairs[0] < 8:
                y = tokens_of(torch.stack([data.latents[data.context[p]] for p in pairs]))
                z, images = torch.cat([z, y], 1), 2
            v = model(
                z,
                positions(images),
                data.text_tokens[words],
                data.text_pooled[words],
                t,
                target_length=4,
            )
            total = total + ((v - (e - x)) ** 2).mean() * len(pairs) / BATCH
        adam.zero_grad()
        total.backward()
        norm = sum(float(p.grad.double().pow(2).sum()) for p in model.parameters()) ** 0.5
        for p in model.parameters():
            p.grad *= min(1.0, CLIP / (norm + 1e-6))
        adam.param_groups[0]["lr"] = rate(step)
        adam.step()
        losses.append(float(total.detach()))
    return losses


def test_fifty_losses_are_those_of_a_plain_loop() -> None:
    config = toy_config(
        t2i_steps=PHASE_ONE,
        joint_steps=STEPS - PHASE_ONE,
        t2i_share=SINGLES / BATCH,
        batch=BATCH,
        optimizer="adamw",
        lr=LR,
        warmup=WARMUP,
        weight_decay=DECAY,
        clip=CLIP,
        text_dropout=DROP,
        seed=3,
        parallel=ParallelConfig(precision="fp32"),
    )
    ours = [row["loss"] for row in fit(FlowMethod(config, toy_pairs(), toy_model()))]
    assert ours == pytest.approx(reference_losses(toy_model()), rel=1e-5)
