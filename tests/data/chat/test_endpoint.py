import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from kontext.data.chat.endpoint import Endpoint, Reply, seconds_of, sort_reply
from kontext.data.chat.replies import Cost
from kontext.errors import RecipeError
from tests.data.chat_server import ChatServer, Say, completion, fails, serving


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with serving(lambda body, times: completion("hello", (3, 2))) as running:
        yield running


def post(server: ChatServer, say: Say | None = None, **options: Any) -> Reply:
    if say is not None:
        server.speak = lambda body, times: say
    endpoint = Endpoint(server.url, **options)
    try:
        return endpoint.post({"model": "m", "messages": []})
    finally:
        endpoint.close()


def test_a_completion_is_kept_as_it_came(server: ChatServer) -> None:
    reply = post(server, api_key="k3y")
    assert reply.exchange.outcome == "answered" and not reply.again
    assert json.loads(reply.exchange.body)["choices"][0]["message"]["content"] == "hello"
    assert reply.exchange.usage == Cost(3, 2) and reply.exchange.model == "served-vlm"
    assert server.keys == ["Bearer k3y"] and server.bodies == [{"model": "m", "messages": []}]


def test_the_key_is_kept_nowhere(server: ChatServer) -> None:
    key = "sk-1234567890"
    reply = post(server, fails(400, f"bad key {key}?"), api_key=f" {key}\n")
    assert key not in reply.exchange.body + reply.problem and "bad key" in reply.problem
    assert server.keys == [f"Bearer {key}"] and key not in repr(Endpoint(server.url, key))
    assert post(server, completion("hello"), api_key="e").exchange.outcome == "answered"
    for wrong in ("schlüssel-12345", "sk-123\n4567890"):
        with pytest.raises(RecipeError, match="no key has") as info:
            Endpoint(server.url, wrong)
        assert wrong not in str(info.value)


@pytest.mark.parametrize(
    ("say", "outcome", "again", "hopeless"),
    [
        (fails(500), "error", True, False),
        (fails(503, "overloaded"), "error", True, False),
        (fails(429, "slow down"), "error", True, False),
        (fails(408), "error", True, False),
        (fails(400, "no such parameter"), "error", False, False),
        (fails(413, "too large"), "error", False, False),
        (fails(401, "bad key"), "error", False, True),
        (fails(403, "not for you"), "error", False, True),
        (fails(404, "no such model"), "error", False, True),
        (Say("moved", 301, {"Location": "http://127.0.0.1:9/v1"}), "error", False, True),
        (Say('{"error": {"code": "insufficient_quota"}}', 429), "error", False, True),
        (Say('{"error": {"code": "content_filter"}}', 400), "filtered", False, False),
        (Say('{"error": {"message": "your input was flagged"}}', 403), "filtered", False, False),
        (
            Say('{"error": {"innererror": {"code": "ResponsibleAIPolicyViolation"}}}', 400),
            "filtered",
            False,
            False,
        ),
        (Say('{"error": {"code": "content_policy_violation"}}'), "filtered", False, False),
        (Say("<html>proxy</html>"), "garbled", True, False),
        (Say(b"\xff\xfe\x00"), "garbled", True, False),
        (Say(""), "garbled", True, False),
    ],
)
def test_what_kind_of_reply_it_is(
    server: ChatServer, say: Say, outcome: str, again: bool, hopeless: bool
) -> None:
    reply = post(server, say)
    assert reply.exchange.outcome == outcome and reply.exchange.http == say.status
    assert (reply.again, reply.hopeless) == (again, hopeless)


def test_the_servers_words_are_told() -> None:
    assert sort_reply(404, '{"error": {"message": "no\\nmodel x"}}').problem == (
        "HTTP 404 (no model x)"
    )
    assert sort_reply(500, '{"error": "boom"}').problem == "HTTP 500 (boom)"
    for text in ("", "<html>", "[]", '{"error": null}', "[" * 100_000):
        assert sort_reply(500, text).problem == "HTTP 500"


def test_a_connection_that_breaks_is_lost_and_none_at_all_unreached(server: ChatServer) -> None:
    for say in (
        Say("x" * 1000, cut=True),
        Say("late", hang=2),
        Say("x" * 1000, drip=0.05),  # each byte in time, the whole never
        Say("x" * (9 << 20)),
    ):
        reply = post(server, say, timeout=0.3 if len(say.body) < 2000 else 30)
        assert reply.exchange.outcome == "lost" and reply.again, say
    server.close()
    reply = post(server)
    assert reply.exchange.outcome == "unreached" and reply.again


@pytest.mark.parametrize(
    "address", ["", "localhost:8000/v1", "ftp://host/v1", "http://", "http://host:port/v1"]
)
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(RecipeError, match=r"caption\.endpoint"):
        Endpoint(address)


def test_seconds_that_a_server_asks_for() -> None:
    assert [seconds_of(t) for t in ("5", "0.5", " 7 ", "-3", "0")] == [5, 0.5, 7, 0, 0]
    assert [seconds_of(t) for t in ("", "soon", "nan", "inf", "Wed, 99 Foo")] == [0] * 5
    later = datetime.now(UTC) + timedelta(seconds=60)
    assert 50 < seconds_of(format_datetime(later, usegmt=True)) <= 60
    assert seconds_of("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    reply = sort_reply(429, "", "5")
    assert reply.again and reply.wait == 5
    assert sort_reply(400, "", "5").wait == 0
