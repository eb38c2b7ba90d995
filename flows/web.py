"""The server's app: Prefect's, with the reports of evaluations beside it at /report.

The UI can then link them: a browser follows no link from a web page to a file. Prefect's password
covers its API only, so a server that has one shows no reports.
"""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from prefect.server.api.server import create_app as prefect_app
from starlette.routing import Mount

from tasks.report import report_url
from tasks.workspace import places


def create_app() -> FastAPI:
    """The app that `kontext up` serves."""
    app = prefect_app()
    if url := report_url():
        folder = places().home / "report"
        folder.mkdir(parents=True, exist_ok=True)
        files = StaticFiles(directory=folder, html=True)
        app.router.routes.insert(0, Mount(url, files, name="report"))  # before the UI's catch-all
    return app
