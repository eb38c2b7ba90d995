"""Tiny runs of the three methods in processes that kill themselves with SIGKILL at a given point.

The processes are forked from a server that imported torch and nothing else has run in: a start
costs milliseconds, and each is still a process of its own with nothing in common but the files.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # the first optimiser imports it: once here rather than in every process

from kontext.train import loop
from kontext.train.autoencoder import AutoencoderMethod
from kontext.train.distill import DistillMethod
from kontext.train.flow import FlowMethod
from schemas.recipes import AutoencoderConfig, AutoencoderShape, DistillConfig
from tests.train.toy import toy_config, toy_model, toy_pairs

STEPS = 12
POINTS = ("before the step", "before the save", "in the save", "after the step")
Kill = tuple[int, str]  # a step and a point of POINTS


def flow() -> FlowMethod:
    """Both phases, both optimisers."""
    config = toy_config(optimizer="muon", t2i_steps=4, joint_steps=STEPS - 4, text_dropout=0.3)
    return FlowMethod(config, toy_pairs(), toy_model())


def autoencoder() -> AutoencoderMethod:
    """The discriminator starts half way."""
    shape = AutoencoderShape(ch=16, ch_mult=(1, 1, 1, 1), num_res_blocks=1, norm_groups=4)
    config = AutoencoderConfig(
        shape=shape, steps=STEPS, batch=2, warmup=2, disc_start=6, disc_channels=8
    )
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 3, 32, 32), generator=draw, dtype=torch.uint8)
    return AutoencoderMethod(config, images, None)


def ladd() -> DistillMethod:
    """Heads and student, with warm-up, R1 and negatives."""
    data = toy_pairs()
    config = DistillConfig(steps=STEPS, warmup_steps=4, batch=4, lr_student=1e-3, taps=(0, 2))
    return DistillMethod(config, data, data.edits(), data.latents[:8] * 0.9, toy_model())


METHODS = {"flow": flow, "autoencoder": autoencoder, "ladd": ladd}


@cache
def _processes() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.train.broken_runs"])
    return context


def run(method: str, folder: Path, every: int, kill: Kill | None = None) -> int:
    """One process of a run in `folder`, killed at a point if it comes there; its exit code."""
    process = _processes().Process(target=_train, args=(method, folder, every, kill))
    process.start()
    process.join(120)
    assert process.exitcode is not None, "the run hangs"
    code: int = process.exitcode
    return code


def told(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """(step, losses) of every step that any process of the run finished, in the order of time."""
    lines = (folder / "told.jsonl").read_text().splitlines()
    return [(row["step"], row["losses"]) for row in map(json.loads, lines)]


def _train(name: str, folder: Path, every: int, kill: Kill | None) -> None:
    torch.set_num_threads(1)
    method = METHODS[name]()
    if kill is not None:
        _arm(method, *kill)
    armed = None if kill is None or kill[1] != "before the save" else kill[0]

    with (folder / "told.jsonl").open("a") as file:

        def tell(done: int, total: int, losses: Mapping[str, float]) -> None:
            file.write(json.dumps({"step": done - 1, "losses": dict(losses)}) + "\n")
            file.flush()
            if done - 1 == armed:
                _die()

        loop.fit(method, checkpoint=folder / "c.pt", checkpoint_every=every, progress=tell)


def _arm(method: Any, step: int, point: str) -> None:
    real_step, real_sync = method.step, os.fsync

    def dying_step(index: int) -> Mapping[str, float]:
        if index == step and point == "before the step":
            _die()
        losses: Mapping[str, float] = real_step(index)
        if index == step and point == "after the step":
            _die()
        return losses

    def dying_sync(descriptor: int) -> None:
        if method.state.step == step + 1 and point == "in the save":
            _die()  # the new checkpoint is written and has not got its name
        real_sync(descriptor)

    method.step = dying_step
    os.fsync = dying_sync


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
