"""Scripts of eight turns on one held-out picture, from the pairs that the data has.

A pair says what one edit makes of one picture, so a walk from pair to pair is a script whose
picture is known after every turn. One turn of each script asks for nothing, and one takes the edit
before it back: its pair in the other direction. Nothing here knows what the pairs are about.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from kontext.evaluate.benches.held_out import in_turn
from kontext.evaluate.pixels import Picture, change_mask
from schemas.tables import CATEGORIES

if TYPE_CHECKING:
    from kontext.data.shards.read import PairRow, PairSet

TURNS = 8
NOTHING = "keep the image unchanged"  # what the turn that asks for nothing says
Kind = Literal["edit", "keep", "undo"]
Draw = Callable[[str], int]
Edges = dict[int, dict[int, "PairRow"]]  # context -> target -> the pair; rows of the split's images


@dataclass(frozen=True)
class Turn:
    """One turn. `before` and `after` are rows of the split's images; `others` are other targets
    of the picture before by the same relation, which a right edit does not show.
    """

    kind: Kind
    instruction: str
    relation: str  # empty where nothing is asked for
    before: int
    after: int
    others: tuple[int, ...] = ()


@dataclass(frozen=True)
class Script:
    """Eight turns on one picture. Scripts of one cluster (a connected component) are related."""

    id: str  # SHA-256
    cluster: str
    turns: tuple[Turn, ...]

    @property
    def rows(self) -> list[int]:
        """The picture before the first turn, and after each one."""
        return [self.turns[0].before, *(turn.after for turn in self.turns)]


@dataclass(frozen=True)
class Scripts:
    """The scripts, the pictures that they name, and why there are no more of them."""

    scripts: tuple[Script, ...] = ()
    pictures: Mapping[int, Picture] = field(default_factory=dict)
    why: str = ""

    def __len__(self) -> int:
        return len(self.scripts)


def make_scripts(
    pairs: PairSet, component: Mapping[str, str], count: int, seed: int, threshold: float
) -> Scripts:
    """Up to `count` scripts, one of a component, the same ones every time.

    Components with other relations take turns, in an order drawn from the seed.

    Args:
        component: of each pair id.
        threshold: change of a pixel that counts as edited, 0 to 1 (see `change_mask`).
    """
    if not count:
        return Scripts(why="the recipe asks for none")
    edges = _edges(pairs)
    if not any(edges.values()):
        return Scripts(why="the test split has no edit of one picture at its own size")
    shown = _Pictures(pairs, threshold)
    members: dict[str, set[int]] = defaultdict(set)
    relations: dict[str, set[str]] = defaultdict(set)
    for before, targets in edges.items():
        for after, row in targets.items():
            members[component[row.pair_id]] |= {before, after}
            relations[component[row.pair_id]].add(row.relation)
    draw = _drawn(str(seed))
    order = in_turn(sorted(members, key=draw), lambda c: " ".join(sorted(relations[c])), draw)
    found: list[Script] = []
    for name in order:
        if len(found) == count:
            break
        script = _script(name, edges, members[name], pairs, seed, shown)
        found += [script] if script else []
    why = "" if len(found) == count else _why(len(found), len(order))
    named = (row for s in found for t in s.turns for row in (t.before, t.after, *t.others))
    return Scripts(tuple(found), shown.of(named), why)


def _why(found: int, components: int) -> str:
    if found:
        return f"only {found} of {components} components have edits that lead on and back"
    return (
        f"no picture of the {components} components can be edited {TURNS - 1} times with a known "
        "picture after each edit and one edit taken back: that takes pairs in both directions"
    )


def _edges(pairs: PairSet) -> Edges:
    """Edits of one picture at its own size."""
    found: Edges = defaultdict(dict)
    for row in pairs.rows:
        if row.relation_class not in CATEGORIES or len(row.contexts) != 1:
            continue
        before, after = row.contexts[0], row.target
        if before != after and pairs.size(before) == pairs.size(after):
            found[before].setdefault(after, row)
    return dict(found)


def _script(
    name: str, edges: Edges, members: set[int], pairs: PairSet, seed: int, shown: _Pictures
) -> Script | None:
    """A component's script; None where it has none. Edits that nobody can see are left out."""
    draw = _drawn(f"{seed}:{name}")
    kinds = turn_kinds(draw)
    own = {row: dict(edges.get(row, {})) for row in members}
    while rows := _walk(own, kinds, pairs.pixel_ids, draw):
        steps = list(zip(rows[:-1], rows[1:], kinds, strict=True))
        hidden = shown.hidden((u, v) for u, v, kind in steps if kind != "keep")
        if not hidden:
            turns = tuple(_turn(own, kind, before, after) for before, after, kind in steps)
            text = ":".join((str(seed), name, *(pairs.pixel_ids[row] for row in rows)))
            return Script(hashlib.sha256(text.encode()).hexdigest(), name, turns)
        for before, after in hidden:
            own[before].pop(after, None)
    return None


