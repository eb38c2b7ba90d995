import doctest
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kontext.data.caption import captioner_for
from kontext.data.caption import words as words_module
from kontext.data.caption.base import MAX_WORDS, Caption, CaptionRequest, ImageFacts
from kontext.data.caption.chat import ChatCaptioner
from kontext.data.caption.relations import ALIASES, WORDINGS, generic
from kontext.data.caption.templates import TemplateCaptioner
from kontext.data.caption.words import describe
from kontext.data.mine.relations import RELATIONS
from kontext.errors import KontextError, RecipeError
from schemas.sections.data import CaptionConfig

SAMPLES = {
    "skin_tone": ("light", "medium-dark"),
    "glasses": ("round", "square"),
    "accessory": ("cat ears", "clown nose"),
    "hair_style": ("curly", "bald"),
    "text": ("NO", "OPEN"),
    "time_of_day": ("dawn", "night"),
    "day_night": ("day", "night"),
    "season": ("summer", "winter"),
    "weather": ("rain", "snow"),
    "drawing": ("line", "filled"),
    "art_style": ("flat Fluent", "outlined OpenMoji"),
    "gender": ("man", "woman"),
    "expression": ("sad", "angry"),
    "direction": ("left", "right"),
}


def request(
    relation: str,
    start: str,
    end: str,
    number: int = 0,
    attribute: str | None = None,
    **params: Any,
) -> CaptionRequest:
    name = relation if attribute is None else attribute
    labels = {"attribute": name, "from": start, "to": end, "subject": "person", **params}
    return CaptionRequest(
        pair_id=f"{relation}-{number}",
        relation_class="local",
        relation=relation,
        params=json.dumps(labels),
        target=ImageFacts("person", {name: end}),
        contexts=(ImageFacts("person", {name: start}),),
    )


def caption(*args: Any, **options: Any) -> Caption:
    return TemplateCaptioner().caption(request(*args, **options))


# --- wording -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(WORDINGS))
def test_every_relation_has_six_good_paraphrases(name: str) -> None:
    wording = WORDINGS[name]
    families = [wording.change, *(f for f in (wording.add, wording.remove) if f)]
    assert bool(wording.add) == bool(wording.remove)
    for short, family in families:
        assert short
        assert len(set(family)) == len(family) >= 6
        for sentence in (*family, short):
            used = set(re.findall(r"{(\w+)}", sentence))
            assert used <= {"from", "to", "a_to", "some_to", "when", "hair"}
            assert len(sentence.split()) <= 9
    for sentence in (*wording.change.sentences, *(wording.add.sentences if wording.add else ())):
        assert re.search(r"{(to|a_to|some_to|when|hair)}", sentence), "the goal must be named"


@pytest.mark.parametrize("relation", sorted({r for r, _ in RELATIONS.values()}))
def test_every_mined_relation_is_worded(relation: str) -> None:
    assert ALIASES.get(relation, relation) in WORDINGS
    start, end = SAMPLES.get(relation, ("red", "blue"))
    attribute = next(a for a, (r, _) in RELATIONS.items() if r == relation)
    found = {caption(relation, start, end, n, attribute).instruction for n in range(120)}
    assert len(found) >= 6
    for n in range(20):
        row = caption(relation, start, end, n, attribute)
        assert row.status == "ok" and row.template.startswith(f"{relation}/")
        assert "{" not in " ".join(map(str, vars(row).values()))
        assert len(row.instruction_short.split()) <= len(row.instruction.split()) + 1


@pytest.mark.parametrize("relation", sorted(SAMPLES))
def test_inverse_is_the_same_sentence_turned_round(relation: str) -> None:
    start, end = SAMPLES[relation]
    for number in range(12):
        there, back = caption(relation, start, end, number), caption(relation, end, start, number)
        assert there.instruction != there.instruction_inverse
        swapped = TemplateCaptioner().caption(request(relation, end, start, number))
        assert there.instruction_inverse == swapped.instruction
        assert there.instruction == back.instruction_inverse
        assert there.target_caption == back.context_caption


def test_things_are_added_and_removed() -> None:
    for number in range(12):
        there = caption("glasses", "no", "round", number)
        asked = r"(add|give|put|have|show|want|draw|include|needs)\b.*round glasses"
        assert re.search(asked + "|round glasses (would be nice|appear)", there.instruction)
        gone = "remove|take off|rid|delete|no more|without|gone|erase|must go|disappear|not have"
        assert re.search(gone, there.instruction_inverse)
        assert "no glasses" not in there.context_caption
    assert caption("accessory", "nothing", "clown nose").instruction_short == "add clown nose"
    assert caption("weather", "rain", "none").instruction_short == "remove rain"
    assert caption("hat", "none", "red", attribute="hat").instruction_short == "add red hat"


