"""Starts again what died: `python -m flows.server.supervise`, which `kontext up` leaves running.

It has the environment of that `kontext up`, and what it starts inherits it. It ends by itself once
another one has taken its place.
"""

import logging
import os
import time

from flows.backoff import next_pause
from flows.server import serve
from flows.server.processes import Running
from kontext.errors import KontextError
from tasks.workspace import Places, places

FIRST_PAUSE, LAST_PAUSE = 2.0, 60.0  # seconds; longer where what was started dies again


def main() -> None:
    """Look after the processes of this home until somebody else does."""
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    at, pause = places(), FIRST_PAUSE
    with serve.locked(at):  # until our own start is written down
        pass
    while (running := serve.load(at)).supervisor.pid == os.getpid():
        died = _died(running)
        if died:
            logging.info("died: %s", ", ".join(died))
            _revive(at)
        pause = next_pause(pause, not died, first=FIRST_PAUSE, last=LAST_PAUSE)
        time.sleep(pause)


def _died(running: Running) -> list[str]:
    processes = {"server": running.server, **running.workers}
    return [name for name, process in processes.items() if process.pid and not process.alive]


def _revive(at: Places) -> None:
    try:
        serve.up(at, say=logging.info)
    except (KontextError, OSError) as error:  # a taken port, a database that is away: later again
        logging.info("%s", error)


if __name__ == "__main__":
    main()
