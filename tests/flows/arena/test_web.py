"""The arena over HTTP: a whole vote, what is refused, and that no answer tells who made what."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from starlette.testclient import TestClient
from typer.testing import CliRunner

from flows import cli
from flows.arena.serve import home_key
from flows.arena.web import create_app
from kontext.errors import KontextError
from kontext.evaluate.arena.asking import Arena
from kontext.evaluate.arena.contest import ArenaItem
from kontext.evaluate.arena.gold import QUESTIONS
from tests.evaluate.arena import world
from tests.evaluate.arena.world import Person

LEFT = dict.fromkeys(QUESTIONS, "left")
HERE = "http://127.0.0.1:4300"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("web")
    world.home(folder, items=6)
    return folder


@pytest.fixture(scope="module")
def arena(home: Path) -> Iterator[Arena]:
    with closing(world.book(home)) as book:
        yield Arena(world.contest(home), book, b"k" * 32)


@pytest.fixture
def client(arena: Arena) -> TestClient:
    return TestClient(create_app(arena, "127.0.0.1", 4300), HERE, raise_server_exceptions=False)


def asked(client: Any, rater: str = "ann") -> dict[str, Any]:
    return dict(client.get("/api/next", params={"rater": rater}).json())


def vote(client: Any, rater: str, task: str, **change: Any) -> httpx.Response:
    body = {"rater": rater, "task": task, "answers": LEFT, "seconds": 2.5} | change
    return client.post("/api/vote", json=body)


def test_a_rater_sees_pictures_and_votes_by_them(client: TestClient, arena: Arena) -> None:
    person = Person("Ann  Smith")
    for number in range(6):
        task = asked(client, person.name)
        assert task["rater"] == "ann smith" and task["done"] == number
        folder = f"/picture/ann smith/{task['task']}"
        shown = [client.get(f"{folder}/{name}.png") for name in ("context", "left", "right")]
        assert {one.headers["content-type"] for one in shown} == {"image/png"}
        answers = person.answers(*(one.content for one in shown))
        assert vote(client, "Ann Smith", task["task"], answers=answers).json() == {"stored": True}
    votes = [one for one in arena.book.votes if one.rater == "ann smith"]
    assert len(votes) == 6 and votes[0].seconds == 2.5
    assert all(v.instruction in ("left", "right") for v in votes)


def test_no_answer_has_an_editors_name_in_it(client: TestClient, arena: Arena) -> None:
    names = {"oracle", "identity", "wrong", "gold", "editor"}
    task = asked(client)
    answers = [client.get(path) for path in ("/", "/page.js", "/page.css")]
    said = [one.text for one in answers if one.is_success]
    assert len(said) == 3
    said += [json.dumps(task), str(client.get(f"/picture/ann/{task['task']}/left.png").headers)]
    assert set(task) == {"rater", "done", "excluded", "task", "instruction", "questions"}
    for text in said:
        assert not [name for name in names - {"gold"} if name in text]
    assert "default-src 'self'" in answers[0].headers["content-security-policy"]


def test_no_picture_tells_which_library_wrote_its_file(arena: Arena) -> None:
    """One editor's files are written by other means, with a text inside; what is sent is alike."""
    sent = []
    for foreign in (False, True):
        contest = replace(arena.contest, png=partial(_written, arena.contest.png, foreign))
        other = Arena(contest, arena.book, b"k" * 32)
        client = TestClient(create_app(other, "127.0.0.1", 4300), HERE)
        task = asked(client, "eve")["task"]
        shown = [client.get(f"/picture/eve/{task}/{name}.png") for name in ("left", "right")]
        sent.append([one.content for one in shown])
    assert sent[0] == sent[1]
    assert not [data for data in sent[1] if b"tEXt" in data]


def _written(png: Any, foreign: bool, item: ArenaItem, editor: str) -> bytes:
    data = bytes(png(item, editor))
    if not foreign:
        return data
    out, text = io.BytesIO(), PngInfo()
    text.add_text("editor", editor)
    Image.open(io.BytesIO(data)).save(out, "PNG", compress_level=0, pnginfo=text)
    return out.getvalue()


