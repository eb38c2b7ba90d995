"""What is asked of whom, that votes are kept once, and that ratings recover a planted order."""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from kontext.errors import ArtifactError, DoubledVote, UnknownTask, VoteError
from kontext.evaluate.arena.asking import Arena, rater_name
from kontext.evaluate.arena.gold import BLOCK, FIRST, QUESTIONS, is_gold_turn, raters
from kontext.evaluate.arena.pairing import strengths, value_of_asking
from kontext.evaluate.arena.ratings import rate
from kontext.store.votes import Vote, VoteBook, enter
from tests.evaluate.arena import world
from tests.evaluate.arena.world import Person

KEY = b"k" * 32
LEFT = dict.fromkeys(QUESTIONS, "left")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arena")
    world.home(folder)
    return folder


@pytest.fixture
def book(made: Path) -> Iterator[VoteBook]:
    """Empty again for every test."""
    with closing(world.book(made)) as found:
        yield found
    for key in found._objects.list("votes/"):
        found._objects.delete(key)
    found._catalog._commit(lambda lake: lake.execute("DELETE FROM votes"), "empty again", {})


@pytest.fixture
def arena(made: Path, book: VoteBook) -> Arena:
    return Arena(world.contest(made), book, KEY)


def test_three_raters_recover_the_planted_order_and_the_one_who_fails_gold_is_excluded(
    made: Path, arena: Arena
) -> None:
    for person, votes in (
        (Person("ann", 0.08), 50),
        (Person("ben", 0.08), 50),
        (Person("mallory", careless=True), 20),
    ):
        assert person.vote(arena, votes) == votes
    votes = arena.book.votes
    assert {one.name: one.status for one in raters(votes)} == {
        "ann": "counted", "ben": "counted", "mallory": "excluded",
    }  # fmt: skip
    found = rate(votes, "people")
    said = [one.said for one in found.raters]
    assert said[2].startswith("mallory: excluded, 0 of ") and said[2].endswith("(80% are needed)")
    gold = sum(vote.gold for vote in votes if vote.rater != "mallory")
    assert found.votes == 100 - gold
    for each in found.questions:
        assert [row.editor for row in each.ratings] == ["oracle", "a", "b", "c", "d", "identity"]
        assert all(row.low < row.rating < row.high for row in each.ratings)
        assert each.agreement > 0  # some were asked of both
    assert 0.35 < found.left < 0.65
    assert rate(votes, "vlm").votes == 0


def test_a_pool_is_rated_alone(made: Path, arena: Arena, book: VoteBook) -> None:
    machine = Arena(arena.contest, book, KEY, pool="vlm")
    Person("ann").vote(arena, 12)
    Person("ann").vote(machine, 14)  # the same name is somebody else there
    people, machines = rate(book.votes, "people"), rate(book.votes, "vlm")
    assert [one.votes + one.raters[0].gold for one in (people, machines)] == [12, 14]
    assert 0 < people.votes == people.raters[0].votes
    assert people.raters[0].pool == "people" and people.as_dict()["raters"][0]["said"]


def test_sides_are_drawn_by_the_seed_and_recorded(made: Path, book: VoteBook) -> None:
    arenas = [Arena(world.contest(made), book, KEY, seed=seed) for seed in (0, 0, 1)]
    tasks = [{t.vote_id: (t.left, t.right) for t in a._tasks("ann").values()} for a in arenas]
    assert tasks[0] == tasks[1] and tasks[0].keys() == tasks[2].keys()
    assert 0.3 < np.mean([tasks[0][name] != tasks[2][name] for name in tasks[0]]) < 0.7
    assert 0.3 < np.mean([left < right for left, right in tasks[0].values()]) < 0.7
    task = arenas[2].next("ann")
    assert task is not None
    arenas[2].vote("ann", task.token, LEFT)
    vote = book.votes[-1]
    assert (vote.left_editor, vote.right_editor, vote.seed) == (task.left, task.right, 1)


