"""Who gets into the UI and the reports, in a browser; what a page of another origin gets."""

import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.ui.conftest import Ui

_ATTACK = """async url => {
  const tries = [
    ["GET", "/api/flow_runs/count"], ["POST", "/api/flow_runs/filter"], ["GET", "/report/f00/"],
    ["GET", "/v2/"], ["GET", "/ui-settings"], ["POST", "/login"], ["GET", "/openapi.json"],
  ];
  const got = [];
  for (const [method, path] of tries)
    for (const mode of ["cors", "no-cors"]) {
      const body = method === "POST" ? "{}" : undefined;
      const options = {method, mode, body, credentials: "include", cache: "no-store"};
      try { got.push((await fetch(url + path, options)).type) }
      catch { got.push("failed") }
    }
  const socket = new WebSocket(url.replace("http", "ws") + "/api/events/out", "prefect");
  got.push(await new Promise(done => { socket.onopen = () => done("open");
                                       socket.onerror = () => done("failed"); }));
  return got;
}"""

_FRAME = """url => new Promise(done => {
  const frame = document.createElement("iframe");
  frame.onload = done; frame.src = url; document.body.append(frame);
})"""


@pytest.fixture
def stranger(ui: Ui) -> Iterator[Any]:
    """A page of a browser that has never logged in."""
    context = ui.page.context.browser.new_context(viewport={"width": 1400, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(60_000)
    yield page
    context.close()


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """Another origin on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def _report(ui: Ui) -> str:
    page = ui.home / "report" / "f00" / "index.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("<h1>held-out edits</h1>")
    return f"{ui.url}/report/f00/"


def test_a_password_opens_the_ui_and_the_reports(ui: Ui, stranger: Any) -> None:
    report = _report(ui)
    stranger.goto(f"{ui.url}/v2/deployments")
    stranger.wait_for_url("**/login**")  # Prefect's own page
    stranger.screenshot(path=ui.shots / "login-prefect.png")
    stranger.goto(report)
    stranger.get_by_label("Password of this server").fill("kontext:wrong")
    stranger.get_by_role("button", name="Log in").click()
    stranger.get_by_text("That is not this server's password.").wait_for()
    stranger.screenshot(path=ui.shots / "login.png")
    stranger.get_by_label("Password of this server").fill(ui.password)
    stranger.get_by_role("button", name="Log in").click()
    stranger.get_by_role("heading", name="held-out edits").wait_for()
    stranger.goto(f"{ui.url}/v2/deployments")
    stranger.get_by_text("refresh").first.wait_for()
    stranger.screenshot(path=ui.shots / "logged-in.png")


def test_who_logged_in_on_prefects_page_reads_the_reports_too(ui: Ui, stranger: Any) -> None:
    stranger.goto(f"{ui.url}/v2/deployments")
    stranger.locator("input").first.fill(ui.password)
    stranger.keyboard.press("Enter")
    stranger.get_by_text("refresh").first.wait_for()
    stranger.goto(_report(ui))
    stranger.get_by_role("heading", name="held-out edits").wait_for()


def test_a_page_of_another_origin_gets_nothing(ui: Ui, stranger: Any, elsewhere: str) -> None:
    """Of a browser that is logged in."""
    _report(ui)
    stranger.goto(f"{ui.url}/login#{ui.password}")
    stranger.wait_for_url("**/v2/**")
    stranger.goto(elsewhere)
    seen: list[tuple[int, str]] = []
    stranger.on("response", lambda answer: seen.append((answer.status, answer.url)))
    assert set(stranger.evaluate(_ATTACK, ui.url)) == {"failed", "opaque"}
    stranger.evaluate(_FRAME, f"{ui.url}/v2/")
    stranger.wait_for_timeout(500)
    assert len(seen) > 7 and {status for status, _ in seen} == {403}, seen
