"""Training, distilling and scoring from a pack, in slices of time, on a machine of its own.

    python -m kontext.packed FILE.pack FOLDER [--seconds 540]

needs Python, torch, numpy, safetensors and pydantic, and no network. Every call goes on where the
last one ended, whether its time was up (exit code 75: call again) or it was killed; after the
last, FOLDER holds codec, flow and student weights, `scores.json` and `samples.png`. The phases are
the pipeline's stages without store and catalog: the same methods on the same loop.
Run on CPU by the tests; on a GPU it is unrun.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kontext.data.packed import Pack, read_pack
from kontext.data.pair_tensors import PairTensors
from kontext.errors import KontextError, RecipeError
from kontext.models.autoencoder import Autoencoder
from kontext.models.features import FeatureNet
from kontext.models.precision import autocast, compute_dtype
from kontext.models.transformer import FluxTransformer
from kontext.packed.scores import scores_and_samples
from kontext.parallel.memory import keep_freed_memory
from kontext.parallel.peaks import peak_flops
from kontext.parallel.rank import Stopped
from kontext.sample.edits import EditSampler, choose_edits
from kontext.train.board import Board
from kontext.train.checkpoint import Checkpoints
from kontext.train.clock import Clock, format_numbers, medians
from kontext.train.ladd.gates import check_training, run_gates, stop_at_failure
from kontext.train.ledger import optimizer_ledger
from kontext.train.loop import fit
from kontext.train.methods.autoencoder import AutoencoderMethod, measure_latents
from kontext.train.methods.flow import FlowMethod
from kontext.train.methods.ladd import LaddMethod
from kontext.train.methods.pictures import PictureMethod
from kontext.train.training import Built
from kontext.train.transformer_ledger import transformer_ledger
from schemas.recipes import Recipe

AGAIN = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, call again
PHASES = ("codec", "latents", "flow", "edits", "student", "scores")
_EDITS_AT_ONCE = 128
_log = logging.getLogger(__name__)


class PackedRun:
    """One folder's run of one pack.

    Args:
        deadline: `time.monotonic()` after which it saves and ends.

    Raises:
        RecipeError: the folder holds a run of another pack.
    """

    def __init__(self, pack: Pack, folder: Path, deadline: float = float("inf")) -> None:
        self.pack, self.folder, self.deadline = pack, folder, deadline
        self.recipe = Recipe.model_validate(pack.recipe)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        folder.mkdir(parents=True, exist_ok=True)
        self._claim()

    def run(self) -> None:
        """All phases that are not done.

        Raises:
            Stopped: the time is up; what was reached is saved.
        """
        for phase in PHASES:
            if not (self.folder / f"{phase}.done").exists():
                _log.info("%s", phase)
                getattr(self, phase)()
                (self.folder / f"{phase}.done").touch()

    def codec(self) -> None:
        """Train the autoencoder and measure its latents."""
        config = self.recipe.autoencoder
        images = self._channels_first(self.pack.images_of("train"))
        method = AutoencoderMethod(config, images, self.features())
        self._fit("codec", method, config.checkpoint_every)
        model = method.model
        method.state.ema["model"].copy_to(model)
        model.requires_grad_(False).eval()
        model.set_latent_stats(*measure_latents(model, images))
        self._save("codec", model.state_dict())
        self._write("codec.json", model.config())

    def latents(self) -> None:
        """Encode every image."""
        codec, found = self.load_codec(), []
        with torch.no_grad(), autocast(self.device):
            for rows in np.array_split(np.arange(len(self.pack.images)), self._chunks()):
                images = self._channels_first(rows).float() / 127.5 - 1
                found.append(codec.encode(images).half().cpu())
        self._save("latents", {"latents": torch.cat(found)})

    def flow(self) -> None:
        """Train the flow."""
        config = self.recipe.finetune
        method = FlowMethod(config, self.data("train"))
        method.state.ledger = self._ledger(method.model, method)
        self._fit("flow", method, config.checkpoint_every)
        method.state.ema["model"].copy_to(method.model)
        if config.pictures.steps:
            self._pictures(method)
        self._save("flow", method.model.state_dict())

    def _pictures(self, flow: FlowMethod) -> None:
        """Train the flow on by the pictures it makes; a pack without features cannot."""
        features, config = self.features(), flow.config
        if features is None:
            raise RecipeError("finetune.pictures needs a pack with a feature network")
        method = PictureMethod(config, flow.data, flow.model, self.load_codec(), features)
        method.state.ledger = dict(flow.state.ledger)
        self._fit("pictures", method, config.checkpoint_every)
        method.state.ema["model"].copy_to(method.model)

    def edits(self) -> None:
        """The teacher's edits, in chunks that are kept one by one."""
        data, teacher = self.data("train"), self.load_transformer("flow")
        pairs = choose_edits(data, self.recipe.distill)
        for number, part in enumerate(torch.split(pairs, _EDITS_AT_ONCE)):
            name = f"edits-{number:05d}"
            if not (self.folder / f"{name}.safetensors").exists():
                self._save(name, {"latents": self.sampler(data).edits(teacher, part).cpu()})
                self._stop_in_time(f"{number + 1} chunks of edits")

    def student(self) -> None:
        """Distil, after the gates."""
        config, data = self.recipe.distill, self.data("train")
        pairs = choose_edits(data, config)
        files = sorted(self.folder.glob("edits-*.safetensors"))
        real = torch.cat([load_file(file)["latents"] for file in files]).to(self.device)
        method = LaddMethod(config, data, pairs, real, self.load_transformer("flow"))
        stop_at_failure(run_gates(method, self.sampler(data)))
        method.state.ledger = self._ledger(method.student, method)
        history = self._fit("student", method, config.checkpoint_every)
        for line in check_training(history):
            _log.warning("%s", line)
        method.state.ema["student"].copy_to(method.student)
        self._save("student", method.student.state_dict())

    def scores(self) -> None:
        """Score teacher and student on the held-out split, and draw some of their edits."""
        found, sheet = scores_and_samples(
            self.pack,
            self.recipe,
            self.data("test"),
            self.load_codec(),
            {name: self.load_transformer(name) for name in ("flow", "student")},
            self.features(),
        )
        device = "CPU"
        if self.device.type == "cuda":
            device = torch.cuda.get_device_name(self.device)
        speed = {name: self._read(f"{name}-speed.json") for name in ("codec", "flow", "student")}
        told = {"device": device, "torch": torch.__version__, "pack": self.pack.digest}
        self._write("scores.json", {**told, **found, "median_step": speed})
        (self.folder / "samples.png").write_bytes(sheet)

    def data(self, split: str) -> PairTensors:
        """Encoded pairs of a split, on the device."""
        latents = load_file(self.folder / "latents.safetensors")["latents"]
        return self.pack.tensors(latents, split, self.device)

    def sampler(self, data: PairTensors) -> EditSampler:
        """What draws the teacher's edits."""
        config = self.recipe.distill
        return EditSampler(data, config.teacher_steps, config.guidance, config.seed)

    def features(self) -> FeatureNet | None:
        """The pack's feature network, frozen; None where it has none."""
        if not self.pack.features:
            return None
        net = FeatureNet()
        net.load_state_dict({name: value.float() for name, value in self.pack.features.items()})
        net.digest = "pack"
        net.to(device=self.device).to(memory_format=torch.channels_last)
        return net.requires_grad_(False).eval()

    def load_codec(self) -> Autoencoder:
        """The trained autoencoder, frozen."""
        model = Autoencoder.from_config(self._read("codec.json"))
        model.load_state_dict(load_file(self.folder / "codec.safetensors"))
        return model.to(self.device).requires_grad_(False).eval()

    def load_transformer(self, name: str) -> FluxTransformer:
        """`flow` or `student`, frozen."""
        model = FluxTransformer(self.recipe.finetune.shape)
        model.load_state_dict(load_file(self.folder / f"{name}.safetensors"))
        return model.to(self.device).requires_grad_(False).eval()

    def _fit(self, name: str, method: Built, every: int) -> list[dict[str, float]]:
        peak = peak_flops(self.device, compute_dtype("auto", self.device))
        checkpoints = Checkpoints(self.folder / f"checkpoints-{name}", every)
        history = fit(
            method,
            checkpoints=checkpoints,
            progress=_progress(name, Board(self.folder / "tensorboard")),
            clock=Clock(method.work, peak, self.device),
            stop=lambda: time.monotonic() > self.deadline,
        )
        self._write(f"{name}-history.json", history)
        self._write(f"{name}-speed.json", medians(method.state.clock))
        return history

    def _ledger(self, model: FluxTransformer, method: Built) -> dict[str, str]:
        tokens = (self.recipe.ingest.resolution // 16) ** 2
        products = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        return {
            **transformer_ledger(model, tokens, products, self.device),
            **optimizer_ledger(method.state.optimizers),
            "pack": self.pack.digest,
        }

    def _channels_first(self, rows: Any) -> Tensor:
        images = np.ascontiguousarray(self.pack.images[rows].transpose(0, 3, 1, 2))
        return torch.from_numpy(images).to(self.device)

    def _chunks(self) -> int:
        return max(1, len(self.pack.images) // self.recipe.encode.batch)

    def _stop_in_time(self, reached: str) -> None:
        if time.monotonic() > self.deadline:
            raise Stopped(f"ended after {reached}")

    def _claim(self) -> None:
        path = self.folder / "run.json"
        if path.exists() and self._read("run.json")["pack"] != self.pack.digest:
            raise RecipeError(f"{self.folder} holds a run of another pack: take another folder")
        self._write("run.json", {"pack": self.pack.digest, "recipe": self.pack.recipe})

    def _save(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Weights under their name, whole or not at all."""
        partial = self.folder / f"{name}.partial"
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, partial)
        partial.replace(self.folder / f"{name}.safetensors")

    def _write(self, name: str, content: object) -> None:
        partial = self.folder / f"{name}.partial"
        partial.write_text(json.dumps(content, indent=1, sort_keys=True))
        partial.replace(self.folder / name)

    def _read(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())


def _progress(name: str, board: Board) -> Callable[[int, int, Mapping[str, float | None]], None]:
    shown = [0.0]

    def report(done: int, total: int, numbers: Mapping[str, float | None]) -> None:
        if time.monotonic() - shown[0] > 10 or done == total:
            shown[0] = time.monotonic()
            _log.info("%s %d/%d: %s", name, done, total, format_numbers(numbers))
            board.scalars(done, {f"{name}/{key}": value for key, value in numbers.items()})

    return report


def main(argv: list[str] | None = None) -> int:
    """One slice. Returns 0 where everything is done, 75 where the command is to be called again."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(description="Train, distil and score from a pack.")
    parser.add_argument("pack", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="of this slice")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    keep_freed_memory()
    try:
        PackedRun(read_pack(args.pack), args.folder, began + args.seconds).run()
    except Stopped as stopped:
        print(f"the slice is over ({stopped}): run the same command again")
        return AGAIN
    except KontextError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"done: {args.folder / 'scores.json'}, {args.folder / 'samples.png'}")
    return 0
