"""A stranger's look: can somebody tell from context and edit alone what was asked?

    python -m benchmarks.naming sheet --home HOME --out FOLDER [--items 40] [--editor student]
        [--model evaluate/DIGEST] [--blind]
    python -m benchmarks.naming score FOLDER ANSWERS

`sheet` draws held-out edits of a model's evaluation at random, from every category alike, and
writes to FOLDER: `sheet-1.png`, ... (context | edit, numbered, nothing else), `choices.md` (four
instructions for each number, one of them asked) and `key.json`, which is not to be opened. The
other three ask for something else: of the same context where the split has such edits, else edits
of the same source that this context could be asked for just as well, so that it gives nothing away
("remove the hat" is no choice where there is no hat); any of the source where there are too few
(three weathers follow on one). `--blind` draws the contexts alone: what is
named right then, by the same reader on the same questions, is luck and what the choices give away.
`score` compares a file of answers (`1 a`, a line each) with the key and prints the share that is
right, by category, with Wilson's interval.
"""

import argparse
import io
import json
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from kontext.data.shards.read import PairRow, load_split
from kontext.evaluate.arena.contest import open_contest
from kontext.evaluate.benches.held_out import asked
from kontext.evaluate.categories import scored_category
from kontext.evaluate.statistics import cluster_rate
from kontext.store.artifacts.artifact_store import ArtifactStore
from kontext.store.objects import open_store

LETTERS = "abcd"
_SIDE, _ACROSS, _ROWS, _MARGIN = 160, 3, 5, 30


def choices(row: PairRow, rows: Sequence[PairRow], draw: random.Random) -> list[str] | None:
    """Four instructions in random order, one of them the row's; None where there are too few.

    No two ask for the same; they fit what the row's context shows, as far as there are such.
    """
    same = [other for other in rows if other.contexts == row.contexts]
    shown = {each.params.get("attribute"): each.params.get("from") for each in same}
    near = [
        other
        for other in rows
        if other.source == row.source
        and other.params.get("from") == shown.get(other.params.get("attribute"), "not known")
    ]
    rest = [other for other in rows if other.source == row.source]
    found = {asked(row): row.instruction}
    for group in (same, near, rest):
        for other in draw.sample(group, len(group)):
            if len(found) < len(LETTERS) and other.instruction not in found.values():
                found.setdefault(asked(other), other.instruction)
    texts = list(found.values())
    draw.shuffle(texts)
    return texts if len(texts) == len(LETTERS) else None


def chosen(rows: Sequence[PairRow], count: int, draw: random.Random) -> list[PairRow]:
    """So many rows, the categories in turn."""
    groups: dict[str, list[PairRow]] = defaultdict(list)
    for row in draw.sample(rows, len(rows)):
        groups[scored_category(row)].append(row)
    found: list[PairRow] = []
    while len(found) < count and any(groups.values()):
        found += [group.pop() for _, group in sorted(groups.items()) if group]
    return draw.sample(found[:count], len(found[:count]))


def sheet(
    home: Path, out: Path, model: str, editor: str, count: int, seed: int, blind: bool = False
) -> None:
    """Write the sheets, the choices and the key; `blind`: sheets of contexts alone."""
    store = ArtifactStore(open_store(f"file://{home.resolve()}/store"), home / "cache")
    contest = open_contest(store, model, (editor, "identity"))
    shards = store.open("evaluate", contest.evaluation).manifest.inputs["shard"]
    split = load_split(store.open("shard", shards), "test").rows
    items = {item.pair_id: item for item in contest.items}
    draw = random.Random(seed)
    asks = [
        (row, four)
        for row in chosen([row for row in split if row.pair_id in items], count, draw)
        if (four := choices(row, [one for one in split if one.contexts], draw))
    ]
    out.mkdir(parents=True, exist_ok=True)
    shown = ("identity",) if blind else ("identity", editor)
    pairs = [[contest.png(items[row.pair_id], name) for name in shown] for row, _ in asks]
    per_sheet = _ACROSS * _ROWS
    for first in range(0, len(pairs), per_sheet):
        page = drawn(pairs[first : first + per_sheet], first + 1)
        page.save(out / f"sheet-{first // per_sheet + 1}.png")
    (out / "choices.md").write_text(_listed([four for _, four in asks]))
    key = [
        {"answer": LETTERS[four.index(row.instruction)], "category": scored_category(row)}
        for row, four in asks
    ]
    (out / "key.json").write_text(json.dumps(key))
    print(f"{len(asks)} edits: look at {out}/sheet-*.png, answer {out}/choices.md")


