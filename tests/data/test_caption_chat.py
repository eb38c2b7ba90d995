import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kontext.data.caption import captioner_for
from kontext.data.caption.base import Captioned, CaptionRequest, Desk, ImageFacts, RemoteCaptioner
from kontext.errors import RecipeError
from schemas.recipe import Recipe
from schemas.sections.data import CaptionConfig
from schemas.tables import REPLIES
from tests.data.chat_server import ChatServer, Say, completion, pictures, said, serving

EDIT = {
    "stays": ["the face", "the background"],
    "changed": ["the hair is blue, it was red"],
    "refuse": "",
    "instruction": "dye the hair blue",
    "instruction_short": "blue hair",
    "instruction_inverse": "dye the hair red",
    "target_caption": "a person with blue hair",
    "context_caption": "a person with red hair",
}
SINGLE = {"refuse": "", "caption": "a red sign on a wall", "caption_short": "a red sign"}


def picture(pixel_id: str, **labels: str) -> ImageFacts:
    return ImageFacts("person", labels, pixel_id=pixel_id)


def edit(
    name: str = "p", start: str = "red", end: str = "blue", params: str = ""
) -> CaptionRequest:
    change = json.dumps({"attribute": "hair_color", "from": start, "to": end})
    return CaptionRequest(
        pair_id=name,
        relation_class="local",
        relation="hair_color",
        params=params or change,
        target=picture("after", hair_color=end),
        contexts=(picture("before", hair_color=start),),
    )


def caption(
    server: ChatServer, folder: Path, *requests: CaptionRequest, **options: Any
) -> Captioned:
    config = CaptionConfig(
        captioner="chat", endpoint=server.url, model="vlm", first_wait=0, **options
    )
    captioner = captioner_for(config)
    assert isinstance(captioner, RemoteCaptioner)
    return captioner.caption_all(requests, Desk(str.encode, folder))


def status(folder: Path, reply: Any, *requests: CaptionRequest, **options: Any) -> str:
    """Status of a pair that is answered so, both times."""
    say = reply if isinstance(reply, Say) else completion(reply)
    with serving(lambda body, times: say) as server:
        (row,) = caption(server, folder, *(requests or (edit(),)), **options).captions
    texts = (row.instruction, row.instruction_short, row.instruction_inverse, row.target_caption)
    assert all(texts) == (row.status == "ok") and (any(texts) or row.status != "ok")
    return row.status


def test_an_edit_is_shown_with_its_labels(tmp_path: Path) -> None:
    with serving(lambda body, times: completion(EDIT)) as server:
        done = caption(server, tmp_path, edit())
    (row,) = done.captions
    assert row.status == "ok" and row.captioner == "chat/vlm" and row.template == "hair_color/chat"
    for name in EDIT.keys() - {"stays", "changed", "refuse"}:
        assert getattr(row, name) == EDIT[name]
    (body,) = server.bodies
    shown = [part.get("text", "picture") for part in body["messages"][1]["content"][1:]]
    assert shown == ["context:", "picture", "target:", "picture"]
    assert [url.rpartition(",")[2] for url in pictures(body)] == ["YmVmb3Jl", "YWZ0ZXI="]
    facts = said(body)
    assert facts["labels of the change"]["to"] == facts["target"]["hair_color"] == "blue"
    asked = list(body["response_format"]["json_schema"]["schema"]["properties"])
    assert asked[:3] == ["stays", "changed", "refuse"], "it looks before it writes"
    assert "at most 14 words" in body["messages"][0]["content"]
    assert done.replies.schema.names == REPLIES.names
    (sent,) = done.replies.to_pylist()
    assert (sent["tokens_in"], sent["tokens_out"], sent["counted"]) == (100, 20, True)
    assert (sent["pair_id"], sent["model"], sent["outcome"]) == ("p", "served-vlm", "answered")
    assert json.loads(sent["reply"])["id"] == "x" and len(sent["prompt_hash"]) == 64


def test_a_single_is_described(tmp_path: Path) -> None:
    single = CaptionRequest("p", "t2i", "t2i", "{}", picture("one"))
    with serving(lambda body, times: completion(SINGLE)) as server:
        (row,) = caption(server, tmp_path, single).captions
    assert row.instruction == row.target_caption == SINGLE["caption"]
    assert row.instruction_short == SINGLE["caption_short"] and row.status == "ok"
    assert row.instruction_inverse == row.context_caption == ""
    assert len(pictures(server.bodies[0])) == 1


