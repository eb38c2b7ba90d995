"""Servers that speak as the exchanges do: real HTTP on this machine, benign hashes only."""

import base64
import json
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NCMEC_XML = "https://hashsharing.ncmec.org/hashsharing/v2"
USER, PASSWORD = "somebody", "a-secret-word"
BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
KEYS = "fetch-key-1,subscription-2"


@dataclass
class Exchange:
    """What a server knows, and how it misbehaves."""

    url: str = ""
    entries: list[dict] = field(default_factory=list)
    page: int = 1000
    broken: str = ""  # "401", "429", "500", "hang", "trickle", "garbage", "html"
    after: int = 0  # requests that are answered well before that
    asked: list[str] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    exchange: Exchange

    def log_message(self, *_: object) -> None:
        pass

    def reply(self, body: str, status: int = 200, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def misbehaves(self) -> bool:
        known = self.exchange
        known.asked.append(self.path)
        if not known.broken or len(known.asked) <= known.after:
            return False
        if known.broken.isdigit():
            self.reply("go away", int(known.broken))
        elif known.broken == "hang":
            time.sleep(60)
        elif known.broken == "trickle":
            self.send_response(200)
            self.end_headers()
            for _ in range(600):
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.1)
        elif known.broken == "html":
            self.reply("<html><body>log in first</body></html>", kind="text/html")
        else:
            self.reply("\x00\x01 not what was asked for {<")
        return True

    def do_GET(self) -> None:
        try:
            if not self.misbehaves():
                self.answer(urllib.parse.urlsplit(self.path))
        except (BrokenPipeError, ConnectionResetError):
            pass  # who asked has gone


class Ncmec(_Handler):
    """`entries` are {member, id, type, at, fingerprints} or without fingerprints: deleted."""

    def answer(self, url: urllib.parse.SplitResult) -> None:
        query = urllib.parse.parse_qs(url.query)
        if self.headers["Authorization"] != BASIC or url.path != "/v2/entries":
            return self.reply("", 401)
        since, until = (_seconds(query[name][0]) for name in ("from", "to"))
        found = [one for one in self.exchange.entries if since <= one["at"] < until]
        start = int(query.get("start", ["0"])[0])
        shown, rest = found[start : start + self.exchange.page], len(found) - start
        text = f'<?xml version="1.0" encoding="UTF-8"?><queryResult xmlns="{NCMEC_XML}">'
        for group in ("image", "video"):
            own = [one for one in shown if one["type"] == group]
            if own:
                latest = _stamp(max(one["at"] for one in own))
                rows = "".join(map(_entry, own))
                text += f'<{group}s count="{len(own)}" maxTimestamp="{latest}">{rows}</{group}s>'
        if rest > self.exchange.page:
            more = {**{key: value[0] for key, value in query.items()}, "size": 1000}
            more |= {"start": start + self.exchange.page, "max": len(found)}
            link = f"/v2/entries?{urllib.parse.urlencode(more)}".replace("&", "&amp;")
            text += f"<paging><next>{link}</next></paging>"
        self.reply(text + "</queryResult>", kind="application/xml")


def _entry(one: dict) -> str:
    deleted = "fingerprints" not in one
    tag = f"deleted{one['type'].title()}" if deleted else one["type"]
    prints = "".join(f"<{k}>{v}</{k}>" for k, v in one.get("fingerprints", {}).items())
    return (
        f'<{tag}><member id="{one["member"]}">Someone</member><id>{one["id"]}</id>'
        f"<timestamp>{_stamp(one['at'])}</timestamp>"
        + ("" if deleted else f"<fingerprints>{prints}</fingerprints>")
        + f"</{tag}>"
    )


def _stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _seconds(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()


class StopNcii(_Handler):
    """`entries` are hashRecords, as the exchange writes them."""

    def answer(self, url: urllib.parse.SplitResult) -> None:
        own = self.headers["x-functions-key"], self.headers["Ocp-Apim-Subscription-Key"]
        if ",".join(map(str, own)) != KEYS or url.path != "/FetchHashes":
            return self.reply("", 401)
        query = urllib.parse.parse_qs(url.query)
        since = int(query["startTimestamp"][0])
        found = [one for one in self.exchange.entries if one["lastModtimestamp"] >= since]
        start = int(query.get("nextPageToken", ["0"])[0])
        end = start + self.exchange.page
        times = [one["lastModtimestamp"] for one in found]
        self.reply(
            json.dumps(
                {
                    "count": len(found[start:end]),
                    "nextPageToken": str(end) if end < len(found) else None,
                    "nextSetTimestamp": max(times, default=since),
                    "hasMoreRecords": end < len(found),
                    "hashRecords": found[start:end],
                }
            )
        )


class Tat(_Handler):
    """`entries` are results, as the exchange writes them, in the order of updates."""

    def do_POST(self) -> None:
        said = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.misbehaves():
            return
        asked = urllib.parse.parse_qs(said)
        if asked["username"] != [USER] or asked["password"] != [PASSWORD]:
            return self.reply("", 401)
        self.reply(json.dumps({"user": {}, "token": "a-token"}))

    def answer(self, url: urllib.parse.SplitResult) -> None:
        if self.headers["Authorization"] != "Bearer a-token" or url.path != "/api/hash-list/v2/all":
            return self.reply("", 401)
        query = urllib.parse.parse_qs(url.query)
        after = query.get("after", [""])[0] or "0,0"
        found = [
            one for one in self.exchange.entries if one["updated_on"] > float(after.split(",")[0])
        ]
        start = int(query.get("offset", ["0"])[0])
        shown, end = found[start : start + self.exchange.page], start + self.exchange.page
        self.reply(
            json.dumps(
                {
                    "count": len(found),
                    "next": f"limit={self.exchange.page}&offset={end}"
                    if end < len(found)
                    else None,
                    "previous": None,
                    "checkpoint": f"{shown[-1]['updated_on']},{shown[-1]['id']}" if shown else "",
                    "results": shown,
                }
            )
        )


@contextmanager
def served(kind: type[_Handler]) -> Iterator[Exchange]:
    """A server of this kind on this machine, for as long as the context lasts."""
    exchange = Exchange()
    handler = type("Handler", (kind,), {"exchange": exchange})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads, server.block_on_close = True, False
    exchange.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield exchange
    finally:
        server.shutdown()
        server.server_close()