def drawn(pairs: Sequence[Sequence[bytes]], first: int) -> Image.Image:
    """Numbered pairs of PNGs on one page, each scaled to fill its cell."""
    cell = (2 * _SIDE + 3 * _MARGIN, _SIDE + _MARGIN)
    page = Image.new("RGB", (_ACROSS * cell[0], _ROWS * cell[1]), "white")
    pen = ImageDraw.Draw(page)
    for at, pair in enumerate(pairs):
        left, top = at % _ACROSS * cell[0], at // _ACROSS * cell[1]
        pen.text((left + 6, top + _SIDE // 2), str(first + at), fill="black", font_size=18)
        for place, png in enumerate(pair):
            picture = Image.open(io.BytesIO(png)).convert("RGB")
            factor = _SIDE / max(picture.size)
            size = [max(1, round(side * factor)) for side in picture.size]
            shown = picture.resize((size[0], size[1]), Image.Resampling.BICUBIC)
            page.paste(shown, (left + _MARGIN + 12 + place * (_SIDE + 12), top + _MARGIN // 2))
    return page


def _listed(fours: Sequence[Sequence[str]]) -> str:
    return "\n".join(
        f"{number}. " + " | ".join(f"{a}: {text}" for a, text in zip(LETTERS, four, strict=True))
        for number, four in enumerate(fours, 1)
    )


def score(key: Sequence[Mapping[str, str]], answers: str) -> list[tuple[str, int, int]]:
    """Category, right answers, and items; "all" first. What was not answered is wrong.

    Raises ValueError: a line that is no number and letter, or a number twice or unknown.
    """
    given: dict[int, str] = {}
    for line in filter(str.strip, answers.splitlines()):
        number, _, letter = line.strip().partition(" ")
        letter = letter.strip().lower()
        if not number.isdigit() or letter not in LETTERS or len(letter) != 1:
            raise ValueError(f"no answer, such as '12 c': {line!r}")
        if int(number) in given or not 1 <= int(number) <= len(key):
            raise ValueError(f"answered twice, or not asked: {number}")
        given[int(number)] = letter
    right = [given.get(number) == each["answer"] for number, each in enumerate(key, 1)]
    rows = [("all", sum(right), len(right))]
    for name in sorted({each["category"] for each in key}):
        own = [ok for ok, each in zip(right, key, strict=True) if each["category"] == name]
        rows.append((name, sum(own), len(own)))
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Write sheets, or score answers to them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    asking = commands.add_parser("sheet")
    asking.add_argument("--home", type=Path, default=Path(".kontext"))
    asking.add_argument("--out", type=Path, required=True)
    asking.add_argument("--model", default="latest/evaluate")
    asking.add_argument("--editor", default="student")
    asking.add_argument("--items", type=int, default=40)
    asking.add_argument("--seed", type=int, default=0)
    asking.add_argument("--blind", action="store_true", help="contexts without their edits")
    scoring = commands.add_parser("score")
    scoring.add_argument("folder", type=Path)
    scoring.add_argument("answers", type=Path)
    args = parser.parse_args(argv)
    if args.command == "sheet":
        sheet(args.home, args.out, args.model, args.editor, args.items, args.seed, args.blind)
        return
    key = json.loads((args.folder / "key.json").read_text())
    for name, right, count in score(key, args.answers.read_text()):
        answers = np.arange(count) < right
        found = cluster_rate(answers.astype(np.float64), [str(number) for number in range(count)])
        print(
            f"{name}: {right} of {count}, {found.value:.0%} ({found.low:.0%} to {found.high:.0%})"
        )


if __name__ == "__main__":
    main()