def test_words_on_signs_are_kept_letter_for_letter() -> None:
    """NO is a word on a sign, not an absence; camelCase is not a label there."""
    row = caption("text", "NO", "OpenNow")
    assert "'OpenNow'" in row.instruction and "'NO'" in row.instruction_inverse
    assert row.context_caption == "a person reading 'NO'"


def test_a_reference_is_pointed_at_and_the_way_back_named() -> None:
    relation = "hair_color_by_reference"
    made = TemplateCaptioner().caption(request(relation, "red", "blue", attribute="hair_color"))
    assert made.status == "ok" and made.template.startswith(relation)
    assert "second picture" in made.instruction and "hair color" in made.instruction
    assert "blue" not in made.instruction and "red" in made.instruction_inverse
    assert made.instruction_short == "hair color of the second picture"


def test_choice_depends_on_pair_and_seed_only() -> None:
    first = [caption("hair_color", "red", "blue", n) for n in range(40)]
    assert first == [caption("hair_color", "red", "blue", n) for n in range(40)]
    other = TemplateCaptioner(seed=1)
    second = [other.caption(request("hair_color", "red", "blue", n)) for n in range(40)]
    assert [c.template for c in first] != [c.template for c in second]
    few = TemplateCaptioner(paraphrases=2)
    used = {few.caption(request("hair_color", "red", "blue", n)).template for n in range(40)}
    assert used == {"hair_color/0", "hair_color/1"}


def test_folder_labels_get_generic_sentences() -> None:
    row = caption("roof_color", "#d8433b", "darkBlue", attribute="roof_color")
    assert row.status == "ok"
    assert "roof color" in row.instruction and "dark blue" in row.instruction
    assert "red" in row.instruction_inverse
    assert len(set(generic("roof").change.sentences)) >= 6
    assert "{odd}" in caption("{odd}", "a", "b", attribute="{odd}").instruction


@pytest.mark.parametrize(
    "bad",
    [
        request("teleport", "here", "there", attribute="place"),
        request("color", "red", "red"),
        CaptionRequest("p", "local", "color", "not json", ImageFacts("x"), (ImageFacts("x"),)),
        CaptionRequest("p", "local", "color", "[1]", ImageFacts("x"), (ImageFacts("x"),)),
        CaptionRequest("p", "local", "color", "{}", ImageFacts("x"), (ImageFacts("x"),)),
        CaptionRequest(
            "p",
            "local",
            "color",
            '{"attribute":"color","from":{},"to":"a"}',
            ImageFacts("x"),
            (ImageFacts("x"),),
        ),
        request("note", "short", "word " * 30, attribute="note"),
    ],
)
def test_what_cannot_be_worded_is_malformed(bad: CaptionRequest) -> None:
    row = TemplateCaptioner().caption(bad)
    assert (row.status, row.instruction, row.target_caption) == ("malformed", "", "")


def test_text_to_image_singles() -> None:
    single = CaptionRequest("p", "t2i", "t2i", "{}", ImageFacts("red sign", {"text": "OPEN"}), ())
    row = TemplateCaptioner().caption(single)
    assert row.instruction == row.target_caption == "a red sign reading 'OPEN'"
    assert row.instruction_short == "a red sign"
    assert row.instruction_inverse == row.context_caption == ""
    nameless = CaptionRequest("p", "t2i", "t2i", "{}", ImageFacts(" "), ())
    assert TemplateCaptioner().caption(nameless).status == "empty"


def test_descriptions_name_the_change_and_stay_short() -> None:
    labels = {
        "hair_color": "blond",
        "clothing_color": "red",
        "glasses": "round",
        "expression": "surprised",
        "background_color": "orange",
        "skin_color": "tan",
    }
    for focus in labels:
        text = describe("cartoon person", labels, focus)
        assert len(text.split()) <= MAX_WORDS and labels[focus] in text
    assert describe("old clock", {}) == "an old clock"
    assert describe("woman astronaut", {"gender": "woman"}) == "a woman astronaut"
    assert describe("person", {"glasses": "no", "hair": "bald"}) == "a person with no hair"


@settings(max_examples=50)
@given(
    st.text(max_size=60),
    st.dictionaries(st.text(max_size=12), st.text(max_size=40), max_size=6),
)
def test_any_labels_give_a_short_single_line(concept: str, labels: dict[str, str]) -> None:
    text = describe(concept, labels, next(iter(labels), ""))
    assert len(text.split()) <= MAX_WORDS and len(text.splitlines()) <= 1


