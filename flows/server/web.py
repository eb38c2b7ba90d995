"""The server's app: Prefect's behind the guard, with a login page and the reports of evaluations.

The UI can then link the reports: a browser follows no link from a web page to a file. Prefect's
password covers its API only; the reports have a door of their own for it.

On SQLite the server waits for a lock 10 seconds instead of Prefect's minute. Its background tasks
can wait for each other (seen with 3.8.8: nothing moved for 60.1 s after a stage was done, until the
first of them gave up); the API answers 503 then, and clients ask again.
"""

from typing import Any

from prefect.server.api.server import create_app as prefect_app
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.settings import get_current_settings
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from flows.server.guard import Guard
from flows.server.login import Door
from flows.server.password import LOGIN, require
from tasks.report import report_url
from tasks.workspace import places

SQLITE_PATIENCE = 10  # seconds

_prefects_setup = AioSqliteConfiguration.setup_sqlite


def _setup(self: AioSqliteConfiguration, connection: Any, record: Any) -> None:
    """Prefect's set-up of a new connection, then our patience."""
    _prefects_setup(self, connection, record)
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {1000 * SQLITE_PATIENCE}")
    cursor.close()


def create_app() -> Guard:
    """The app that `kontext up` serves. Raises KontextError where it would be open to everybody."""
    server = get_current_settings().server.api
    password = server.auth_string.get_secret_value() if server.auth_string else ""
    require(server.host, password)
    AioSqliteConfiguration.setup_sqlite = _setup  # type: ignore[method-assign, assignment]
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
