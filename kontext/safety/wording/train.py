"""Make the text classifier: `python -m kontext.safety.wording.train [--without AUTHOR]`.

Takes half an hour on a core. `weights.safetensors` is written. With --without the phrasings of an
author are left out, nothing is written, and it is said how those are judged: settings are chosen by
it. Nothing of the evaluation set is read but to leave it out.
"""

import argparse
import hashlib
import json
import logging
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kontext.safety.text import check_text, spellings
from kontext.safety.wording.classifier import TextClassifier, bag_features
from kontext.safety.wording.encoder import LONGEST
from kontext.safety.wording.network import Network
from kontext.safety.wording.packed import Packed, Values, packed
from kontext.safety.wording.phrases import (
    TEMPLATE,
    Phrase,
    authors,
    phrases,
    training_digest,
    written,
)
from kontext.safety.wording.pieces import Cutter
from kontext.safety.wording.spoiled import hidden, slipped, unmarked

CHANGES_RESULTS = False  # what it writes counts

WEIGHTS = Path(__file__).parent / "weights.safetensors"
LOWER = 6  # layers of 12 that stay as they are
EPOCHS, BATCH, RATE, DECAY, WARMUP, SEED = 3, 64, 1.5e-3, 0.05, 100, 0
SPOILED = 0.12  # share of the phrasings that are also shown hidden, with slips, without accents
AMID, AGAIN = 10_000, 0.3  # the last round: phrases amid words of others; share of all others
LAST_RATE = 5e-4
SMOOTHED = 0.02  # of a label
MARGIN = 1.3  # logits: texts that are no edits at all would be stopped too often at 0
BAG, BAG_EPOCHS, BAG_RATE = 64, 12, 2e-3  # channels of the first step's network
MISSED = 0.002  # share of the attacks that the first step may let pass
_log = logging.getLogger("kontext")


class Shown(NamedTuple):
    """What is trained on: numbers of pieces, and what becomes of each."""

    texts: list[tuple[int, ...]]
    stops: Values  # [N] 1 or 0


def shown(trained: Sequence[Phrase], cutter: Cutter) -> Shown:
    """All spellings of the phrases, and of some spoiled, each once."""
    draw = random.Random(SEED)
    return _cut(_said(trained, draw), cutter=cutter)


def amid(trained: Sequence[Phrase], cutter: Cutter) -> Shown:
    """What the last round shows: phrases amid words of others, and some of all phrases alone."""
    draw = random.Random(SEED + 1)
    again = (phrase for phrase in trained if draw.random() < AGAIN)
    alone = ((phrase.text, phrase.stops) for phrase in again)
    return _cut(alone, _amid(trained, draw), cutter=cutter)


def _cut(*said: Iterable[tuple[str, bool]], cutter: Cutter) -> Shown:
    found = dict[tuple[int, ...], bool]()
    for text, stops in chain(*said):
        for spelled in spellings(text):
            numbers = tuple(cutter.numbers(spelled)[:LONGEST])
            if len(numbers) > 2:  # the marks
                found[numbers] = found.get(numbers, False) or stops
    return Shown(list(found), np.array(list(found.values()), np.float32))


def _said(trained: Sequence[Phrase], draw: random.Random) -> Iterator[tuple[str, bool]]:
    for phrase in trained:
        yield phrase.text, phrase.stops
        if phrase.author == TEMPLATE:
            continue
        if draw.random() < SPOILED:
            yield hidden(phrase.text, draw), phrase.stops
        if draw.random() < SPOILED:
            yield slipped(phrase.text, draw), phrase.stops
        if phrase.language != "en" and draw.random() < SPOILED:
            yield unmarked(phrase.text), phrase.stops


