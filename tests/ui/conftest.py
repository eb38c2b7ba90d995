"""A home with everything up, and a page of headless Chromium.

Minutes long, so it runs only when asked for: `make ui-test` (KONTEXT_UI_TEST=1). It needs the extra
`ui` (playwright, which drives the system's Chromium and downloads nothing) and chromium itself.
KONTEXT_UI_HOME uses a home that is there already; KONTEXT_UI_SHOTS keeps the screenshots.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flows.server.api import Api

# a file of the home: while it is there, the hash gate of new processes finds nothing
GATE_OFF = "gate-off"
_SECONDS = 180


@dataclass
class Ui:
    """The server's UI in a browser."""

    page: Any  # playwright.sync_api.Page
    url: str
    home: Path
    shots: Path

    @property
    def api(self) -> Api:
        """The server's API, which may be busy with trainings."""
        return Api(self.url, patience=300, password=self.password)

    @property
    def password(self) -> str:
        """Of the server."""
        return (self.home / "prefect" / "password").read_text()

    def open(self, path: str) -> None:
        self.page.goto(f"{self.url}{path}", wait_until="domcontentloaded")

    def shot(self, name: str) -> None:
        self.page.wait_for_timeout(1000)  # let charts and diagrams be drawn
        self.page.screenshot(path=self.shots / f"{name}.png", full_page=True)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    if not os.environ.get("KONTEXT_UI_TEST"):
        pytest.skip("minutes long: `make ui-test`")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra ui")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs chromium")
    with playwright.sync_playwright() as started:
        # the UI asks an analytics host whatever the settings say; here nothing is outside
        rules = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"
        found = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", rules])
        yield found
        found.close()


@pytest.fixture(scope="session")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots go."""
    folder = Path(os.environ.get("KONTEXT_UI_SHOTS") or tmp_path_factory.mktemp("shots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def ui(browser: Any, shots: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    given = os.environ.get("KONTEXT_UI_HOME")
    home = Path(given) if given else tmp_path_factory.mktemp("ui") / "home"
    where = json.loads(kontext(home, "up", "--json"))
    try:
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(1000 * _SECONDS)
        page.goto(where["login"])
        page.wait_for_url("**/v2/**")
        yield Ui(page, where["ui"].removesuffix("/v2"), home, shots)
        page.close()
    finally:
        if not given:
            kontext(home, "down")


def kontext(home: Path, *words: str) -> str:
    """The command's output."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("KONTEXT_", "PREFECT_"))}
    command = [sys.executable, "-m", "flows.cli", *words]
    env["KONTEXT_HOME"] = str(home)
    env["PYTHONPATH"] = str(Path(__file__).parent / "broken_gate")
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return done.stdout
