"""Which executor runs chunk work: two settings of the environment, since neither changes a result.

KONTEXT_ENGINE          processes (or empty): on this machine
                        ray: on the Ray cluster that this machine is part of, else on a Ray of
                        its own; ray://host:10001: on a cluster, by Ray's client;
                        host:6379: on the cluster that this machine belongs to, by its address
KONTEXT_WORKER_MEMORY   what one worker may take, such as 4GB or 512MB; empty: no limit
"""

import os
import re
from dataclasses import dataclass

from kontext.engine.executors.base import Executor
from kontext.engine.executors.here import Here
from kontext.engine.executors.processes import Processes
from kontext.engine.stage import Needs
from kontext.errors import EngineError
from kontext.store.objects import ObjectStore

ENGINE, MEMORY = "KONTEXT_ENGINE", "KONTEXT_WORKER_MEMORY"
_ADDRESS = re.compile(r"(ray://)?[\w.-]+:\d+")
_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_LEAST = 256 << 20  # an interpreter with its libraries


@dataclass(frozen=True)
class Choice:
    """Where chunk work runs."""

    ray: bool  # else processes of this machine
    address: str = ""  # of the cluster; empty: the one that is here, or a new one
    memory: int = 0  # bytes per worker; 0: no limit


def choice() -> Choice:
    """What the environment says. Raises EngineError for what it cannot mean."""
    said, memory = os.environ.get(ENGINE, "").strip(), _memory()
    if said in ("", "processes"):
        return Choice(ray=False, memory=memory)
    if said == "ray":
        return Choice(ray=True, memory=memory)
    if _ADDRESS.fullmatch(said):
        return Choice(ray=True, address=said, memory=memory)
    raise EngineError(
        f"{ENGINE}='{said}': 'processes', 'ray', 'ray://host:10001' (Ray's client) or 'host:6379' "
        "(the address of a cluster) is possible"
    )


def executor(work: str, processes: int, needs: Needs, objects: ObjectStore) -> Executor:
    """The executor of tasks. Where it is Ray, the cluster decides how many run at a time.

    Args:
        work: module of the function that they have.
        processes: workers on this machine; with 0 this process does the work.
        objects: the store that results go to.

    Raises:
        EngineError: the settings mean nothing, or Ray is not installed or not reached.
    """
    chosen = choice()
    if chosen.ray:
        # here, because few machines have Ray, and those that have it need seconds to import it
        from kontext.engine.executors.ray_cluster import RayCluster

        return RayCluster(chosen.address, objects.url, work, needs, chosen.memory)
    return Processes(processes, objects.url, chosen.memory) if processes else Here(objects)


def _memory() -> int:
    said = os.environ.get(MEMORY, "").strip()
    if not said:
        return 0
    found = _BYTES.fullmatch(said)
    if found is None:
        raise EngineError(f"{MEMORY}='{said}': a size such as 4GB, 512MB or a number of bytes")
    unit = 1024 if found[3] else 1000
    size = int(float(found[1]) * unit ** _POWER[found[2].lower()])
    if size < _LEAST:
        raise EngineError(f"{MEMORY}='{said}': a worker needs {_LEAST:,} bytes for itself alone")
    return size
