"""Three raters vote in a browser; what they say of a planted order, and who is not counted."""

import json
from pathlib import Path
from typing import Any

from tests.evaluate.arena import world
from tests.evaluate.arena.world import Person
from tests.flows.arena.test_web import kontext, served

KEYS = {"left": "ArrowLeft", "right": "ArrowRight", "tie": "ArrowDown", "skip": "s"}
ASKED = """number => document.getElementById("ask").ariaBusy === "false" &&
  document.getElementById("who").textContent.endsWith(`, ${number} answered`)"""


def test_three_raters_vote_and_the_planted_order_comes_out(
    browser: Any, shots: Path, tmp_path: Path
) -> None:
    world.home(tmp_path, ("a", "b", "c"))
    with served(tmp_path, *(w for e in "abc" for w in ("--editor", e))) as (_, client):
        for person, times in (
            (Person("Ann", 0.08), 30),
            (Person("Ben", 0.08), 30),
            (Person("Mallory", careless=True), 20),
        ):
            page = begin(browser, str(client.base_url), person.name)
            for number in range(times):
                vote(page, person, number)
            page.screenshot(path=shots / f"arena-{person.name}.png", full_page=True)
            if person.name == "Mallory":
                said = page.get_by_role("alert")
                said.get_by_text(
                    "kept but not counted: 80% of the known answers are needed"
                ).wait_for()
            page.context.close()
    (pool,) = json.loads(kontext(tmp_path, "arena", "ratings", "--json"))["pools"]
    assert [r["status"] for r in pool["raters"]] == ["counted", "counted", "excluded"]
    for question in pool["questions"]:
        assert [row["editor"] for row in question["ratings"]] == ["a", "b", "c"]
    assert "mallory: excluded, 0 of" in kontext(tmp_path, "arena", "ratings")


def test_a_vote_waits_in_the_browser_while_the_server_is_gone(
    browser: Any, shots: Path, tmp_path: Path
) -> None:
    world.home(tmp_path)
    person = Person("Ann")
    with served(tmp_path) as (_, client):
        port = str(client.base_url.port)
        page = begin(browser, str(client.base_url), person.name, width=390)
        vote(page, person, 0)
        page.wait_for_function(ASKED, arg=1)
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("Backspace")
        page.get_by_role("heading", name="Which one does what was asked?").wait_for()
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("s")
    page.keyboard.press("ArrowDown")
    page.get_by_text("The server does not answer.").wait_for()
    page.screenshot(path=shots / "arena-phone-waiting.png", full_page=True)
    with served(tmp_path, "--port", port):
        page.wait_for_function(ASKED, arg=2)
        assert page.get_by_role("alert").is_hidden()
        page.get_by_role("button", name="right edit").click()  # a tap on a picture is an answer
        page.get_by_role("heading", name="Which one keeps the rest as it was?").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.context.close()
    sql = "SELECT instruction, consistency, quality FROM votes ORDER BY voted_at DESC LIMIT 1"
    assert json.loads(kontext(tmp_path, "arena", "ratings", "--json"))["pools"]
    assert json.loads(kontext(tmp_path, "sql", sql, "--format", "json")) == [
        {"instruction": "left", "consistency": "skip", "quality": "tie"}
    ]


def begin(browser: Any, url: str, name: str, width: int = 1280) -> Any:
    """A page of a browser of one's own, after the name was given."""
    height = 844 if width < 500 else 900
    page = browser.new_context(viewport={"width": width, "height": height}).new_page()
    page.set_default_timeout(60_000)
    page.goto(url)
    page.get_by_label("Your name").fill(name)
    page.keyboard.press("Enter")
    return page


def vote(page: Any, person: Person, number: int) -> None:
    """Look at the pictures that the page shows, and answer with the keyboard."""
    page.wait_for_function(ASKED, arg=number)
    page.get_by_role("heading", name="Which one does what was asked?").wait_for()
    links = [
        page.locator(f"#{name}").evaluate("i => i.src") for name in ("context", "left", "right")
    ]
    assert not [each for each in links if "identity" in each or "oracle" in each]
    answers = person.answers(*(page.request.get(link).body() for link in links))
    for answer in answers.values():
        page.keyboard.press(KEYS[answer])
