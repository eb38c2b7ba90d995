"""The server's app: Prefect's, with the reports of evaluations beside it at /report.

The UI can then link them: a browser follows no link from a web page to a file. Prefect's password
covers its API only, so a server that has one shows no reports.

On SQLite the server waits for a lock 10 seconds instead of Prefect's minute. Its background tasks
can wait for each other (seen with 3.8.8: nothing moved for 60.1 s after a stage was done, until the
first of them gave up); the API answers 503 then, and clients ask again.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from prefect.server.api.server import create_app as prefect_app
from prefect.server.database.configurations import AioSqliteConfiguration
from starlette.routing import Mount

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


def create_app() -> FastAPI:
    """The app that `kontext up` serves."""
    AioSqliteConfiguration.setup_sqlite = _setup  # type: ignore[method-assign, assignment]
    app = prefect_app()
    if url := report_url():
        folder = places().home / "report"
        folder.mkdir(parents=True, exist_ok=True)
        files = StaticFiles(directory=folder, html=True)
        app.router.routes.insert(0, Mount(url, files, name="report"))  # before the UI's catch-all
    return app
