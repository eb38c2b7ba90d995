"""The login page, and the door to pages that a browser opens by a plain link.

Prefect's UI keeps the password in the browser's local storage and sends it with each call of the
API. A link carries no such header, so the login also sets a cookie, which opens the reports and
nothing else. `kontext up` prints the address `/login#PASSWORD`; what follows # never leaves the
browser.
"""

import hashlib
import hmac

from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from flows.server.password import basic

_PRIVATE = {"cache-control": "no-store", "referrer-policy": "no-referrer"}


class Door:
    """Asks for one password.

    Args:
        password: empty where everybody may enter.
        path: of the pages that the cookie opens.
    """

    def __init__(self, password: str, path: str) -> None:
        self._password, self._path = password, path
        key = f"kontext {path}".encode()
        self._token = hmac.new(password.encode(), key, hashlib.sha256).hexdigest()

    async def login(self, request: Request) -> Response:
        """GET: the page. POST with the password as basic auth: the cookie."""
        if request.method != "POST":
            return HTMLResponse(_PAGE, headers=_PRIVATE) if self._password else _to_ui()
        if not self._knows(request):
            return Response(status_code=401)
        answer = Response(status_code=204)
        answer.set_cookie(
            _cookie(request), self._token, path=self._path, httponly=True, samesite="strict"
        )
        return answer

    def closed(self, app: ASGIApp) -> ASGIApp:
        """`app` for those who know the password; others get 401, in a browser the login page."""

        async def enter(scope: Scope, receive: Receive, send: Send) -> None:
            request = HTTPConnection(scope)
            if self._knows(request):
                await app(scope, receive, send)
                return
            answer = Response("the server's password is needed\n", 401, media_type="text/plain")
            if "text/html" in request.headers.get("accept", ""):
                answer = HTMLResponse(_PAGE, 401, headers=_PRIVATE)
            else:
                answer.headers["www-authenticate"] = 'Basic realm="kontext"'
            await answer(scope, receive, send)

        return enter

    def _knows(self, request: HTTPConnection) -> bool:
        if not self._password:
            return True
        header = request.headers.get("authorization", "")
        cookie = request.cookies.get(_cookie(request), "")
        return _same(header, basic(self._password)) or _same(cookie, self._token)


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(), wanted.encode())


def _cookie(request: HTTPConnection) -> str:
    """Cookies are shared by all ports of a host: each server has a name of its own."""
    return f"kontext-{request.url.port or 80}"


def _to_ui() -> Response:
    return RedirectResponse("/v2", 303)


# `prefect-password` is where both of Prefect's UIs look (their own login pages write it)
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>kontext</title>
<style>
 body { font: 16px system-ui, sans-serif; max-width: 26rem; margin: 20vh auto; padding: 0 1rem }
 input, button { font: inherit; padding: .4rem .6rem }
 input { width: 16rem }
</style>
<form hidden>
 <p><label>Password of this server<br>
 <input type="password" autocomplete="current-password" required autofocus></label>
 <button>Log in</button>
 <p id="said">It is in <code>KONTEXT_HOME/prefect/password</code>; <code>kontext up</code> prints an
 address that logs in.
</form>
<script>
const form = document.querySelector("form"), atLogin = location.pathname.endsWith("/login");
const encoded = text => btoa(String.fromCharCode(...new TextEncoder().encode(text)));
const given = atLogin ? decodeURIComponent(location.hash.slice(1)) : "";
if (given) history.replaceState(null, "", location.pathname);
async function enter(basic) {
  const headers = {Authorization: `Basic ${basic}`};
  const answer = await fetch("/login", {method: "POST", headers});
  if (!answer.ok) return false;
  localStorage.setItem("prefect-password", basic);
  atLogin ? location.replace("/v2") : location.reload();
  return true;
}
const known = given ? encoded(given) : localStorage.getItem("prefect-password");
const ask = () => { form.hidden = false; form.querySelector("input").focus(); };
known && navigator.cookieEnabled ? enter(known).then(done => done || ask()) : ask();
form.onsubmit = async event => {
  event.preventDefault();
  if (!await enter(encoded(form.querySelector("input").value)))
    document.getElementById("said").textContent = "That is not this server's password.";
};
</script>
"""
