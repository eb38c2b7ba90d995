"""The arena's server: the page, the next question, its pictures, and votes as JSON.

No answer has an editor's name in it, and a picture's address does not tell whose it is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp

from flows.server.guard import Guard
from kontext.data.pixels import decode_png, encode_png
from kontext.errors import DoubledVote, KontextError, UnknownTask, VoteError
from kontext.evaluate.arena.asking import Arena, Task, rater_name
from kontext.evaluate.arena.contest import IDENTITY, ArenaItem
from kontext.evaluate.arena.gold import PASS, QUESTIONS
from kontext.store.votes import Answer

_MAX_BODY = 4096  # bytes of a vote
_FILES = {
    "": ("page.html", "text/html"),
    "page.js": ("page.js", "text/javascript"),
    "page.css": ("page.css", "text/css"),
}
_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}
_STATUS: dict[type[Exception], int] = {DoubledVote: 409, UnknownTask: 404, VoteError: 400}


class VoteBody(BaseModel):
    """What the page sends."""

    model_config = ConfigDict(extra="forbid", strict=True)

    rater: str = Field(max_length=200)
    task: str = Field(pattern=r"^[0-9a-f]{32}$")
    answers: dict[str, Answer]
    seconds: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] = 0.0


def create_app(arena: Arena, host: str, port: int, invitation: str = "") -> ASGIApp:
    """The app behind the guard against other sites' pages; with an invitation, below that path."""
    page = _Page(arena)
    routes: list[BaseRoute] = [
        Route("/api/next", page.next),
        Route("/api/vote", page.vote, methods=["POST"]),
        Route("/picture/{rater}/{task}/{which}.png", page.picture),
        *(Route(f"/{name}", _file(*file)) for name, file in _FILES.items()),
    ]
    if invitation:
        routes = [Mount(f"/{invitation}", routes=routes)]
    return Guard(Starlette(routes=routes), host, port)


class _Page:
    def __init__(self, arena: Arena) -> None:
        self._arena = arena

    async def next(self, request: Request) -> Response:
        """The next question of ?rater=NAME, or that there is none."""
        return await _answer(lambda: self._asked(request.query_params.get("rater", "")))

    def _asked(self, name: str) -> dict[str, Any]:
        rater = rater_name(name)
        standing, task = self._arena.standing(rater), self._arena.next(rater)
        # not how many: that would tell after each vote whether its answer was known, and which
        known = f"{PASS:.0%} of the known answers are needed"
        excluded = known if standing.status == "excluded" else ""
        done = {"rater": rater, "done": standing.votes + standing.gold, "excluded": excluded}
        return done | ({"task": None} if task is None else self._shown(task))

    def _shown(self, task: Task) -> dict[str, Any]:
        return {
            "task": task.token,
            "instruction": task.item.instruction,
            "questions": list(QUESTIONS),
        }

    async def vote(self, request: Request) -> Response:
        """Take a vote; when it is answered with 200 it is stored."""
        try:
            body = await _body(request)
        except VoteError as error:
            return _refused(error)
        return await _answer(lambda: self._taken(body))

    def _taken(self, body: VoteBody) -> dict[str, Any]:
        rater = rater_name(body.rater)
        self._arena.vote(rater, body.task, body.answers, body.seconds)
        return {"stored": True}

    async def picture(self, request: Request) -> Response:
        """PNG of a question: context, left or right."""
        found = request.path_params
        try:
            task = await run_in_threadpool(
                self._arena.find, rater_name(found["rater"]), found["task"]
            )
        except KontextError as error:
            return _refused(error)
        editors: Mapping[str, str] = {
            "context": IDENTITY,
            "left": task.left,
            "right": task.right,
        }
        if found["which"] not in editors:
            return _refused(UnknownTask("a question has the pictures context, left and right"))
        try:
            data = await run_in_threadpool(self._drawn, task.item, editors[found["which"]])
        except KontextError as error:
            return _refused(error)
        return Response(data, media_type="image/png", headers=_HEADERS)

    def _drawn(self, item: ArenaItem, editor: str) -> bytes:
        """Encoded anew: the bytes of a file tell which library wrote it, and so an editor."""
        return encode_png(decode_png(self._arena.contest.png(item, editor)))


async def _body(request: Request) -> VoteBody:
    """Raises VoteError, of what is wrong in one line."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise VoteError("a vote is sent as application/json")
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > _MAX_BODY:
            raise VoteError(f"a vote has at most {_MAX_BODY} bytes")
    try:
        return VoteBody.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "vote"
        raise VoteError(f"{where}: {first['msg']}") from error


async def _answer(work: Callable[[], dict[str, Any]]) -> Response:
    try:
        return _json(await run_in_threadpool(work))
    except KontextError as error:
        return _refused(error)


def _refused(error: KontextError) -> Response:
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 503)
    return _json({"error": str(error)}, status)


def _json(value: dict[str, Any], status: int = 200) -> Response:
    return JSONResponse(value, status, headers=_HEADERS)


def _file(name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    data = (Path(__file__).parent / name).read_bytes()

    async def answer(_: Request) -> Response:
        return Response(data, media_type=kind, headers=_HEADERS)

    return answer
