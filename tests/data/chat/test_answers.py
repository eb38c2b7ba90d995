import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from kontext.data.chat.answers import clean, completion, read
from kontext.data.chat.prompts import Fault, Prompt
from tests.data.chat_server import Say
from tests.data.chat_server import completion as reply


class Pet(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    legs: int


def fault_of(pet: Pet) -> Fault | None:
    return Fault("empty", "no name") if not pet.name else None


PROMPT = Prompt("k", "pet", "system", "text", (), Pet, fault_of)
CAT = {"name": "cat", "legs": 4}


def status(say: Say) -> str:
    found = read(str(say.body), PROMPT)
    assert (found.fault is None) == (found.value == Pet(name="cat", legs=4))
    return found.fault.status if found.fault else "ok"


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(CAT),
        "\ufeff \n" + json.dumps(CAT, indent=2) + "\n",
        f"```json\n{json.dumps(CAT)}\n```",
        f"Sure, here it is:\n```\n{json.dumps(CAT)}\n```\nAnything else {{please}}?",
        f"I weigh {{this}} and [that]. {json.dumps(CAT)} Done.",
        f'<think>perhaps {{"name": "dog", "legs": 4}}</think>{json.dumps(CAT)}',
        f"{json.dumps(CAT)}\n{json.dumps(CAT)}",
        [{"type": "text", "text": json.dumps(CAT)}],
    ],
)
def test_an_object_is_found_whatever_stands_around_it(text: Any) -> None:
    say = reply("")
    body = json.loads(say.body)
    body["choices"][0]["message"]["content"] = text
    assert status(Say(json.dumps(body))) == "ok"


@pytest.mark.parametrize(
    "text",
    [
        "Sure! Here is your answer:",
        "[1, 2]",
        "null",
        '{"name": "cat"}',
        '{"name": "cat", "legs": "4"}',
        '{"name": "cat", "legs": 4.0}',
        '{"name": "cat", "legs": true}',
        '{"name": "cat", "legs": 4, "tail": 1}',
        '{"name": "dog", "name": "cat", "legs": 4}',  # which one?
        '{"name": "cat", "legs": 4} or {"name": "dog", "legs": 4}',
        '{"name": "cat", "legs": 4',
        '{"name": "cat", "legs": NaN}',
        '{"name": "\\ud800", "legs": 4}',
        '{"a":' * 5000,
        "{" * 100_000,
    ],
)
def test_what_does_not_fit_is_malformed(text: str) -> None:
    assert status(reply(text)) == "malformed"


@pytest.mark.parametrize(
    ("say", "wanted"),
    [
        (reply(CAT), "ok"),
        (reply({"name": "", "legs": 4}), "empty"),
        (reply(""), "empty"),
        (reply(None), "empty"),
        (reply(CAT, finish_reason="length"), "ok"),
        (reply('{"name": "ca', finish_reason="length"), "truncated"),
        (reply(None, finish_reason="length"), "truncated"),
        (reply(CAT, finish_reason="content_filter"), "refused"),
        (reply(None, message={"content": None, "refusal": "I would rather not"}), "refused"),
        (Say('{"choices": []}'), "malformed"),
        (Say('{"choices": [{"message": null}]}'), "malformed"),
        (Say("<html>gateway</html>"), "malformed"),
        (Say(""), "malformed"),
    ],
)
def test_every_reply_has_a_status(say: Say, wanted: str) -> None:
    assert status(say) == wanted


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        "many",
        {"prompt_tokens": 1},
        {"prompt_tokens": -1, "completion_tokens": 1},
        {"prompt_tokens": 10**30, "completion_tokens": 1},
    ],
)
def test_a_count_that_cannot_be_is_no_count(usage: Any) -> None:
    body = json.loads(reply(CAT).body)
    found = completion(json.dumps({**body, "usage": usage}))
    assert found is not None and found.tokens() is None
    found = completion(str(reply(CAT, (7, 3)).body))
    assert found is not None
    tokens = found.tokens()
    assert tokens is not None and (tokens.prompt_tokens, tokens.completion_tokens) == (7, 3)


@settings(max_examples=200)
@given(st.one_of(st.text(), st.binary().map(lambda b: b.decode(errors="replace"))))
def test_no_text_is_an_error(text: str) -> None:
    assert read(text, PROMPT).fault is not None
    body = json.loads(reply("").body)
    body["choices"][0]["message"]["content"] = text
    assert read(json.dumps(body), PROMPT).value is None


def test_words_are_one_line() -> None:
    assert clean("  a \n b\u2003c ") == "a b c"
    for text in ("a\x00b", "a\x1b[31mb", "\x9b"):
        with pytest.raises(ValueError, match="control"):
            clean(text)
