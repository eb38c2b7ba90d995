"""The server's app: Prefect's behind the guard, with a login page and the reports of evaluations.

The UI can then link the reports: a browser follows no link from a web page to a file. Prefect's
password covers its API only; the reports have a door of their own for it.
"""

from typing import Any

from prefect.server.api.server import create_app as prefect_app
from prefect.settings import get_current_settings
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from flows.server.guard import Guard
from flows.server.login import Door
from flows.server.password import LOGIN, require
from flows.server.sqlite import take_turns
from tasks.report import report_url
from tasks.workspace import places


def create_app() -> Guard:
    """The app that `kontext up` serves. Raises KontextError where it would be open to everybody."""
    server = get_current_settings().server.api
    password = server.auth_string.get_secret_value() if server.auth_string else ""
    require(server.host, password)
    take_turns()
    app = prefect_app(ignore_cache=True)
    # the UI is of the same origin, and nobody else's pages are answered
    cors: Any = CORSMiddleware
    app.user_middleware = [each for each in app.user_middleware if each.cls is not cors]
    door = Door(password, report_url())
    routes: list[BaseRoute] = [Route(LOGIN, door.login, methods=["GET", "POST"])]
    if url := report_url():
        folder = places().home / "report"
        folder.mkdir(parents=True, exist_ok=True)
        files = StaticFiles(directory=folder, html=True)
        routes.append(Mount(url, door.closed(files), name="report"))
    app.router.routes[:0] = routes  # before the UI's catch-all
    return Guard(app, server.host, server.port)
