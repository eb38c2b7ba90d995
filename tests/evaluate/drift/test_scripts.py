"""Scripts are walks through the pairs of the data."""

from collections import Counter

import numpy as np

from kontext.evaluate.drift.scripts import NOTHING, TURNS, make_scripts
from tests.evaluate.drift.world import COMPONENTS, THRESHOLD, made_pairs, picture, scripts, world


def test_every_turn_is_a_pair_of_the_data_or_asks_for_nothing() -> None:
    pairs, component = world()
    known = {(row.contexts[0], row.target): row for row in pairs.rows}
    assert len(scripts()) == len({script.cluster for script in scripts().scripts}) == COMPONENTS
    for script in scripts().scripts:
        assert len(script.turns) == TURNS and script.turns[0].kind == "edit"
        assert Counter(turn.kind for turn in script.turns) == {"edit": 6, "keep": 1, "undo": 1}
        edits = []
        for turn, before, after in zip(
            script.turns, script.rows[:-1], script.rows[1:], strict=True
        ):
            assert (turn.before, turn.after) == (before, after)
            if turn.kind == "keep":
                assert before == after and turn.instruction == NOTHING
                continue
            row = known[before, after]
            assert row.instruction == turn.instruction
            assert component[row.pair_id] == script.cluster
            assert turn.others and turn.after not in turn.others
            if turn.kind == "undo":
                assert (after, before) == edits[-1]
            edits.append((before, after))


def test_scripts_are_drawn_from_the_seed_and_no_more_than_asked_for() -> None:
    again = make_scripts(*world(), COMPONENTS, 0, THRESHOLD)
    assert again.scripts == scripts().scripts and not again.why
    assert make_scripts(*world(), 3, 0, THRESHOLD).scripts == scripts().scripts[:3]
    assert make_scripts(*world(), COMPONENTS, 1, THRESHOLD).scripts != scripts().scripts
    more = make_scripts(*world(), COMPONENTS + 1, 0, THRESHOLD)
    assert (
        more.why == f"only {COMPONENTS} of {COMPONENTS} components have edits that lead on and back"
    )
    assert make_scripts(*world(), 0, 0, THRESHOLD).why == "the recipe asks for none"


def test_a_pair_and_its_reverse_are_enough_and_a_pair_alone_is_not() -> None:
    two = [picture(0, (0, 0)), picture(0, (1, 0))]
    both = make_scripts(*made_pairs([(0, 0, 1), (0, 1, 0)], two), 2, 0, THRESHOLD)
    assert len(both) == 1 and len(set(both.scripts[0].rows)) == 2
    alone = make_scripts(*made_pairs([(0, 0, 1)], two), 2, 0, THRESHOLD)
    assert not len(alone) and "pairs in both directions" in alone.why
    wide = [picture(0, (0, 0)), picture(2, (0, 0))]  # nobody knows what an edit does with its shape
    other = make_scripts(*made_pairs([(0, 0, 1), (0, 1, 0)], wide), 2, 0, THRESHOLD)
    assert other.why == "the test split has no edit of one picture at its own size"


def test_an_edit_that_nobody_can_see_is_in_no_script() -> None:
    seen = [picture(0, (0, 0)), picture(0, (1, 0))]
    hidden = np.uint8(seen[1] + (seen[1] < 250))
    pictures = [*seen, hidden]
    edits = [(0, a, b) for a in range(3) for b in range(3) if a != b]
    found = make_scripts(*made_pairs(edits, pictures), 1, 0, THRESHOLD)
    (script,) = found.scripts
    steps = {(turn.before, turn.after) for turn in script.turns if turn.kind != "keep"}
    pairs, _ = made_pairs(edits, pictures)
    of = {pairs.rows[n].contexts[0]: own for n, (_, own, _) in enumerate(edits)}
    assert not {(of[a], of[b]) for a, b in steps} & {(1, 2), (2, 1)}
