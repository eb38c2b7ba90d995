import base64
import json
from pathlib import Path
from typing import Any

import pytest

from kontext.data.caption import judge_for, modules_named
from kontext.data.caption.base import Caption, CaptionRequest, Desk, ImageFacts, Judged
from kontext.data.caption.judge import other_instructions
from kontext.errors import RecipeError
from schemas.sections.data import CaptionConfig
from schemas.tables import JUDGED_SCORES, JUDGEMENTS
from tests.data.chat_server import ChatServer, Say, completion, fails, pictures, said, serving

GOOD = {"reasons": "The hat is red now.", "follow": 5, "preserve": 4, "quality": 5}
BAD = {"reasons": "The hat is blue.", "follow": 1, "preserve": 4, "quality": 5}


def edit(number: int, relation: str = "hat", contexts: int = 1) -> CaptionRequest:
    names = [f"context{number}", "second"][:contexts]
    return CaptionRequest(
        pair_id=f"p{number}",
        relation_class="local",
        relation=relation,
        params="{}",
        target=ImageFacts("person", {}, pixel_id=f"target{number}"),
        contexts=tuple(ImageFacts("person", {}, pixel_id=name) for name in names),
    )


def caption(request: CaptionRequest, words: str, status: Any = "ok") -> Caption:
    return Caption(request.pair_id, words, "", "", "", "", "", status, "c")


def judged(
    server: ChatServer, folder: Path, pairs: list[tuple[CaptionRequest, Caption]], **options: Any
) -> Judged:
    config = CaptionConfig(judge=True, endpoint=server.url, model="vlm", first_wait=0, **options)
    judge = judge_for(config)
    assert judge is not None
    return judge.judge_all(*zip(*pairs, strict=True), Desk(str.encode, folder))


def kind(body: dict[str, Any]) -> str:
    return str(body["response_format"]["json_schema"]["name"])


def pairs(count: int, contexts: int = 1) -> list[tuple[CaptionRequest, Caption]]:
    found = [edit(n, f"relation{n % 3}", contexts) for n in range(count)]
    return [(each, caption(each, f"do {n % 3}")) for n, each in enumerate(found)]


def test_an_edit_is_shown_with_its_instruction_a_wrong_one_and_swapped(tmp_path: Path) -> None:
    def speak(body: dict[str, Any], times: int) -> Say:
        return completion(GOOD if kind(body) == "judge" else BAD)

    with serving(speak) as server:
        found = judged(server, tmp_path, pairs(6), parallel=1)
    table = found.judgements
    assert table.schema.names == JUDGEMENTS.names and table.num_rows == 6
    row = table.to_pylist()[0]
    assert (row["status"], row["follow"], row["preserve"], row["quality"]) == ("ok", 5, 4, 5)
    assert (row["follow_shuffled"], row["shuffled_gap"], row["swapped_gap"]) == (1, 4, 4)
    assert row["judge"] == "chat/vlm" and found.replies.num_rows == 18
    plain, shuffled, swapped = server.bodies[:3]
    assert [kind(body) for body in server.bodies[:3]] == [
        "judge",
        "judge_shuffled",
        "judge_swapped",
    ]
    assert said(plain) == said(swapped) == {"instruction": "do 0"} != said(shuffled)
    assert pictures(plain) == pictures(shuffled) == pictures(swapped)[::-1]
    assert "relation" not in json.dumps(plain["messages"]), "it sees no labels"


def test_only_captioned_edits_are_judged(tmp_path: Path) -> None:
    single = CaptionRequest("t", "t2i", "t2i", "{}", ImageFacts("x", pixel_id="x"))
    rest = [(single, caption(single, "a thing")), (edit(9), caption(edit(9), "", "refused"))]
    with serving(lambda body, times: completion(GOOD)) as server:
        found = judged(server, tmp_path, [*pairs(4, contexts=2), *rest])
    assert found.judgements["pair_id"].to_pylist() == ["p0", "p1", "p2", "p3"]
    assert all(len(pictures(body)) == 3 for body in server.bodies)


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (completion("It looks great! 5 out of 5."), "malformed"),
        (completion({**GOOD, "follow": 6}), "malformed"),
        (completion({**GOOD, "follow": 0}), "malformed"),
        (completion({**GOOD, "follow": 4.5}), "malformed"),
        (completion({**GOOD, "follow": "5"}), "malformed"),
        (completion({**GOOD, "follow": True}), "malformed"),
        (completion({**GOOD, "follow": None}), "malformed"),
        (completion({"follow": 5}), "malformed"),
        (completion(None, message={"content": None, "refusal": "no"}), "refused"),
        (Say('{"error": {"code": "content_filter"}}', 400), "refused"),
        (fails(500), "unanswered"),
    ],
)
@pytest.mark.parametrize("where", ["judge", "judge_shuffled", "judge_swapped"])
def test_one_bad_answer_leaves_no_score(
    tmp_path: Path, reply: Say, status: str, where: str
) -> None:
    def speak(body: dict[str, Any], times: int) -> Say:
        return reply if kind(body) == where and "context1" in first(body) else completion(GOOD)

    def first(body: dict[str, Any]) -> str:
        urls = pictures(body)[:: -1 if where == "judge_swapped" else 1]
        return base64.b64decode(urls[0].partition(",")[2]).decode()

    with serving(speak) as server:
        rows = judged(server, tmp_path, pairs(4), tries=2).judgements.to_pylist()
    assert [row["status"] for row in rows] == ["ok", status, "ok", "ok"]
    assert all((row[s] is None) == (row["status"] != "ok") for row in rows for s in JUDGED_SCORES)


def test_a_control_is_of_another_relation_and_always_another_instruction() -> None:
    edits = [(request, words.instruction) for request, words in pairs(30)]
    found = other_instructions(edits, seed=0)
    assert found == other_instructions(edits, seed=0) != other_instructions(edits, seed=1)
    for (_, own), other in zip(edits, found, strict=True):
        assert other is not None and other != own
    alone = [(edit(n), f"do {n % 2}") for n in range(10)]
    assert other_instructions(alone, 0) == [f"do {1 - n % 2}" for n in range(10)]
    assert other_instructions([(edit(n), "do it") for n in range(3)], 0) == [None] * 3
    mixed = [(edit(0, "a"), "do it"), (edit(1, "b"), "do it"), (edit(2, "a"), "do that")]
    assert other_instructions(mixed, 0)[0] == "do that"


def test_without_a_control_there_is_no_score(tmp_path: Path) -> None:
    same = [(edit(n), caption(edit(n), "do it")) for n in range(3)]
    with serving(lambda body, times: completion(GOOD)) as server:
        table = judged(server, tmp_path, same).judgements
        assert table["status"].to_pylist() == ["no_control"] * 3 and not server.bodies


def test_recipe_chooses_the_judge(tmp_path: Path) -> None:
    assert judge_for(CaptionConfig()) is None
    assert modules_named(CaptionConfig()) == ["kontext.data.caption.templates"]
    assert "kontext.data.caption.judge" in modules_named(CaptionConfig(judge=True))
    other = judge_for(CaptionConfig(judge=True, model="a", judge_model="b"))
    with pytest.raises(RecipeError, match=r"caption\.endpoint"):
        assert other is not None
        other.judge_all([], [], Desk(str.encode, tmp_path))
    with serving(lambda body, times: completion(GOOD)) as server:
        judged(server, tmp_path, pairs(4), judge_model="strict-vlm")
        assert {body["model"] for body in server.bodies} == {"strict-vlm"}