def _turn(edges: Edges, kind: Kind, before: int, after: int) -> Turn:
    if kind == "keep":
        return Turn(kind, NOTHING, "", before, after)
    row = edges[before][after]
    rivals = (v for v, other in edges[before].items() if other.relation == row.relation)
    others = tuple(sorted(v for v in rivals if v != after))
    return Turn(kind, row.instruction, row.relation, before, after, others)


def turn_kinds(draw: Draw) -> tuple[Kind, ...]:
    """What the turns are: the first is an edit; one that keeps and one that takes back follow."""
    keep, undo = sorted(range(1, TURNS), key=lambda turn: draw(f"turn {turn}"))[:2]
    return tuple("keep" if t == keep else "undo" if t == undo else "edit" for t in range(TURNS))


def _walk(edges: Edges, kinds: Sequence[Kind], names: Sequence[str], draw: Draw) -> list[int]:
    """Rows of the picture before the first turn and after each one; none where no walk is.

    Relations that it has used the least come first, then pictures that it has not been at.
    """
    open_at = _open(edges, kinds)
    starts = sorted(open_at[0], key=lambda row: draw(names[row]))
    if not starts:
        return []
    rows, used, been = [starts[0]], Counter[str](), Counter(starts[:1])
    for turn, kind in enumerate(kinds):
        here = rows[-1]
        if kind == "keep":
            rows.append(here)
            continue
        if kind == "undo":
            rows.append(_taken_back(rows, kinds, turn))
            continue
        choices = _choices(edges, here, kinds, turn, open_at)

        def order(row: int, here: int = here) -> tuple[int, int, int]:
            return used[edges[here][row].relation], been[row], draw(f"{names[here]}{names[row]}")

        rows.append(min(choices, key=order))
        used[edges[here][rows[-1]].relation] += 1
        been[rows[-1]] += 1
    return rows


def _taken_back(rows: Sequence[int], kinds: Sequence[Kind], turn: int) -> int:
    """The picture before the last edit."""
    last = max(t for t in range(turn) if kinds[t] == "edit")
    return rows[last]


def _undone(kinds: Sequence[Kind], turn: int) -> int | None:
    """The turn that takes an edit back; None where none does."""
    later = next((t for t in range(turn + 1, len(kinds)) if kinds[t] != "keep"), None)
    return later if later is not None and kinds[later] == "undo" else None


def _choices(
    edges: Edges, here: int, kinds: Sequence[Kind], turn: int, open_at: Sequence[set[int]]
) -> list[int]:
    """Pictures that an edit can lead to, from which the rest of the turns can be walked."""
    undone = _undone(kinds, turn)
    if undone is None:
        return [row for row in edges.get(here, {}) if row in open_at[turn + 1]]
    back = here in open_at[undone + 1]
    return [row for row in edges.get(here, {}) if back and here in edges.get(row, {})]


def _open(edges: Edges, kinds: Sequence[Kind]) -> list[set[int]]:
    """For each turn, the pictures from which it and all later ones can be walked.

    For a turn that takes back, and for those between it and its edit, that is the edit's business.
    """
    found: list[set[int]] = [set() for _ in kinds] + [set(edges)]
    for turn in range(len(kinds) - 1, -1, -1):
        if kinds[turn] == "edit":
            can = (row for row in edges if _choices(edges, row, kinds, turn, found))
            found[turn] = set(can)
        else:
            found[turn] = found[turn + 1]
    return found


def _drawn(prefix: str) -> Draw:
    def draw(text: str) -> int:
        return int.from_bytes(hashlib.sha256(f"{prefix}:{text}".encode()).digest()[:8], "big")

    return draw


class _Pictures:
    """The split's pictures, read when they are first needed."""

    def __init__(self, pairs: PairSet, threshold: float) -> None:
        self._pairs, self._threshold = pairs, threshold
        self._known: dict[int, Picture] = {}

    def of(self, rows: Iterable[int]) -> dict[int, Picture]:
        """The pictures of these rows."""
        wanted = sorted(set(rows))
        missing = [row for row in wanted if row not in self._known]
        self._known |= zip(missing, self._pairs.pictures(missing), strict=True)
        return {row: self._known[row] for row in wanted}

    def hidden(self, edits: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """Edits (context, target) that nobody can see."""
        edits = list(edits)
        own = self.of(row for edit in edits for row in edit)
        return [(u, v) for u, v in edits if not change_mask(own[u], own[v], self._threshold).any()]
