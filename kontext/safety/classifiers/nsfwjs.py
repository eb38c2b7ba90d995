"""nsfwjs: five classes, and among them drawings, which the other classifiers were not taught."""

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from kontext.safety.classifiers.base import BATCH, Pixels, Scores, torch_threads
from kontext.safety.classifiers.npm_files import (
    Weights,
    broken,
    package_folder,
    read_model,
    unpacked,
)
from schemas.risks import Risk

if TYPE_CHECKING:
    import torch

NAME = "nsfwjs"
RISKS = (
    Risk(
        "explicit",
        classifier=NAME,
        score="nsfwjs",
        label="nsfwjs",
        refusal="the image looks explicit, as a drawing or as a photograph",
    ),
)
# in the order of the model's output; of all others only this package knows drawings
LABELS = ("NSFWJS_DRAWING", "NSFWJS_HENTAI", "NSFWJS_NEUTRAL", "NSFWJS_PORN", "NSFWJS_SEXY")
_FILES = tuple(f"dist/models/mobilenet_v2/{name}.min.js" for name in ("model", "group1-shard1of1"))
_SIDE = 224


class NsfwJs:
    """nsfwjs 4.4.0's MobileNetV2 (MIT), run by torch: the probability of each of its classes.

    As the package does, a picture is pressed into 224 x 224 by bilinear sampling with its corners
    aligned. Batches are always whole, so that a score does not depend on what else is in one.
    """

    name = NAME
    labels: tuple[str, ...] = LABELS

    def __init__(self, threads: int = 1) -> None:
        folder = package_folder("nsfwjs", NAME)
        self.version, (topology, shard) = read_model(folder, _FILES, NAME)
        try:
            model = _json_of(topology.decode("utf-8"))
            packed = re.search(r'exports="([A-Za-z0-9+/=]+)"', shard.decode("ascii"))
            weights = base64.b64decode(packed[1] if packed else "", validate=True)
            layers = model["modelTopology"]["model_config"]["config"]["layers"]
            self._graph = _Graph(layers, unpacked(model["weightsManifest"], weights))
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise broken(NAME, folder, error) from error
        self._threads = threads

    def scores(self, images: Sequence[Pixels]) -> Scores:
        """See `ImageClassifier`."""
        import torch

        found = np.empty((len(images), len(LABELS)), np.float32)
        with torch_threads(self._threads), torch.inference_mode():
            for start in range(0, len(images), BATCH):
                part = [_square(image) for image in images[start : start + BATCH]]
                batch = torch.cat(part + part[-1:] * (BATCH - len(part)))
                found[start : start + len(part)] = self._graph(batch)[: len(part)].numpy()
        return {label: found[:, index].copy() for index, label in enumerate(LABELS)}


def _square(image: Pixels) -> "torch.Tensor":
    """A picture as float32 [1, 3, 224, 224] in [0, 1]."""
    import torch
    from torch.nn.functional import interpolate

    pixels = torch.from_numpy(image.astype(np.float32) / 255).permute(2, 0, 1)[None]
    if pixels.shape[2:] != (_SIDE, _SIDE):
        pixels = interpolate(pixels, (_SIDE, _SIDE), mode="bilinear", align_corners=True)
    return pixels


def _json_of(script: str) -> Any:
    """The object literal that a minified script exports, which has a `modelTopology`."""
    start = script.index("{modelTopology:")
    text = re.sub(r"(?<=[{,])([A-Za-z_$][\w$]*):", r'"\1":', script[start:])
    text = re.sub(r"(?<=[:,\[])!([01])", lambda found: ("true", "false")[int(found[1])], text)
    text = re.sub(r"(?<=[:,\[-])\.(?=\d)", "0.", text)
    return json.JSONDecoder().raw_decode(text)[0]


_Layer = Callable[["torch.Tensor"], "torch.Tensor"]