def test_a_token_is_the_same_after_a_restart_and_says_nothing_without_the_key(
    made: Path, book: VoteBook, arena: Arena
) -> None:
    task = arena.next("ann")
    assert task is not None
    assert Arena(world.contest(made), book, KEY).find("ann", task.token) == task
    other = Arena(world.contest(made), book, b"x" * 32)
    assert not set(other._tasks("ann")) & set(arena._tasks("ann"))
    assert not set(arena._tasks("ben")) & set(arena._tasks("ann"))
    with pytest.raises(UnknownTask, match="no such item in this arena"):
        arena.find("ben", task.token)


def test_a_vote_is_taken_once_and_answers_every_question(made: Path, arena: Arena) -> None:
    task = arena.next("ann")
    assert task is not None
    with pytest.raises(VoteError, match="a vote answers instruction, consistency, quality"):
        arena.vote("ann", task.token, {"quality": "left"})
    arena.vote("ann", task.token, LEFT)
    with pytest.raises(DoubledVote, match="ann has voted on this pair already"):
        arena.vote("ann", task.token, LEFT)
    # another server on the same store, which has not seen it
    late = world.book(made)
    late.votes.clear()
    with closing(late), pytest.raises(DoubledVote):
        Arena(arena.contest, late, KEY).vote("ann", task.token, LEFT)
    assert len(arena.book.votes) == 1


def test_a_rater_answers_each_question_once_until_nothing_is_left(
    made: Path, book: VoteBook
) -> None:
    arena = Arena(world.contest(made, ("a", "b")), book, KEY)
    asked = Person("ann").vote(arena, 1000)
    votes = book.votes
    assert world.ITEMS < asked == len({vote.vote_id for vote in votes})
    assert sum(not vote.gold for vote in votes) == world.ITEMS
    assert arena.next("ann") is None and arena.next("ben") is not None


def test_gold_items_come_early_at_places_that_are_drawn() -> None:
    def turns(rater: str, block: int, key: bytes = KEY) -> list[int]:
        return [i for i in range(BLOCK) if is_gold_turn(block * BLOCK + i, rater, 0, key)]

    assert len(turns("ann", 0)) == FIRST and len(turns("ann", 3)) == 1
    assert len({tuple(turns(f"rater {i}", 0)) for i in range(9)}) > 5
    # nor can be told without the secret
    assert len({tuple(turns("ann", 0, bytes([i]) * 32)) for i in range(9)}) > 5


