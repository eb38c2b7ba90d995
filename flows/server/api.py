"""A few calls to the Prefect server's REST API, without importing prefect.

The command line uses it so that `kontext run` and `kontext status` answer at once.
"""

import os
import time
import uuid
from datetime import UTC, datetime
from typing import Any

import httpx

from flows.server.password import CLIENT, basic
from kontext.errors import KontextError

HEARTBEAT = "prefect.flow-run.heartbeat"  # the event
TERMINAL = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
RETRY_STATUS = frozenset({429, 502, 503, 504})


class ServerError(KontextError):
    """The Prefect server cannot be reached or refuses a call."""


class Api:
    """Synchronous client.

    Args:
        url: the server's address without `/api`.
        patience: seconds to wait for a server that went away, e.g. to be restarted.
        password: basic-auth string; by default PREFECT_API_AUTH_STRING.
    """

    def __init__(self, url: str, patience: float = 0.0, password: str | None = None) -> None:
        self.url = url.rstrip("/")
        self._patience = patience
        password = os.environ.get(CLIENT, "") if password is None else password
        self._client = httpx.Client(
            base_url=f"{self.url}/api",
            timeout=30.0,
            headers={"Authorization": basic(password)} if password else {},
            transport=httpx.HTTPTransport(retries=1),
        )

    def healthy(self) -> bool:
        """Whether a Prefect server answers there."""
        try:
            answer = self._client.get("/health", timeout=3.0)
            return answer.status_code == 200 and answer.json() is True
        except (httpx.HTTPError, ValueError):
            return False

    def admits(self) -> bool:
        """Whether the server takes our password."""
        try:
            return self._client.get("/admin/version", timeout=3.0).status_code == 200
        except httpx.HTTPError:
            return False

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """JSON of one call; None for an empty answer.

        Retries while the server is busy (SQLite locks) or, up to `patience`, away.
        """
        limit = time.monotonic() + self._patience
        busy = 0
        while True:
            try:
                answer = self._client.request(method, path, json=body)
            except httpx.HTTPError as error:
                if time.monotonic() > limit:
                    raise ServerError(f"no Prefect server answers at {self.url}") from error
                time.sleep(0.5)
                continue
            busy += 1
            if answer.status_code not in RETRY_STATUS or busy == 5:
                break
            time.sleep(0.2 * busy)
        if answer.status_code == 401:
            raise ServerError(f"the Prefect server at {self.url} wants another password ({CLIENT})")
        if answer.status_code >= 400:
            raise ServerError(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
        return answer.json() if answer.content else None

    def deployment_id(self, name: str) -> str:
        """Id of deployment `flow/deployment`."""
        return str(self.call("GET", f"/deployments/name/{name}")["id"])

    def create_run(self, deployment: str, parameters: dict[str, Any], tags: list[str]) -> Any:
        """Submit a run of `flow/deployment` and return it."""
        body = {"parameters": parameters, "tags": tags, "state": {"type": "SCHEDULED"}}
        path = f"/deployments/{self.deployment_id(deployment)}/create_flow_run"
        return self.call("POST", path, body)

    def run(self, run_id: str) -> Any:
        """The flow run as the server knows it now."""
        return self.call("GET", f"/flow_runs/{run_id}")

    def runs(self, flow_runs: dict[str, Any], limit: int = 200) -> list[Any]:
        """Flow runs that match a filter, oldest first."""
        body = {"flow_runs": flow_runs, "limit": limit, "sort": "EXPECTED_START_TIME_ASC"}
        return list(self.call("POST", "/flow_runs/filter", body))

    def children(self, run_id: str) -> list[Any]:
        """Runs that `run_id` dispatched."""
        return self.runs({"parent_flow_run_id": {"any_": [run_id]}})

    def send_heartbeats(self) -> int:
        """Send a heartbeat in the name of every running run; returns how many.

        A server that was killed, or whose automations were made again, has forgotten earlier
        heartbeats, so a run whose process died meanwhile would stay Running for ever. After this
        heartbeat the server notices its silence.
        """
        now = datetime.now(UTC).isoformat()
        events = [
            {
                "id": str(uuid.uuid4()),
                "occurred": now,
                "event": HEARTBEAT,
                "resource": {
                    "prefect.resource.id": f"prefect.flow-run.{run['id']}",
                    "prefect.resource.name": run["name"],
                },
            }
            for run in self.runs({"state": {"type": {"any_": ["RUNNING"]}}})
        ]
        if events:
            self.call("POST", "/events", events)
        return len(events)

    def logs(self, run_ids: list[str], level: int, after: str, limit: int = 200) -> list[Any]:
        """Log records of some runs, oldest first; `after` is an ISO time or empty."""
        wanted: dict[str, Any] = {"flow_run_id": {"any_": run_ids}, "level": {"ge_": level}}
        if after:
            wanted["timestamp"] = {"after_": after}
        body = {"logs": wanted, "limit": limit, "sort": "TIMESTAMP_ASC"}
        return list(self.call("POST", "/logs/filter", body))

    def artifacts(self, run_ids: list[str], kind: str) -> list[Any]:
        """Artifacts of one type that belong to some runs."""
        body = {"artifacts": {"flow_run_id": {"any_": run_ids}, "type": {"any_": [kind]}}}
        return list(self.call("POST", "/artifacts/filter", body))

    def set_state(
        self, run_id: str, kind: str, name: str, message: str = "", force: bool = False
    ) -> None:
        """Ask for a state change; `force` skips the server's rules."""
        state = {"type": kind, "name": name, "message": message}
        self.call("POST", f"/flow_runs/{run_id}/set_state", {"state": state, "force": force})
