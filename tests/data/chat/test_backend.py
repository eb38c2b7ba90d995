import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from kontext.data.chat.backend import ChatBackend, Patience
from kontext.data.chat.budget import Budget
from kontext.data.chat.endpoint import Endpoint
from kontext.data.chat.prompts import Answer, Fault, Prompt, Wire
from kontext.data.chat.replies import Replies
from kontext.errors import GateError, KontextError, Stopped
from tests.data.chat_server import ChatServer, Say, completion, fails, pictures, serving

FAST = Patience(tries=4, first_wait=0.001, longest_wait=1)
GOOD = {"name": "cat"}


class Pet(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: str


def check(pet: Pet) -> Fault | None:
    return Fault("too_long", "name is too long") if len(pet.name) > 10 else None


def prompt(number: int, **changes: Any) -> Prompt[Pet]:
    values = {
        "key": f"pair{number}",
        "kind": "pet",
        "system": "You name pets.",
        "text": f"pet {number}",
        "pictures": (("the pet", f"pixel{number}"),),
        "answer": Pet,
        "check": check,
    }
    return Prompt(**{**values, **changes})


def number(body: dict[str, Any]) -> int:
    return int(body["messages"][1]["content"][0]["text"].split()[1])


@contextmanager
def backend(
    server: ChatServer, folder: Path, budget: Budget | None = None, **options: Any
) -> Iterator[ChatBackend]:
    parallel = options.pop("parallel", 4)
    endpoint = Endpoint(server.url, timeout=options.pop("timeout", 10), connections=parallel)
    replies = Replies(folder / "replies.sqlite")
    values = {"patience": FAST, "picture_tokens": 10, **options}
    wire = values.pop("wire", Wire("vlm", 0, 50))
    try:
        yield ChatBackend(endpoint, wire, replies, budget or Budget(), str.encode, **values)
    finally:
        endpoint.close()
        replies.close()


def ask(server: ChatServer, folder: Path, prompts: Any = 1, **options: Any) -> list[Answer[Pet]]:
    wanted = [prompt(n) for n in range(prompts)] if isinstance(prompts, int) else prompts
    with backend(server, folder, **options) as asking:
        return asking.ask_all(wanted)


def test_what_is_sent(tmp_path: Path) -> None:
    wire = Wire("vlm", 7, 50, (("top_p", 0.5), ("temperature", None)))
    with serving(lambda body, times: completion(GOOD)) as server:
        (answer,) = ask(server, tmp_path, wire=wire)
    assert answer.status == "ok" and answer.value == Pet(name="cat")
    (body,) = server.bodies
    assert body["model"] == "vlm" and body["seed"] == 7 and body["max_tokens"] == 50
    assert body["top_p"] == 0.5 and "temperature" not in body
    shape = body["response_format"]["json_schema"]["schema"]
    assert shape["required"] == ["name"] and shape["additionalProperties"] is False
    assert pictures(body) == ["data:image/png;base64,cGl4ZWww"]
    assert [part.get("text") for part in body["messages"][1]["content"]] == [
        "pet 0",
        "the pet:",
        None,
    ]


def test_answers_come_in_order_and_many_are_under_way(tmp_path: Path) -> None:
    def speak(body: dict[str, Any], times: int) -> Say:
        return Say(completion({"name": str(number(body))}).body, hang=0.05)

    with serving(speak) as server:
        answers = ask(server, tmp_path, 40, parallel=8)
    assert [a.value and a.value.name for a in answers] == [str(n) for n in range(40)]
    assert 4 <= server.most_at_once <= 8


def test_nothing_is_paid_for_twice(tmp_path: Path) -> None:
    with serving(lambda body, times: completion(GOOD)) as server:
        first = ask(server, tmp_path, 5)
        assert ask(server, tmp_path, 5) == first and len(server.bodies) == 5
        ask(server, tmp_path, 7)
        assert len(server.bodies) == 7
        same = [prompt(1, key="another pair"), prompt(20), prompt(20, key="a third")]
        assert [a.status for a in ask(server, tmp_path, same)] == ["ok"] * 3
        assert len(server.bodies) == 8, "one question, however many pairs have it"
        for other in (
            Wire("another", 0, 50),
            Wire("vlm", 1, 50),
            Wire("vlm", 0, 51),
            Wire("vlm", 0, 50, (("top_p", 1),)),
        ):
            ask(server, tmp_path, 1, wire=other)
        ask(server, tmp_path, [prompt(1, system="Other words."), prompt(1, pictures=())])
        assert len(server.bodies) == 8 + 4 + 2
    with serving(lambda body, times: completion(GOOD)) as moved:
        assert ask(moved, tmp_path, 5) == first and not moved.bodies, "the address does not count"


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (completion("Sure! Here it is:"), "no JSON object"),
        (completion({"name": "far too long a name"}), "name is too long"),
        (completion(""), "no text"),
    ],
)
def test_a_model_is_told_once_what_is_wrong(tmp_path: Path, bad: Say, complaint: str) -> None:
    with serving(lambda body, times: completion(GOOD) if body["messages"][2:] else bad) as server:
        (answer,) = ask(server, tmp_path / "a")
        assert answer.status == "ok" and len(server.bodies) == 2
        assert complaint in server.bodies[1]["messages"][-1]["content"]
        assert ask(server, tmp_path / "a") == [answer] and len(server.bodies) == 2
        server.speak = lambda body, times: bad
        (answer,) = ask(server, tmp_path / "b")
        assert answer.status != "ok" and answer.value is None and len(server.bodies) == 4
        assert ask(server, tmp_path / "b") == [answer] and len(server.bodies) == 4


