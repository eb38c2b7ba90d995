"""A Ray cluster. Each task is a remote function that Ray itself never tries again.

Results are stored by the workers where the store is a bucket, which every machine reaches. Where it
is a folder, they come back through Ray's object store and are stored by who asked, so that the
machines need no disk in common. Inputs in folders (sources, hash lists, the safety key) must be at
the same path on every machine: a task that cannot read one of its files is an error.

The code goes with the tasks: every worker runs that of this process, whatever its machine has
installed. Packages that it imports must be installed there.
"""

import logging
import os
import time
from collections.abc import Set
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from kontext.engine.executors.base import Failed, Lost, Outcome, Task
from kontext.engine.executors.worker import ONE_THREAD, perform, single_threaded
from kontext.engine.stage import Needs
from kontext.errors import EngineError

_LOG = logging.getLogger("kontext.work")
_PER_PROCESSOR = 2  # tasks in flight: one runs, one waits for it to end
_FRESH = 10.0  # seconds for which the size of the cluster is taken as known
_PASSED_ON = ("AWS_", "KONTEXT_")  # environment that work depends on
_CODE = ("kontext", "schemas")
_FOR_GOOD = {"RuntimeEnvSetupError", "TaskUnschedulableError", "OutOfDiskError"}  # Ray's errors


class RayCluster:
    """See `Executor`.

    Args:
        address: of the cluster; empty: the one that this process or machine is part of, else a Ray
            of its own for as long as it works.
        store: URL of the store that results go to.
        work: module of the function that the tasks have.
        needs: what one task takes of a machine.
        memory: bytes that each worker may take, also kept free for it by Ray; 0: no limit.

    Raises:
        EngineError: Ray is not installed, or the cluster is not reached.
    """

    def __init__(self, address: str, store: str, work: str, needs: Needs, memory: int = 0) -> None:
        try:
            ray: Any = import_module("ray")
        except ImportError as error:
            raise EngineError(f"KONTEXT_ENGINE: {error}; pip install 'kontext[ray]'") from error
        self._ray, self._needs, self._memory = ray, needs, memory
        self._store = store if store.startswith("s3://") else ""
        self._running: dict[Any, int] = {}  # result to be -> ticket
        self._size, self._asked = 0, -_FRESH
        self._own = not ray.is_initialized()
        if self._own:
            self._connect(address, {*_CODE, work.partition(".")[0]} - {"__main__"})
        self._remote = ray.remote(_on_worker)
        self._options = {
            "max_retries": 0,  # that is `chunks`' business
            "num_cpus": needs.processors,
            "num_gpus": needs.gpus,
            "memory": memory or None,
            "scheduling_strategy": "SPREAD",
            "runtime_env": {"env_vars": ONE_THREAD},
        }
        nodes = [node for node in ray.nodes() if node["Alive"]]
        count, cpus = len(nodes), ray.cluster_resources().get("CPU", 0)
        _LOG.info("chunks run on Ray: %d nodes, %d processors", count, cpus)
        fits = {"CPU": needs.processors, "GPU": needs.gpus, "memory": memory}
        if not any(all(n["Resources"].get(k, 0) >= v for k, v in fits.items()) for n in nodes):
            _LOG.warning("no node of the cluster has %s: waiting for one", fits)

    def width(self) -> int:
        """See `Executor`. It follows the size of the cluster."""
        now = time.monotonic()
        if now - self._asked >= _FRESH:
            found = self._ray.cluster_resources()
            fit = int(found.get("CPU", 0) // self._needs.processors)
            if self._needs.gpus:
                fit = min(fit, int(found.get("GPU", 0) // self._needs.gpus))
            self._size, self._asked = max(1, fit), now
        return _PER_PROCESSOR * self._size

    def submit(self, ticket: int, task: Task) -> None:
        """See `Executor`."""
        task = replace(
            task,
            store=self._store,
            memory=self._memory,
            log_level=logging.getLogger("kontext").getEffectiveLevel(),
            far=True,
            environment={k: v for k, v in os.environ.items() if k.startswith(_PASSED_ON)},
        )
        name = f"{task.work.__name__} {task.folder.rpartition('/')[2]}"
        self._running[self._remote.options(**self._options, name=name).remote(task)] = ticket

    def next(self) -> tuple[int, Outcome]:
        """See `Executor`."""
        (ended,), _ = self._ray.wait(list(self._running), num_returns=1)
        ticket = self._running.pop(ended)
        try:
            return ticket, self._ray.get(ended)
        except self._ray.exceptions.RayTaskError as error:  # before the work began
            return ticket, Failed(str(error).strip().splitlines()[-1], str(error))
        except self._ray.exceptions.RayError as error:
            said = next(iter(str(error).strip().splitlines()), "")
            why = f"{type(error).__name__}: {said}"
            if type(error).__name__ in _FOR_GOOD:
                return ticket, Failed(why, str(error))
            return ticket, Lost(why)

    def close(self) -> None:
        """See `Executor`."""
        for result in self._running:
            self._ray.cancel(result, force=True)
        if self._own:
            self._ray.shutdown()

    def _connect(self, address: str, packages: Set[str]) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        code = sorted(_folder(package) for package in packages)
        options: dict[str, Any] = {
            "log_to_driver": True,
            "logging_level": logging.WARNING,
            "configure_logging": False,  # ours is
            "runtime_env": {"py_modules": code, "excludes": ["__pycache__"]},
        }
        if not address and not os.environ.get("RAY_ADDRESS"):
            options["include_dashboard"] = False  # of a Ray of our own, if there is none here
        try:
            self._ray.init(address or None, **options)
        except (ConnectionError, ValueError, RuntimeError) as error:
            if address.startswith("ray://"):  # a client that did not connect leaves its mode on
                import_module("ray.util.client").ray.disconnect()
            where = f"the Ray cluster {address}" if address else "Ray"
            said = " ".join(str(error).split())[:300]
            raise EngineError(f"{where} is not reached: {said}") from error


def _folder(package: str) -> str:
    """Where a package lies."""
    found = find_spec(package)
    assert found is not None and found.submodule_search_locations
    return str(next(iter(found.submodule_search_locations)))


def _on_worker(task: Task) -> Outcome:
    single_threaded()
    return perform(task)