def _amid(trained: Sequence[Phrase], draw: random.Random) -> Iterator[tuple[str, bool]]:
    """A phrase with words of others before it, after it, or both, as a window cuts them.

    Of the others, which pass, a run of words is taken, so that no full stop says where one ends.
    """
    by: dict[tuple[str, bool], list[str]] = {}
    for phrase in trained:
        by.setdefault((phrase.language, phrase.stops), []).append(phrase.text)
    languages = sorted(one for one, stops in by if stops and (one, False) in by)
    for number in range(AMID):
        english = number % 4 < 2 and "en" in languages
        language = "en" if english else languages[number // 4 % len(languages)]
        stops = number % 2 == 0
        parts = [draw.choice(by[language, stops])]
        around = draw.choice(((1, 0), (0, 1), (1, 1)))
        before, after = ([_run(by[language, False], draw)] * part for part in around)
        joint = draw.choice((" ", " ", ". ", ", ", "\n"))
        yield joint.join([*before, *parts, *after]), stops


def _run(texts: Sequence[str], draw: random.Random) -> str:
    words = draw.choice(texts).split()
    size = draw.randint(3, 16)
    start = draw.randint(0, max(0, len(words) - size))
    return " ".join(words[start : start + size])


def train(model: Packed, read: Shown, last: Shown) -> dict[str, Values]:
    """The weights, of what is shown first and last.

    On another machine they differ a little: bfloat16 is its own there.
    """
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    both = Shown([*read.texts, *last.texts], np.concatenate([read.stops, last.stops]))
    bag = _bag(bag_features(model, both.texts), both.stops)
    network = Network(model, LOWER)
    fit(network, read, EPOCHS, RATE)
    fit(network, last, 1, LAST_RATE)
    added = network.added()
    return {**bag, **added, "head_bias": added["head_bias"] - MARGIN}


def fit(network: Network, read: Shown, epochs: int, rate: float) -> None:
    """Train the adapters and the head; `rate` falls to 0."""
    draw, states, goals = (
        random.Random(SEED),
        network.below(read.texts),
        torch.from_numpy(read.stops),
    )
    learning = [part for part in network.parameters() if part.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=RATE, weight_decay=DECAY)
    steps, step = epochs * -(-len(states) // BATCH), 0
    network.train()
    for epoch in range(epochs):
        total = 0.0
        for own in _batches([len(one) for one in states], draw):
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, (step + 1) / WARMUP) * (1 - step / steps)
            found = network([states[place] for place in own])
            wanted = goals[own] * (1 - 2 * SMOOTHED) + SMOOTHED
            loss = functional.binary_cross_entropy_with_logits(found, wanted)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(learning, 1.0)
            optimizer.step()
            step, total = step + 1, total + loss.item()
        _log.info("epoch %d of %d: loss %.4f", epoch + 1, epochs, total * epochs / steps)
    network.eval()


def _batches(lengths: list[int], draw: random.Random) -> list[list[int]]:
    """Places of texts of like length, in another order each time."""
    order = sorted(range(len(lengths)), key=lambda place: lengths[place] + 4 * draw.random())
    found = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    draw.shuffle(found)
    return found


def _bag(features: Values, stops: Values) -> dict[str, Values]:
    """The first step: what it lets pass, hardly any attack is."""
    inner, outer = nn.Linear(features.shape[1], BAG), nn.Linear(BAG, 1)
    learning = [*inner.parameters(), *outer.parameters()]
    optimizer = torch.optim.AdamW(learning, lr=BAG_RATE, weight_decay=DECAY)
    given, goals = torch.from_numpy(features), torch.from_numpy(stops)

    def logits(rows: Tensor) -> Tensor:
        made: Tensor = outer(torch.relu(inner(rows)))[:, 0]
        return made

    for _ in range(BAG_EPOCHS):
        for own in torch.randperm(len(goals)).split(256):  # type: ignore[no-untyped-call]
            rows = functional.dropout(given[own], 0.1)
            loss = functional.binary_cross_entropy_with_logits(
                logits(rows), goals[own], pos_weight=torch.tensor(4.0)
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    with torch.no_grad():
        sure = np.quantile(logits(given)[goals > 0].numpy(), MISSED)
        return {
            "bag.inner": inner.weight.T.contiguous().numpy(),
            "bag.inner_bias": inner.bias.numpy(),
            "bag.outer": outer.weight[0].numpy(),
            "bag.outer_bias": outer.bias.numpy(),
            "sure": np.array([sure], np.float32),
        }


def judged(made: TextClassifier, held: Sequence[Phrase]) -> dict[str, float]:
    """Shares of attacks and of twins that are stopped: by the classifier, and with the rules.

    And shares of those that the first step lets pass.
    """
    texts = [phrase.text for phrase in held]
    above, stops = made.scores(texts) > 0.5, np.array([phrase.stops for phrase in held])
    ruled = np.array([check_text(text) is not None for text in texts])
    read = [[w for spelled in spellings(text) for w in made.windows(spelled)] for text in texts]
    sure = np.array([bool((made.bag_logits(own) < made.sure).all()) for own in read])
    return {
        "stopped": float(above[stops].mean()) if stops.any() else 0.0,
        "false": float(above[~stops].mean()),
        "stopped_with_rules": float((above | ruled)[stops].mean()) if stops.any() else 0.0,
        "false_with_rules": float((above | ruled)[~stops].mean()),
        "attacks_let_pass_first": float(sure[stops].mean()) if stops.any() else 0.0,
        "twins_let_pass_first": float(sure[~stops].mean()),
    }


def main() -> int:
    """Write the weights, or say how an author's phrasings are judged without them."""
    from safetensors.numpy import save

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--without", action="append", choices=authors(), default=[])
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    model = packed()
    trained = [phrase for phrase in phrases() if phrase.author not in asked.without]
    cutter = Cutter(model.pieces)
    read, last = shown(trained, cutter), amid(trained, cutter)
    _log.info("%d phrases, %d texts", len(trained), len(read.texts))
    weights = {n: part.astype(np.float16) for n, part in train(model, read, last).items()}
    if asked.without:
        made = TextClassifier(model, weights, "")
        for author in asked.without:
            held = [phrase for phrase in written() if phrase.author == author]
            print(json.dumps({"author": author, **judged(made, held)}))
        return 0
    data = save(weights, {"training": training_digest()})
    WEIGHTS.write_bytes(data)
    print(json.dumps({"weights": hashlib.sha256(data).hexdigest()}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