@pytest.mark.parametrize(
    ("say", "status", "sent", "again"),
    [
        (completion(None, message={"content": None, "refusal": "no"}), "refused", 1, 0),
        (completion(GOOD, finish_reason="content_filter"), "refused", 1, 0),
        (Say('{"error": {"code": "content_filter"}}', 400), "refused", 1, 0),
        (completion('{"na', finish_reason="length"), "truncated", 1, 0),
        (fails(400, "no such parameter"), "failed", 1, 1),
        (fails(413), "failed", 1, 1),
        (fails(403, "blocked by a gateway"), "failed", 1, 1),
        (Say("<html>"), "malformed", 2, 2),
        (fails(500), "unanswered", 4, 4),
        (fails(429), "unanswered", 4, 4),
        (Say("x" * 99, cut=True), "unanswered", 4, 4),
        (Say("late", hang=2), "unanswered", 4, 4),
    ],
)
def test_every_trouble_is_a_status_of_its_own_row(
    tmp_path: Path, say: Say, status: str, sent: int, again: int
) -> None:
    """Others are answered. `again`: what a second run sends, because it may go well then."""

    def speak(body: dict[str, Any], times: int) -> Say:
        return say if number(body) == 1 else completion(GOOD)

    with serving(speak) as server:
        for wanted in (2 + sent, 2 + sent + again):
            answers = ask(server, tmp_path, 3, timeout=1 if say.hang else 30, parallel=1)
            assert [a.status for a in answers] == ["ok", status, "ok"]
            assert len(server.bodies) == wanted
        server.speak = lambda body, times: completion(GOOD)
        late = ask(server, tmp_path, 3)[1].status
        assert late == ("ok" if again else status), "what passes is asked again, nothing else"


def test_what_passes_is_sent_again_until_it_has_passed(tmp_path: Path) -> None:
    troubles = [fails(503), fails(429, Retry_After="0"), Say("cut off", cut=True)]

    def speak(body: dict[str, Any], times: int) -> Say:
        return troubles[times] if times < 3 else completion(GOOD)

    with serving(speak) as server:
        assert [a.status for a in ask(server, tmp_path, 5)] == ["ok"] * 5
        assert len(server.bodies) == 20


def test_the_server_is_given_the_time_it_asks_for_and_by_everybody(tmp_path: Path) -> None:
    def speak(body: dict[str, Any], times: int) -> Say:
        if number(body) == 0 and not times:
            return fails(429, Retry_After="0.5")
        return Say(completion(GOOD).body, hang=0.05)

    with serving(speak) as server:
        assert [a.status for a in ask(server, tmp_path, 6, parallel=1)] == ["ok"] * 6
        assert min(after - server.at[0] for after in server.at[1:]) >= 0.5
    with serving(speak) as server:
        ask(server, tmp_path / "many", 40, parallel=4)
        hit = next(n for n, body in enumerate(server.bodies) if not number(body))
        early = [at for at in server.at[hit + 1 :] if at < server.at[hit] + 0.5]
        assert len(early) <= 8, "what was under way, and then the others wait too"


