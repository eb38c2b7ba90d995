"""Shared fixtures: a local object store; a real S3 server (SeaweedFS) and a Prefect server."""

import asyncio
import gc
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from benchmarks.seaweed import KEYS, NoServer, seaweed
from kontext.store.objects import ObjectStore, open_store
from tests.postgres import postgres_server, postgres_url  # noqa: F401 - fixtures
from tests.ray_cluster import ray_cluster  # noqa: F401 - a fixture

settings.register_profile("kontext", deadline=None)  # machines are busy; nothing asserts on time
settings.load_profile("kontext")

_TEMPORARY = pytest.StashKey[Path]()
# Files that share what is costly to make, and so run in one process of pytest-xdist.
_ON_ONE_SERVER = (
    "tests/test_end_to_end.py",
    "tests/test_flux1.py",
    "tests/flows/server/test_offered.py",
    "tests/flows/test_pause.py",
    "tests/flows/test_pipeline.py",
    "tests/flows/test_upkeep.py",
)
_LONGEST = (
    "tests/test_end_to_end.py",
    "tests/test_exported.py",
    "tests/engine/executors/test_ray_cluster.py",
    "tests/train/test_capacity.py",
    "tests/stages/test_refresh.py",
    "tests/stages/test_ranks.py",
    "tests/stages/test_evaluate.py",
    "tests/train/test_resume.py",
    "tests/flows/cli/test_plan.py",
)
TOGETHER = (
    _ON_ONE_SERVER,
    ("tests/stages/test_evaluate.py", "tests/stages/test_publish.py"),
    ("tests/engine/executors/test_ray_cluster.py", "tests/parallel/ranks/test_ray.py"),
)


def pytest_configure(config: pytest.Config) -> None:
    """All temporary files of a run, of killed processes too, lie in one folder of its own.

    It is deleted at the end; after a failure it stays, and the run says where.
    """
    patch = pytest.MonkeyPatch()
    config.add_cleanup(patch.undo)
    # a file is not to outlive the machine here, only its process: waiting for the disk at every
    # file of a store takes longer than most tests (processes that tests start do wait)
    patch.setattr(os, "fsync", lambda descriptor: None)
    if hasattr(config, "workerinput"):
        return  # a process of pytest-xdist inherits TMPDIR
    folder = Path(tempfile.mkdtemp(prefix="kontext-tests-"))
    folder.chmod(0o711)  # PostgreSQL's own user must get through (tests/postgres.py)
    patch.setenv("TMPDIR", str(folder))
    patch.setattr(tempfile, "tempdir", None)
    config.stash[_TEMPORARY] = folder


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Delete the run's temporary files unless a test failed."""
    folder = session.config.stash.get(_TEMPORARY, None)
    if folder is not None and not exitstatus:
        # a server may still be ending; after multiprocessing has removed its own folder (-100)
        Finalize(None, shutil.rmtree, (folder, True), exitpriority=-200)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    """Say where the files of a failed run lie."""
    if exitstatus and _TEMPORARY in config.stash:
        terminalreporter.write_line(f"temporary files: {config.stash[_TEMPORARY]}")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[Any]:
    """Garbage is not looked for among what thousands of modules hold to the end.

    Neither while they are imported nor, each time again, in every test after that.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files start first, so that no process is left alone with one at the end."""
    order = {file: place for place, file in enumerate(_LONGEST)}
    items.sort(key=lambda item: order.get(item.nodeid.partition("::")[0], len(order)))
    for item in items:
        file = item.nodeid.partition("::")[0]
        if "prefect_server" in getattr(item, "fixturenames", ()) and file not in _ON_ONE_SERVER:
            raise pytest.UsageError(f"{file} takes the Prefect server: name it in {__file__}")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`--dist loadfile`, where the files of `TOGETHER` count as one."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class ByFilesTogether(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return next((files[0] for files in TOGETHER if file in files), file)

    return ByFilesTogether(config, log)


@pytest.fixture(scope="module")
def timed_briefly() -> Iterator[None]:
    """See `tests.stages.stage_harness.timed_briefly`."""
    from tests.stages import stage_harness

    with stage_harness.timed_briefly():
        yield


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    """An empty file:// store."""
    return open_store(f"file://{tmp_path}/store")


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Endpoint of a SeaweedFS on free loopback ports, with credentials in AWS_*."""
    try:
        with (
            seaweed(tmp_path_factory.mktemp("weed")) as endpoint,
            pytest.MonkeyPatch.context() as patch,
        ):
            for name, value in {**KEYS, "AWS_ENDPOINT_URL": endpoint}.items():
                patch.setenv(name, value)
            patch.setenv("AWS_REGION", "us-east-1")
            yield endpoint
    except NoServer as error:
        pytest.fail(str(error))


@pytest.fixture
def s3_url(s3_server: str) -> str:
    """An empty prefix of a bucket on the S3 server."""
    return f"s3://kontext-test/{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A Prefect server with every pool, deployment and automation of the project."""
    from prefect.testing.utilities import prefect_test_harness

    from flows.server import register

    with prefect_test_harness(server_startup_timeout=120):
        asyncio.run(register.main())
        yield