class _Graph:
    """Keras layers with float32 [N, 3, H, W] in, [N, classes] out: those that MobileNetV2 has."""

    def __init__(self, layers: Sequence[Mapping[str, Any]], weights: Weights) -> None:
        self._steps: list[tuple[str, list[str], _Layer | None]] = []
        self._uses: dict[str, int] = {}
        for layer in layers:
            nodes = layer["inbound_nodes"]
            inputs = [node[0] for node in nodes[0]] if nodes else []
            for name in inputs:
                self._uses[name] = self._uses.get(name, 0) + 1
            kind, config = layer["class_name"], layer["config"]
            run = None if kind in ("InputLayer", "Add") else _KINDS[kind](config, weights)
            self._steps.append((layer["name"], inputs, run))

    def __call__(self, batch: "torch.Tensor") -> "torch.Tensor":
        made: dict[str, torch.Tensor] = {}
        left = dict(self._uses)
        out = batch
        for name, inputs, run in self._steps:
            values = [made[one] for one in inputs] or [batch]
            out = (
                run(values[0])
                if run
                else values[0]
                if len(values) == 1
                else sum(values[1:], values[0])
            )
            made[name] = out
            for one in inputs:  # activations are large: each goes with its last reader
                left[one] -= 1
                if not left[one]:
                    del made[one]
        return out


def _conv(config: Mapping[str, Any], weights: Weights, depthwise: bool = False) -> _Layer:
    import torch
    from torch.nn.functional import conv2d

    name = config["name"]
    kernel = torch.from_numpy(weights[f"{name}/{'depthwise_' if depthwise else ''}kernel"])
    height, width, inputs, outputs = kernel.shape
    if depthwise:  # [H, W, channels, 1] -> [channels, 1, H, W]
        kernel = kernel.permute(2, 3, 0, 1).reshape(inputs * outputs, 1, height, width)
    else:
        kernel = kernel.permute(3, 2, 0, 1)
    bias = torch.from_numpy(weights[f"{name}/bias"]) if config["use_bias"] else None
    stride, groups = config["strides"], inputs if depthwise else 1
    same = config["padding"] == "same"
    if same and (stride != [1, 1] or height % 2 == 0 or config["activation"] != "linear"):
        raise ValueError(f"layer {name} is of a kind that is not known here")
    padding = [height // 2, width // 2] if same else [0, 0]
    kernel = kernel.contiguous()
    return lambda x: conv2d(x, kernel, bias, stride, padding, 1, groups)


def _batch_norm(config: Mapping[str, Any], weights: Weights) -> _Layer:
    import torch
    from torch.nn.functional import batch_norm

    names = ("moving_mean", "moving_variance", "gamma", "beta")
    mean, variance, gamma, beta = (
        torch.from_numpy(weights[f"{config['name']}/{name}"]) for name in names
    )
    epsilon = float(config["epsilon"])
    return lambda x: batch_norm(x, mean, variance, gamma, beta, eps=epsilon)


def _dense(config: Mapping[str, Any], weights: Weights) -> _Layer:
    import torch
    from torch.nn.functional import linear

    kernel = torch.from_numpy(weights[f"{config['name']}/kernel"]).T.contiguous()
    bias = torch.from_numpy(weights[f"{config['name']}/bias"])
    known: dict[str, _Layer] = {"relu": torch.relu, "softmax": partial(torch.softmax, dim=1)}
    after = known[config["activation"]]
    return lambda x: after(linear(x, kernel, bias))


def _pad(config: Mapping[str, Any], weights: Weights) -> _Layer:
    from torch.nn.functional import pad

    (top, bottom), (left, right) = config["padding"]
    return lambda x: pad(x, (left, right, top, bottom))


def _relu(config: Mapping[str, Any], weights: Weights) -> _Layer:
    highest = float(config["max_value"])
    return lambda x: x.clamp(0, highest)


def _pool(config: Mapping[str, Any], weights: Weights) -> _Layer:
    from torch.nn.functional import avg_pool2d

    size, stride = config["pool_size"], config["strides"]
    return lambda x: avg_pool2d(x, size, stride)


_KINDS: dict[str, Callable[[Mapping[str, Any], Weights], _Layer]] = {
    "Conv2D": _conv,
    "DepthwiseConv2D": partial(_conv, depthwise=True),
    "BatchNormalization": _batch_norm,
    "Dense": _dense,
    "ZeroPadding2D": _pad,
    "ReLU": _relu,
    "AveragePooling2D": _pool,
    # the channels are last there: [N, H, W, C] is what is flattened
    "Flatten": lambda config, weights: lambda x: x.permute(0, 2, 3, 1).flatten(1),
    "Dropout": lambda config, weights: lambda x: x,
}


load = NsfwJs
