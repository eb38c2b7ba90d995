"""Runs scheduled stage runs in threads with Prefect's own engine: a worker without processes."""

import contextlib
import contextvars
import threading
import time
from collections.abc import Iterator
from typing import Any

from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.flow_engine import run_flow
from prefect.states import Crashed, Pending

from flows.stages import STAGE_FLOWS


class LocalWorker:
    """`crash` names stages whose next run dies instead of running."""

    def __init__(self) -> None:
        self.crash: set[str] = set()
        self._stop = threading.Event()

    def loop(self) -> None:
        threads: list[threading.Thread] = []
        wanted = FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED]))
        )
        with get_client(sync_client=True) as client:
            while not self._stop.is_set():
                for run in client.read_flow_runs(flow_run_filter=wanted):
                    stage = next((tag for tag in run.tags if tag in STAGE_FLOWS), None)
                    if stage is None:
                        continue
                    if stage in self.crash:
                        self.crash.discard(stage)
                        dead = Crashed(message="killed. By the test.")
                        client.set_flow_run_state(run.id, dead, force=True)
                        continue
                    client.set_flow_run_state(run.id, Pending(), force=True)
                    context = contextvars.copy_context()
                    thread = threading.Thread(
                        target=context.run, args=(_execute, stage, client.read_flow_run(run.id))
                    )
                    thread.start()
                    threads.append(thread)
                time.sleep(0.1)
        for thread in threads:
            thread.join()

    def stop(self) -> None:
        self._stop.set()


def _execute(stage: str, run: FlowRun) -> None:
    result: Any = run_flow(STAGE_FLOWS[stage], flow_run=run, return_type="state")
    assert result is not None


@contextlib.contextmanager
def local_worker() -> Iterator[LocalWorker]:
    """A worker in the background while inside."""
    worker = LocalWorker()
    context = contextvars.copy_context()  # carries the test server's settings
    thread = threading.Thread(target=context.run, args=(worker.loop,))
    thread.start()
    try:
        yield worker
    finally:
        worker.stop()
        thread.join()