def test_what_is_wrong_is_said_in_one_line(client: TestClient) -> None:
    task = asked(client)["task"]
    assert vote(client, "ann", task).status_code == 200
    for status, said, answer in (
        (409, "ann has voted on this pair already", vote(client, "ann", task)),
        (404, "no such item in this arena: reload the page", vote(client, "ann", "0" * 32)),
        (404, "no such item in this arena: reload the page", vote(client, "ben", task)),
        (400, "task: String should match", vote(client, "ann", "../e")),
        (
            400,
            "answers.quality: Input should be",
            vote(client, "ann", task, answers=LEFT | {"quality": "both"}),
        ),
        (400, "a vote answers instruction", vote(client, "ann", task, answers={})),
        (400, "a rater's name has", vote(client, "<b>", task)),
        (400, "more: Extra inputs", vote(client, "ann", task, more=1)),
        (400, "seconds: Input should be", vote(client, "ann", task, seconds=-1)),
        (400, "a vote has at most", vote(client, "a" * 5000, task)),
        (400, "a vote is sent as", client.post("/api/vote", content=b"{}")),
        (
            400,
            "vote: Invalid JSON",
            client.post("/api/vote", content=b"{", headers={"content-type": "application/json"}),
        ),
        (400, "a rater's name has", client.get("/api/next")),
        (404, "no such item", client.get(f"/picture/ann/{'0' * 32}/left.png")),
        (404, "a question has the pictures", client.get(f"/picture/ann/{task}/oracle.png")),
    ):
        assert answer.status_code == status, answer.text
        assert answer.json()["error"].startswith(said), answer.text


def test_pages_of_others_get_nothing(arena: Arena) -> None:
    client = TestClient(create_app(arena, "127.0.0.1", 4300), "http://evil.example")
    assert client.get("/api/next?rater=ann").status_code == 421
    here = TestClient(create_app(arena, "127.0.0.1", 4300), HERE)
    origin = {"origin": "http://evil.example"}
    assert here.post("/api/vote", json={}, headers=origin).status_code == 403


def test_where_others_reach_it_the_link_is_secret(arena: Arena) -> None:
    client = TestClient(create_app(arena, "0.0.0.0", 4300, "s3cret"), "http://10.0.0.7:4300")
    assert client.get("/").status_code == client.get("/api/next?rater=ann").status_code == 404
    assert client.get("/s3cret/").status_code == 200
    assert asked(TestClient(client.app, "http://10.0.0.7:4300/s3cret"))["rater"] == "ann"


def test_the_key_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    key = home_key(tmp_path)
    assert key == home_key(tmp_path) and (tmp_path / "arena.key").stat().st_mode & 0o77 == 0
    (tmp_path / "arena.key").write_bytes(b"short")
    with pytest.raises(KontextError, match="is damaged"):
        home_key(tmp_path)


@contextmanager
def served(home: Path, *more: str) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """`kontext arena` as a process, and a client of it."""
    command = [sys.executable, "-m", "flows.cli", "arena", "--port", "0", "--json", *more]
    env = {**os.environ, "KONTEXT_HOME": str(home)}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            text = ""
            while not text.endswith("}\n"):
                line = process.stdout.readline()
                assert line, "the server has ended"
                text += line
            with httpx.Client(base_url=json.loads(text)["url"], timeout=60) as client:
                yield process, client
        finally:
            process.kill()


def kontext(home: Path, *words: str) -> str:
    done = CliRunner().invoke(cli.app, list(words), env={"KONTEXT_HOME": str(home)})
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_server_that_is_killed_loses_no_vote(tmp_path: Path) -> None:
    world.home(tmp_path, items=6)
    done = []
    with served(tmp_path) as (process, client):
        for _ in range(3):
            task = asked(client)["task"]
            assert vote(client, "ann", task).status_code == 200
            done.append(task)
        waiting = asked(client)["task"]
        process.send_signal(signal.SIGKILL)
    with served(tmp_path) as (process, client):
        assert asked(client)["done"] == 3
        assert [vote(client, "ann", task).status_code for task in done] == [409] * 3
        assert vote(client, "ann", waiting).status_code == 200  # the page that was open goes on
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    said = json.loads(kontext(tmp_path, "sql", "SELECT count(*) n FROM votes", "--format", "json"))
    assert said == [{"n": 4}]
    found = json.loads(kontext(tmp_path, "arena", "ratings", "--json"))
    (pool,) = found["pools"]
    assert found["evaluation"] == "e" and pool["pool"] == "people"
    assert pool["raters"][0]["said"].startswith("ann: not counted yet")