@pytest.mark.parametrize(
    ("right", "wrong", "skipped", "status"),
    [(4, 0, 0, "counted"), (3, 0, 9, "untested"), (3, 1, 0, "excluded"), (8, 2, 0, "counted")],
)
def test_who_is_counted(right: int, wrong: int, skipped: int, status: str) -> None:
    answers = ["left"] * right + ["right"] * (wrong // 2) + ["tie"] * (wrong - wrong // 2)
    votes = [
        vote(i, "oracle", "wrong", a, gold=True)
        for i, a in enumerate([*answers, *["skip"] * skipped])
    ]
    (found,) = raters(votes)
    assert (found.status, found.gold) == (status, right + wrong)


def test_who_always_says_left_is_excluded_or_his_habit_is_said(made: Path, arena: Arena) -> None:
    for number in range(6):
        for _ in range(20):
            task = arena.next(f"bot {number}")
            assert task is not None
            arena.vote(f"bot {number}", task.token, LEFT)
    Person("ann").vote(arena, 20)
    found = rate(arena.book.votes, "people")
    honest, *bots = found.raters
    assert all(
        one.one_sided and one.said.endswith("left in 100% of 20 decided answers") for one in bots
    )
    assert sum(one.status == "excluded" for one in bots) >= 5
    assert not honest.one_sided and "left" not in honest.said
    assert [row["one_sided"] for row in found.as_dict()["raters"]] == [False] + [True] * 6


def test_the_pair_that_is_least_certain_is_asked_next() -> None:
    editors = ["a", "b", "c"]
    votes = [vote(i, "a", "b", "left") for i in range(40)]
    votes += [vote(i, "b", "c", ("left", "right")[i % 2]) for i in range(40)]
    value = value_of_asking(votes, editors)
    assert value[1, 2] > value[0, 1] > 0  # nobody doubts a over b any more
    more = [vote(i, "b", "c", ("left", "right")[i % 2]) for i in range(400)]
    assert value_of_asking(votes + more, editors)[1, 2] < value[1, 2]
    even = value_of_asking([], editors)
    assert np.allclose(even[~np.eye(3, dtype=bool)], even[0, 1])


def test_strengths_are_finite_where_somebody_never_lost() -> None:
    theta = strengths(np.array([[0.0, 9.0], [0.0, 0.0]]))
    # 9 wins and half a tie of the prior each: ln(9.25 / 0.25)
    assert theta[0] - theta[1] == pytest.approx(math.log(9.25 / 0.25), abs=1e-3)


def test_intervals_cover_a_known_difference() -> None:
    """A planted difference of 0, where all answers of a component agree: 8 components."""
    rng, covered, runs = np.random.default_rng(0), 0, 40
    for _ in range(runs):
        sides = rng.choice(["left", "right"], 8)
        votes = [vote(i, "a", "b", sides[i % 8]) for i in range(24)] + gold("ann")
        difference = rate(votes, "people").questions[0].differences[0]
        covered += difference.low <= 0 <= difference.high
    assert covered >= 0.9 * runs


def test_an_undecided_difference_says_how_many_votes_it_needs() -> None:
    votes = [vote(i, "a", "teacher", "left" if i % 5 else "right") for i in range(40)] + gold("ann")
    clear = rate(votes, "people").questions[0].differences[0]
    assert (clear.first, clear.second, clear.verdict, clear.more) == ("a", "teacher", "better", 0)
    assert rate(votes, "people").anchor == "teacher"
    even = [vote(i, "a", "b", ("left", "right")[i % 9 < 4]) for i in range(18)] + gold("ann")
    (open_,) = rate(even, "people").questions[0].differences
    assert open_.verdict == "undecided" and open_.more > 18


def test_ties_and_skips() -> None:
    votes = [vote(i, "a", "b", "tie") for i in range(9)] + [vote(9, "a", "b", "skip")] + gold("ann")
    found = rate(votes, "people")
    first = found.questions[0]
    assert [row.rating for row in first.ratings] == pytest.approx([1000, 1000])
    assert (
        first.ratings[0].votes == 9 and math.isnan(found.left) and found.as_dict()["left"] is None
    )


def test_what_cannot_compete_is_one_clear_line(made: Path) -> None:
    store = world.artifacts(made)
    with pytest.raises(ArtifactError, match=r"evaluate/e: unknown editor 'e'"):
        world.contest(made, ("a", "e"))
    with pytest.raises(ArtifactError, match="an arena needs two editors"):
        world.contest(made, ("a",))
    with pytest.raises(ArtifactError, match="shard/s is no evaluation, nor made from one"):
        world.open_contest(store, "shard/s")
    assert world.contest(made).editors == ("a", "b", "c", "d", "oracle", "identity")


def test_a_wrong_edit_is_another_items_target_of_another_component(made: Path) -> None:
    contest = world.contest(made)
    assert Counter(name for _, name in contest.gold) == {"identity": 16, "wrong": 16}
    by_png = {contest.png(item, "oracle"): item for item in contest.items}
    for item in contest.items:
        other = by_png[contest.png(item, "wrong")]
        assert other.component_id != item.component_id


def test_votes_are_rows_of_the_catalog_and_come_back_into_an_empty_one(
    made: Path, arena: Arena, tmp_path: Path
) -> None:
    Person("ann").vote(arena, 3)
    arena.book.close()
    sql = "SELECT rater, instruction, left_editor FROM votes ORDER BY voted_at"
    rows = world.catalog(made).query(sql).to_pylist()
    assert rows == [
        {n: getattr(v, n) for n in ("rater", "instruction", "left_editor")}
        for v in arena.book.votes
    ]
    fresh = world.Catalog(tmp_path / "new.sqlite", f"file://{tmp_path}/store")
    objects = world.artifacts(made).objects
    assert enter(objects, fresh) == 3 and enter(objects, fresh) == 0


def test_a_vote_that_is_torn_or_changed_by_hand_is_named_and_the_others_count(
    made: Path, arena: Arena, tmp_path: Path
) -> None:
    contest = world.contest(made, ("a", "b"))
    Person("ann").vote(Arena(contest, arena.book, KEY), 5)
    arena.book.close()
    objects = world.artifacts(made).objects
    keys = [f"votes/e/{vote.vote_id}.json" for vote in arena.book.votes]
    whole = [objects.get(key) for key in keys]
    objects.put(keys[0], whole[0][:40])
    objects.put(keys[1], whole[1].replace(b'"ann"', b'"ben"'))  # another rater's id
    objects.put(keys[2], whole[2].replace(b'"seed":0', b'"seed":99999999999999999999'))
    objects.put("votes/e/aa.json", whole[3])  # a second time, under another key
    fresh = world.Catalog(tmp_path / "new.sqlite", f"file://{tmp_path}/store")
    said = r"'votes/e/\w+\.json' in file://.* is no vote: .*delete it \(and 3 more\)"
    with pytest.raises(VoteError, match=said):
        enter(objects, fresh)
    with closing(VoteBook(objects, fresh, "e")) as book:
        assert {vote.vote_id for vote in book.votes} == {v.vote_id for v in arena.book.votes[3:]}
        assert book.damaged.keys() == {"aa", *(v.vote_id for v in arena.book.votes[:3])}
        Person("ann").vote(Arena(contest, book, KEY), 40)  # never what cannot be kept
        assert len(book.votes) > world.ITEMS


def test_two_servers_of_one_home_do_not_ask_the_same_for_ever(made: Path, arena: Arena) -> None:
    with closing(world.book(made)) as late:
        other = Arena(arena.contest, late, KEY)
        Person("ann").vote(arena, 5)
        task = other.next("ann")
        assert task is not None
        with pytest.raises(DoubledVote):
            other.vote("ann", task.token, LEFT)
        assert len(late.votes) == 5  # all that were given there, not that one alone
        assert Person("ann").vote(other, 3) == 3


@pytest.mark.parametrize(("first", "second"), [("a", "b"), ("b", "a")])
def test_agreement_does_not_depend_on_the_names_of_the_editors(first: str, second: str) -> None:
    """Two raters who nearly always prefer one editor, and differ on one item of eight."""
    votes = [
        vote(i, first, second, "right" if (i, rater) == (3, "ben") else "left", rater=rater)
        for i in range(8)
        for rater in ("ann", "ben")
    ]
    found = rate([*votes, *gold("ann"), *gold("ben")], "people").questions[0].agreement
    # 1 of 8 differs, by chance 1 of 2 (of 32 answers: 16 of 31) would
    assert found == pytest.approx(1 - (1 / 8) / (16 / 31))


def test_names_of_raters() -> None:
    assert rater_name("  Ann  Smith ") == "ann smith"
    assert rater_name("Rene\u0301") == rater_name("Ren\u00e9") == "ren\u00e9"
    assert rater_name("अनिता") == "अनिता"
    for wrong in (
        "",
        " ",
        "../x",
        "a" * 41,
        "<b>",
        "a\x00b",
        "a\u202eb",
        "\u0301",
        "a" + "\u0301" * 41,
    ):
        with pytest.raises(VoteError, match="a rater's name has 1 to 40 letters"):
            rater_name(wrong)


def vote(
    number: int, left: str, right: str, answer: str, *, gold: bool = False, rater: str = "ann"
) -> Vote:
    return Vote(
        vote_id=f"{number:064x}", evaluation="e", pool="people", rater=rater, pair_id=f"p{number}",
        category="local", component_id=f"c{number % 8}", left_editor=left, right_editor=right,
        gold=gold, seed=0, instruction=answer, consistency=answer, quality=answer, seconds=1,
        voted_at="2026-01-01T00:00:00Z",
    )  # type: ignore[arg-type]  # fmt: skip


def gold(rater: str) -> list[Vote]:
    return [vote(i, "oracle", "wrong", "left", gold=True, rater=rater) for i in range(FIRST)]


def test_steps_between_ratings_follow_the_strengths() -> None:
    """a beats b beats c, 3 to 1 each: equal steps of 400·log10(3), by about 191 points."""
    votes = [
        vote(i, x, y, "left" if i % 4 else "right")
        for x, y in (("a", "b"), ("b", "c"))
        for i in range(80)
    ]
    found = rate(votes + gold("ann"), "people").questions[0].ratings
    for first, second in pairwise(found):
        assert first.rating - second.rating == pytest.approx(191, abs=10)