def test_waits_are_exponential_reproducible_and_capped() -> None:
    patience = Patience(first_wait=1, longest_wait=60, seed=3)
    waits = [patience.wait("pair", attempt, 0) for attempt in range(1, 9)]
    assert waits == [patience.wait("pair", attempt, 0) for attempt in range(1, 9)]
    assert all(2**n / 2 <= wait <= min(2**n, 60) for n, wait in enumerate(waits[:6]))
    assert waits[-1] == 60 and patience.wait("pair", 1000, 0) == 60
    assert patience.wait("other", 1, 0) != waits[0] != Patience(seed=4).wait("pair", 1, 0)
    assert patience.wait("pair", 1, 30) == 30, "as the server asks"
    assert patience.wait("pair", 1, 3600) == 60, "within the cap"


def test_what_no_request_can_pass_ends_the_work_at_once(tmp_path: Path) -> None:
    for say in (fails(401, "bad key"), fails(404, "no model vlm"), fails(403), Say("", 307)):
        with serving(lambda body, times, say=say: say) as server:
            with pytest.raises(KontextError, match=f"HTTP {say.status}.*caption.endpoint") as info:
                ask(server, tmp_path, 100, parallel=2)
            assert len(server.bodies) <= 3 and len(str(info.value).splitlines()) == 1


def test_a_server_that_is_away_ends_the_work_and_replies_are_kept(tmp_path: Path) -> None:
    def speak(body: dict[str, Any], times: int) -> Say:
        return completion(GOOD) if number(body) < 10 else fails(502)

    with serving(speak) as server:
        with pytest.raises(KontextError, match=r"does not answer: HTTP 502"):
            ask(server, tmp_path, 200, parallel=4)
        failed = len(server.bodies) - 10
        assert 16 <= failed <= 32, "four prompts without any answer, and what was under way"
        server.speak = lambda body, times: completion(GOOD)
        assert [a.status for a in ask(server, tmp_path, 200)] == ["ok"] * 200
        assert len(server.bodies) == 10 + failed + 190
    with pytest.raises(KontextError, match="no connection"):
        ask(server, tmp_path / "b", 1)


def test_a_server_that_refuses_all_is_not_asked_for_long(tmp_path: Path) -> None:
    with serving(lambda body, times: fails(400, "no such field")) as server:
        with pytest.raises(KontextError, match=r"refuses 50 requests in a row: HTTP 400 \(no such"):
            ask(server, tmp_path, 1000, parallel=4)
        assert 50 <= len(server.bodies) <= 60


def test_a_cost_above_what_was_held_is_expected_from_then_on(tmp_path: Path) -> None:
    with serving(lambda body, times: completion(GOOD, (900, 50))) as server:
        answers = ask(server, tmp_path, 30, budget=Budget(tokens=10_000), parallel=1)
        assert len(server.bodies) == 10, "not one too many after the first"
        assert [a.status for a in answers] == ["ok"] * 10 + ["budget"] * 20


def test_a_model_whose_answers_are_useless_is_not_paid_for_long(tmp_path: Path) -> None:
    with serving(lambda body, times: completion("I like pets")) as server:
        for _ in range(2):
            with pytest.raises(GateError, match=r"none of the first 100 .*100 malformed.*JSON"):
                ask(server, tmp_path, 1000, parallel=4)
            assert len(server.bodies) <= 210, "also not by a second run"


def test_the_time_is_up(tmp_path: Path) -> None:
    with serving(lambda body, times: completion(GOOD)) as server:
        with pytest.raises(Stopped):
            ask(server, tmp_path, 50, stop=lambda: len(server.bodies) >= 5)
        assert 5 <= len(server.bodies) < 20
        ask(server, tmp_path, 50)
        assert len(server.bodies) == 50


@pytest.mark.parametrize("parallel", [1, 8])
def test_a_budget_of_requests_holds(tmp_path: Path, parallel: int) -> None:
    def speak(body: dict[str, Any], times: int) -> Say:
        return fails(500) if number(body) == 2 and times < 2 else completion(GOOD)

    with serving(speak) as server:
        answers = ask(server, tmp_path, 30, budget=Budget(requests=12), parallel=parallel)
        assert len(server.bodies) == 12
        done = [a.status for a in answers]
        assert set(done) == {"ok", "budget"} and done.count("ok") in (10, 11)
        assert ask(server, tmp_path, 30, budget=Budget(requests=12)) == answers
        assert len(server.bodies) == 12, "what was spent before counts"
        ask(server, tmp_path, 30, budget=Budget(requests=32))
        assert len(server.bodies) == 32