def test_examples_in_docstrings() -> None:
    assert doctest.testmod(words_module).failed == 0


# --- chat ----------------------------------------------------------------------------------------

GOOD = {
    "instruction": "dye the hair blue",
    "instruction_short": "blue hair",
    "instruction_inverse": "dye the hair red",
    "target_caption": "a person with blue hair",
    "context_caption": "a person with red hair",
}


class Server:
    """A tiny OpenAI-compatible endpoint: gives the queued answers, keeps the requests."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/chat/completions"
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append(json.loads(body))
                outer.headers.append(dict(self.headers))
                answer = outer.answers.pop(0)
                status = answer if isinstance(answer, int) else 200
                self.send_response(status)
                self.end_headers()
                if status == 200:
                    self.wfile.write(json.dumps({"choices": [{"message": answer}]}).encode())

            def log_message(self, *args: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def say(self, *contents: Any) -> None:
        self.answers = [
            {"role": "assistant", "content": json.dumps(c)} if c is GOOD else c for c in contents
        ]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


def chat(server: Server, **options: Any) -> ChatCaptioner:
    return ChatCaptioner(server.url, "a-vlm", pause=0, **options)


def test_chat_sends_facts_pictures_and_schema(server: Server) -> None:
    server.say(GOOD)
    asked = request("hair_color", "red", "blue")
    pictured = CaptionRequest(
        **{**vars(asked), "target": ImageFacts("person", {"hair_color": "blue"}, png=b"PNG!")}
    )
    row = chat(server, api_key="k3y").caption(pictured)
    assert row.status == "ok" and row.captioner == "chat/a-vlm"
    assert {name: getattr(row, name) for name in GOOD} == GOOD
    (sent,) = server.requests
    assert sent["model"] == "a-vlm" and sent["response_format"]["type"] == "json_schema"
    facts = json.loads(sent["messages"][1]["content"][0]["text"])
    assert facts["change"]["to"] == "blue" and facts["target"]["hair_color"] == "blue"
    assert sent["messages"][1]["content"][1]["image_url"]["url"].endswith(",UE5HIQ==")
    assert server.headers[0]["Authorization"] == "Bearer k3y"


def answer(**changes: str) -> dict[str, str]:
    return {"role": "assistant", "content": json.dumps({**GOOD, **changes})}


@pytest.mark.parametrize(
    "bad",
    [
        {"role": "assistant", "content": "Sure! Here is your caption:"},
        {"role": "assistant", "content": None},
        {"role": "assistant", "content": json.dumps({"instruction": "only one field"})},
        answer(instruction=""),
        answer(instruction_inverse=""),
        answer(instruction="word " * (MAX_WORDS + 1)),
        answer(extra="field"),
    ],
)
def test_chat_retries_and_then_says_malformed(server: Server, bad: dict[str, Any]) -> None:
    server.say(bad, GOOD)
    assert chat(server).caption(request("color", "red", "blue")).status == "ok"
    assert [r["seed"] for r in server.requests] == [0, 1]
    server.say(bad, bad, bad, GOOD)
    row = chat(server).caption(request("color", "red", "blue"))
    assert (row.status, row.instruction) == ("malformed", "")
    assert len(server.answers) == 1  # three attempts, not four


def test_chat_refusal_is_a_status(server: Server) -> None:
    server.say({"role": "assistant", "content": None, "refusal": "I would rather not."})
    row = chat(server).caption(request("color", "red", "blue"))
    assert (row.status, row.instruction) == ("refused", "")


def test_chat_transport_faults(server: Server) -> None:
    server.say(503, 429, GOOD)
    assert chat(server).caption(request("color", "red", "blue")).status == "ok"
    server.say(500, 500, 500)
    with pytest.raises(KontextError, match="HTTP 500"):
        chat(server).caption(request("color", "red", "blue"))
    server.say(401)
    with pytest.raises(KontextError, match="HTTP 401"):
        chat(server).caption(request("color", "red", "blue"))
    server.close()
    with pytest.raises(KontextError, match="does not answer"):
        chat(server).caption(request("color", "red", "blue"))


def test_recipe_chooses_the_captioner(monkeypatch: pytest.MonkeyPatch) -> None:
    assert captioner_for(CaptionConfig()).id == "templates/2"
    with pytest.raises(RecipeError, match="endpoint"):
        captioner_for(CaptionConfig(captioner="chat", model="m"))
    config = CaptionConfig(captioner="chat", model="m", endpoint="http://localhost:1/v1")
    assert captioner_for(config).id == "chat/m"
