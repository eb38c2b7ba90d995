"""When the small CLIP of a dataset's last version may be kept."""

import pyarrow as pa

from kontext.data.quality.kept import learnt_table, share_new
from schemas.tables import LEARNT


def learnt(*items: str) -> pa.Table:
    """`a:lamp,a red lamp` is image a with two texts."""
    named = [item.partition(":") for item in items]
    return learnt_table([name for name, _, _ in named], [said.split(",") for _, _, said in named])


def share(was: pa.Table, now: pa.Table, let_in: str, unsaid: str = "") -> float | None:
    images = pa.chunked_array([list(unsaid)], pa.string()) if unsaid else None
    return share_new(was, now, pa.array(list(let_in), pa.string()), images)


def test_what_is_new_or_worded_anew_counts() -> None:
    was = learnt("a:lamp", "b:cat,a cat", "c:hat")
    assert was.schema.equals(LEARNT)
    assert share(was, was, "abc") == 0
    assert share(was, learnt("b:cat,a cat", "c:hat", "a:lamp"), "abc") == 0  # in another order
    assert share(was, learnt("a:lamp", "b:cat,a cat", "c:hat", "d:tree"), "abcd") == 1 / 4
    assert share(was, learnt("a:lamp", "b:cat", "c:hat", "d:tree"), "abcd") == 1 / 2
    assert share(was, learnt("a:lamp"), "abc") == 0  # the others are there, with no words now
    assert share(LEARNT.empty_table(), learnt("a:lamp"), "a") == 1


def test_what_it_learnt_from_has_to_be_let_in_still() -> None:
    was = learnt("a:lamp", "b:cat")
    assert share(was, learnt("a:lamp"), "a") is None
    assert share(was, learnt("a:lamp", "b:cat"), "ac") is None
    assert share(LEARNT.empty_table(), LEARNT.empty_table(), "") == 1


def test_a_caption_that_is_refused_now_may_be_what_it_had_learnt() -> None:
    was = learnt("a:lamp", "b:cat,a cat", "c:hat")
    now = learnt("a:lamp", "b:cat", "c:hat")
    assert share(was, now, "abc") == 1 - 2 / 3
    assert share(was, now, "abc", unsaid="b") is None
    assert share(was, now, "abc", unsaid="ac") == 1 - 2 / 3  # whose words are as they were
    assert share(was, learnt("a:lamp", "c:hat"), "abc", unsaid="b") is None  # not asked any more
    assert share(was, learnt("a:lamp", "b:cat,a cat", "c:hat", "d:x"), "abcd", unsaid="d") == 1 / 4
    assert share(was, now, "abc", unsaid="x") == 1 - 2 / 3