def test_several_contexts_are_numbered_and_labels_need_not_be_there(tmp_path: Path) -> None:
    two = CaptionRequest("p", "local", "x", "no json", picture("c"), (picture("a"), picture("b")))
    with serving(lambda body, times: completion(EDIT)) as server:
        (row,) = caption(server, tmp_path, two).captions
    assert row.status == "ok" and said(server.bodies[0])["labels of the change"] == {}
    words = [part.get("text") for part in server.bodies[0]["messages"][1]["content"]]
    assert words[1::2] == ["context 1:", "context 2:", "target:"]


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, "ok"),
        ({"refuse": "none"}, "ok"),
        ({"refuse": "These are two different people."}, "refused"),
        ({"refuse": "no edit", "instruction": "", "target_caption": ""}, "refused"),
        ({"instruction": ""}, "empty"),
        ({"instruction_inverse": "none"}, "empty"),
        ({"instruction_inverse": "N/A."}, "empty"),
        ({"instruction_inverse": "change the hair to none"}, "empty"),
        ({"instruction_inverse": "undo"}, "empty"),
        ({"context_caption": " \n"}, "empty"),
        ({"changed": []}, "malformed"),
        ({"changed": ["", " "]}, "malformed"),
        ({"instruction": "write 'NONE' on the sign"}, "ok"),
        ({"instruction": "word " * 14}, "ok"),
        ({"instruction": "word " * 15}, "too_long"),
        ({"target_caption": "word " * 15}, "too_long"),
        ({"instruction_inverse": "Dye the hair BLUE"}, "malformed"),
        ({"instruction": 5}, "malformed"),
        ({"instruction": "a\x00b"}, "malformed"),
        ({"comment": "one more field"}, "malformed"),
    ],
)
def test_what_is_wrong_with_a_text_is_its_status(
    tmp_path: Path, changes: dict[str, Any], wanted: str
) -> None:
    assert status(tmp_path, {**EDIT, **changes}) == wanted


def test_only_the_texts_must_be_there_but_all_is_asked_for(tmp_path: Path) -> None:
    texts = {
        name: text for name, text in EDIT.items() if name not in ("stays", "changed", "refuse")
    }
    with serving(lambda body, times: completion(texts)) as server:
        assert caption(server, tmp_path, edit()).captions[0].status == "ok"
    shape = server.bodies[0]["response_format"]["json_schema"]["schema"]
    assert shape["required"] == list(EDIT) and "default" not in json.dumps(shape)
    for missing in texts:
        some = {name: text for name, text in EDIT.items() if name != missing}
        assert status(tmp_path / missing, some) == "malformed"


def test_fences_and_talk_are_no_trouble(tmp_path: Path) -> None:
    assert status(tmp_path, f"Here:\n```json\n{json.dumps(EDIT)}\n```\nDone.") == "ok"


def test_longer_texts_where_the_encoder_reads_them(tmp_path: Path) -> None:
    long = {**EDIT, "instruction": "word " * 40}
    assert status(tmp_path, long, max_words=40) == "ok"
    assert status(tmp_path, long, max_words=39) == "too_long"
    with pytest.raises(ValidationError, match=r"max_words=40 needs encode.text_length=58"):
        Recipe.model_validate({"caption": {"max_words": 40}, "encode": {"text_length": 57}})
    Recipe.model_validate({"caption": {"max_words": 40}, "encode": {"text_length": 58}})
    Recipe.model_validate({"encode": {"text_length": 4}})  # it cuts, and says how often


def test_what_is_not_there_is_called_absent_but_words_on_signs_are_kept(tmp_path: Path) -> None:
    sign = json.dumps({"attribute": "text", "from": "NO", "to": "none"})
    with serving(lambda body, times: completion(EDIT)) as server:
        caption(server, tmp_path, edit("a", "none", "blue"), edit("b", params=sign), parallel=1)
    first, second = map(said, server.bodies)
    assert first["labels of the change"]["from"] == "(absent)"
    assert first["context"] == [{"shows": "person", "hair_color": "(absent)"}]
    assert second["labels of the change"] == {"attribute": "text", "from": "NO", "to": "none"}


def test_cost_at_the_recipes_prices(tmp_path: Path) -> None:
    with serving(lambda body, times: completion(EDIT, (1000, 500))) as server:
        done = caption(server, tmp_path, edit(), usd_per_million_in=2, usd_per_million_out=8)
    assert done.replies["cost_usd"].to_pylist() == [pytest.approx(0.006)]


def test_the_key_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k3y")
    with serving(lambda body, times: completion(EDIT)) as server:
        done = caption(server, tmp_path, edit())
    assert server.keys == ["Bearer k3y"] and "k3y" not in str(done.replies.to_pylist())


def test_recipe_chooses_the_captioner() -> None:
    assert captioner_for(CaptionConfig()).id == "templates/3"
    for missing in ({"model": "m"}, {"endpoint": "http://localhost:1/v1"}):
        with pytest.raises(RecipeError, match="endpoint"):
            captioner_for(CaptionConfig(captioner="chat", **missing))
    config = CaptionConfig(captioner="chat", model="m", endpoint="http://localhost:1/v1")
    assert captioner_for(config).id == "chat/m"
