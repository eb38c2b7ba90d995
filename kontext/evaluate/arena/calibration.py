"""Do judges agree with people: models' answers beside the votes on the same pairs.

An answer is what one says of two edits: the share of the first editor, 1, 0, or a half for a tie.
Which editor is the first says nothing, so every answer counts from both sides; by chance two who
never tie agree in a half of the answers. Cohen's kappa is weighted linearly: a tie against a choice
is half an agreement.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from kontext.data.caption.base import Desk
from kontext.data.pixels import decode_png, encode_png, pixel_id
from kontext.evaluate.arena.contest import IDENTITY, Contest
from kontext.evaluate.arena.gold import QUESTIONS, of_status
from kontext.evaluate.judges.judging import Judges, compare_all
from kontext.evaluate.judges.pairwise import Duel
from kontext.evaluate.statistics import Interval, cluster_rate
from kontext.store.votes import Vote

PEOPLE = "people"
Unit = tuple[str, tuple[str, str]]  # pair id, and both editors in alphabetical order
Answers = Mapping[str, Mapping[Unit, float]]  # question -> unit -> share of the first editor
Compared = tuple[float, float, str]  # both shares, and the component


@dataclass(frozen=True)
class Agreement:
    """Of two who answer one question. `agreement` is a share, `kappa` at most 1, 0 is chance.

    Intervals are 95 %, over components: `agreement` has the house's interval of a rate, and `kappa`
    is a line of it, with the chance that the ties leave taken as known.
    """

    question: str
    first: str
    second: str
    answers: int
    pairs: int  # different ones among them
    agreement: Interval
    kappa: Interval
    ties: tuple[float, float]  # share of each one's answers

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            **asdict(self),
            "agreement": self.agreement.as_dict(),
            "kappa": self.kappa.as_dict(),
        }


def agreement(
    question: str, first: str, second: str, rows: Sequence[Compared], pairs: int = 0
) -> Agreement | None:
    """How far two agree; None without an answer of both."""
    if not rows:
        return None
    a, b = np.array([row[:2] for row in rows]).T
    clusters = [row[2] for row in rows]
    same = cluster_rate(1 - np.abs(a - b), clusters)
    ties = float((a == 0.5).mean()), float((b == 0.5).mean())
    chance = 0.5 + 0.5 * ties[0] * ties[1]  # of choices, and of a tie and a choice: a half

    def beyond(share: float) -> float:
        return (share - chance) / (1 - chance) if chance < 1 else float("nan")

    low, high = beyond(same.low), beyond(same.high)
    kappa = replace(same, value=beyond(same.value), low=low, high=high)
    return Agreement(question, first, second, len(rows), pairs or len(rows), same, kappa, ties)


def calibrated(votes: Sequence[Vote], judges: Mapping[str, Answers]) -> list[Agreement]:
    """By question: people among themselves, each judge with them, and judges with each other.

    People are raters who pass the gold items; each of their answers counts. The first line is the
    ceiling: no judge can be asked to agree with people better than they do with each other.
    """
    people = [vote for vote in of_status(votes, "counted") if vote.pool == PEOPLE]
    found = []
    for question in QUESTIONS:
        said = _by_unit(people, question)
        found.append(_among_people(question, said))
        found += [_with_people(question, said, name, own) for name, own in judges.items()]
        found += [
            _between(question, said, (a, judges[a]), (b, judges[b]))
            for a, b in combinations(judges, 2)
        ]
    return [one for one in found if one is not None]


Said = Mapping[Unit, Sequence[tuple[float, str]]]  # unit -> every answer, and its component


def _by_unit(people: Sequence[Vote], question: str) -> Said:
    found: dict[Unit, list[tuple[float, str]]] = defaultdict(list)
    for vote in people:
        share = vote.share(question, vote.editors[0])
        if share == share:
            found[vote.pair_id, vote.editors].append((share, vote.component_id))
    return found


def _among_people(question: str, said: Said) -> Agreement | None:
    rows = [
        (first, second, component)
        for answers in said.values()
        for (first, component), (second, _) in combinations(answers, 2)
    ]
    pairs = sum(len(answers) > 1 for answers in said.values())
    return agreement(question, PEOPLE, PEOPLE, rows, pairs)


def _with_people(question: str, said: Said, judge: str, own: Answers) -> Agreement | None:
    known = own.get(question, {})
    shared = [unit for unit in said if unit in known]
    rows = [(share, known[unit], component) for unit in shared for share, component in said[unit]]
    return agreement(question, PEOPLE, judge, rows, len(shared))


def _between(
    question: str, said: Said, first: tuple[str, Answers], second: tuple[str, Answers]
) -> Agreement | None:
    one, other = first[1].get(question, {}), second[1].get(question, {})
    rows = [
        (one[unit], other[unit], answers[0][1])
        for unit, answers in said.items()
        if unit in one and unit in other
    ]
    return agreement(question, first[0], second[0], rows)


def machine_answers(votes: Sequence[Vote]) -> dict[str, Answers]:
    """What models said that voted themselves, in the pool `vlm`: rater -> answers."""
    found: dict[str, dict[str, dict[Unit, float]]] = {}
    for vote in of_status(votes, "counted", "untested"):
        if vote.pool == "vlm":
            own = found.setdefault(vote.rater, {question: {} for question in QUESTIONS})
            for question in QUESTIONS:
                share = vote.share(question, vote.editors[0])
                if share == share:
                    own[question][vote.pair_id, vote.editors] = share
    return dict(found)


def asked(
    contest: Contest,
    votes: Sequence[Vote],
    judges: Judges,
    home: Path,
    progress: Callable[[float, float, str], None] = lambda done, total, what: None,
) -> tuple[dict[str, Answers], dict[str, int]]:
    """Ask judges, in both orders, about every pair that counted people have voted on.

    A pair's answer is the mean over passes, to the nearest of 0, a half and 1. The pairwise
    question is one about the whole edit, so its answer stands beside each question of people.

    Returns:
        Judge -> answers; judge -> verdicts that could not be used.

    Raises:
        KontextError, GateError, Stopped: of the judges' endpoint; what is done stays done.
    """
    items = {item.pair_id: item for item in contest.items}
    people = [vote for vote in of_status(votes, "counted") if vote.pool == PEOPLE]
    units = sorted({(vote.pair_id, vote.editors) for vote in people if vote.pair_id in items})
    pngs: dict[str, Callable[[], bytes]] = {}

    def shown(pair: str, editor: str) -> str:
        def read() -> bytes:
            return contest.png(items[pair], editor)

        name = pixel_id(decode_png(read()))
        pngs.setdefault(name, read)
        return name

    duels = [
        Duel(_name((pair, both)), items[pair].instruction, shown(pair, IDENTITY), *edits)
        for pair, both in units
        for edits in [[shown(pair, editor) for editor in both]]
    ]
    desk = Desk(lambda name: encode_png(decode_png(pngs[name]())), home, progress)
    rows = compare_all(duels, judges, desk).rows
    return _answers(rows, {_name(unit): unit for unit in units}, judges)


def _answers(
    rows: Sequence[Mapping[str, Any]], by_name: Mapping[str, Unit], judges: Judges
) -> tuple[dict[str, Answers], dict[str, int]]:
    wins: dict[str, dict[Unit, list[float]]] = {model: defaultdict(list) for model in judges.models}
    lost = dict.fromkeys(judges.models, 0)
    for row in rows:
        if row["status"] == "ok":
            wins[row["judge"]][by_name[row["item"]]].append(row["win"])
        else:
            lost[row["judge"]] += 1
    answers = {
        model: {unit: round(2 * float(np.mean(own))) / 2 for unit, own in by_unit.items()}
        for model, by_unit in wins.items()
    }
    return {name: dict.fromkeys(QUESTIONS, own) for name, own in answers.items()}, lost


def _name(unit: Unit) -> str:
    return ":".join((unit[0], *unit[1]))