@pytest.mark.parametrize("parallel", [1, 8])
def test_a_budget_of_tokens_holds_and_says_which_pairs_it_left(
    tmp_path: Path, parallel: int
) -> None:
    """The first pairs get it, however many requests are under way."""

    def speak(body: dict[str, Any], times: int) -> Say:
        cost = 10 + number(body) % 7
        return Say(completion(GOOD, (cost, 20)).body, hang=0.01)

    with serving(speak) as server:
        budget = Budget(tokens=1000)
        answers = ask(server, tmp_path, 60, budget=budget, parallel=parallel)
        spent = sum(30 + number(body) % 7 for body in server.bodies)
        assert spent <= 1000 and spent > 700
        done = [a.status for a in answers]
        assert done == ["ok"] * len(server.bodies) + ["budget"] * (60 - len(server.bodies))
        assert sorted(map(number, server.bodies)) == list(range(len(server.bodies)))


def test_a_reply_that_says_no_tokens_counts_as_the_most_it_can_be(tmp_path: Path) -> None:
    with serving(lambda body, times: completion(GOOD, tokens=None)) as server:
        with backend(server, tmp_path, budget=Budget(tokens=1000)) as asking:
            answers = asking.ask_all([prompt(n) for n in range(20)])
            held = [sent.cost.tokens for sent in asking.replies.sent(a.request for a in answers)]
        assert min(held) > 50 and sum(held) <= 1000 < sum(held) + min(held)


SPEECH = [
    *[completion(GOOD)] * 6,
    completion(GOOD, tokens=None),
    completion("```json\n" + json.dumps(GOOD) + "\n```"),
    completion("no idea"),
    completion({"name": "a very long name"}),
    completion(None, message={"content": None, "refusal": "no"}),
    Say('{"error": {"code": "content_filter"}}', 400),
    Say("{", 200),
    Say("x" * 500, cut=True),
    fails(400),
    fails(429, Retry_After="0"),
    fails(500),
    fails(503),
]


@pytest.mark.parametrize("seed", range(4))
def test_whatever_a_server_does_rules_hold(tmp_path: Path, seed: int) -> None:
    """Any mixture of replies, in runs that are stopped at any point: what is settled is settled."""
    draw, settled, sent = random.Random(seed), set[str](), 0
    lock = threading.Lock()

    def speak(body: dict[str, Any], times: int) -> Say:
        nonlocal sent
        question = json.dumps(body["messages"])
        with lock:
            assert question not in settled, "paid for twice"
            sent += 1
            say = draw.choice(SPEECH)
            filtered = say.status == 400 and "content_filter" in str(say.body)
            if filtered or (say.status == 200 and not say.cut and len(say.body) > 1):
                settled.add(question)
            return say

    budget, earlier = 4000, dict[str, Answer[Pet]]()
    with serving(speak) as server:
        for stop_at in (5, 12, 30, 50, 90, 10_000):
            try:
                answers = ask(
                    server,
                    tmp_path,
                    40,
                    budget=Budget(tokens=budget),
                    stop=lambda at=stop_at: sent >= at,
                )
            except (Stopped, KontextError):  # the server may look as if it were away
                continue
            for answer in answers:
                assert (answer.status == "ok") == (answer.value is not None)
                known = earlier.get(answer.request)
                assert known is None or known == answer, "a good answer stays"
            earlier |= {answer.request: answer for answer in answers if answer.status == "ok"}
        with backend(server, tmp_path) as asking:
            requests = asking.requests([prompt(n) for n in range(40)])
            costs = [s.cost.tokens for s in asking.replies.sent(requests)]
        assert sum(costs) <= budget and len(costs) == sent > 20
        assert not server.errors


def test_the_longest_answer_is_what_the_request_says() -> None:
    assert Wire("m", 0, 50).longest_answer() == 50
    assert Wire("m", 0, 50, (("max_tokens", None),)).longest_answer() == 50
    fields = (("max_tokens", None), ("max_completion_tokens", 900))
    assert Wire("m", 0, 50, fields).longest_answer() == 900


def test_the_digest_is_of_what_is_asked(tmp_path: Path) -> None:
    wire = Wire("vlm", 0, 50)
    assert wire.digest(prompt(1)) == wire.digest(prompt(1, key="other")) != wire.digest(prompt(2))
    assert prompt(1).wording() == prompt(2).wording() != prompt(1, system="Other.").wording()
