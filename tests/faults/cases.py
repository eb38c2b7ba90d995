"""The cases that need no Prefect server: `kontext run --direct` is killed, starved or confused."""

import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from tests.faults.lab import (
    SOFT,
    Lab,
    Trouble,
    bombed,
    check,
    clean,
    engine_of,
    environment,
    line,
    run,
    tail,
)


class Skipped(Exception):
    """The machine lacks what a case needs."""


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    group: str
    name: str
    run: Callable[[Lab], None]


def killed(group: str, what: str, done: str, until: str, point: str, count: int = 1) -> Case:
    """SIGKILL at a point of a stage, then the same command."""

    def case(lab: Lab) -> None:
        home = lab.home_after(done, f"{until}-{point}-{count}")
        bombed(home, until, point, count)
        run(home, until)
        check(lab, home, until)

    return Case(group, what, case)


KILLS = [
    killed("flow", "SIGKILL in ingest, before the first chunk", "", "ingest", "chunk-start"),
    killed("flow", "SIGKILL in ingest, after the second chunk", "", "ingest", "chunk-done", 2),
    killed("flow", "SIGKILL in ingest, after three files", "", "ingest", "blob", 3),
    killed("flow", "SIGKILL between temporary file and name", "", "ingest", "before-publish", 9),
    killed("flow", "SIGKILL before the ledger's segment", "", "ingest", "before-ledger"),
    killed("flow", "SIGKILL after the ledger, before the manifest", "", "ingest", "after-ledger"),
    killed("flow", "SIGKILL before mine's manifest", "ingest", "mine", "before-manifest", 1),
    killed("flow", "SIGKILL after mine's manifest", "ingest", "mine", "after-manifest", 1),
    killed("flow", "SIGKILL before the run is recorded", "ingest", "mine", "before-record", 2),
    killed("flow", "SIGKILL before the tag moves", "ingest", "mine", "before-tag", 2),
    killed("flow", "SIGKILL in shard, after one file", "screen", "shard", "blob", 1),
    killed("committer", "SIGKILL before the catalog commit", "shard", "index", "before-commit"),
    killed("committer", "SIGKILL inside the transaction", "shard", "index", "in-commit", 2),
    killed("committer", "SIGKILL after it, before the manifest", "shard", "index", "after-commit"),
    killed(
        "trainer", "SIGKILL before the autoencoder's 2nd checkpoint", "index",
        "train-autoencoder", "checkpoint-start", 2,
    ),
    killed(
        "trainer", "SIGKILL after the autoencoder's 1st checkpoint", "index",
        "train-autoencoder", "checkpoint-done", 1,
    ),
    killed(
        "trainer", "SIGKILL after the flow's 2nd checkpoint", "encode",
        "finetune", "checkpoint-done", 2,
    ),
]  # fmt: skip


# --- chunk workers ------------------------------------------------------------------------------


def worker_killed(lab: Lab) -> None:
    """SIGKILL one pool process while the pool works; the flow must say so, and go on."""
    home = lab.home_after("", "worker-killed")
    command = [sys.executable, "-m", "flows.cli", *line("ingest")]
    command += ["--set", "ingest.processes=2"]
    flow = subprocess.Popen(
        command, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    victim = _pool_process(flow)
    victim_gone = subprocess.run(["kill", "-9", str(victim)], check=False).returncode == 0
    said, _ = flow.communicate(timeout=300)
    if not victim_gone or flow.returncode or "its worker was lost: it was killed" not in said:
        raise Trouble(f"exit {flow.returncode}: {said.strip().splitlines()[-1:]}")
    # the number of processes is part of the recipe: compare files, not artifact digests
    run(home, "ingest")
    check(lab, home, "ingest")


def _pool_process(flow: subprocess.Popen[str]) -> int:
    """A spawned pool worker of the flow, as soon as there is one."""
    while flow.poll() is None:
        listed = subprocess.run(
            ["ps", "-o", "pid=,args=", "--ppid", str(flow.pid)], capture_output=True, text=True,
            check=False,
        ).stdout  # fmt: skip
        for row in listed.splitlines():
            pid, _, arguments = row.strip().partition(" ")
            if "spawn_main" in arguments:
                time.sleep(1.0)  # inside its imports or its first chunk
                return int(pid)
        time.sleep(0.05)
    raise Trouble("the flow ended before its pool started")


def flow_killed_with_pool(lab: Lab) -> None:
    """SIGKILL the flow while its pool works: no worker may outlive it."""
    home = lab.home_after("", "flow-killed-with-pool")
    extra = ["--set", "ingest.processes=2"]
    flow = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *line("ingest"), *extra],
        env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    victim = _pool_process(flow)
    flow.kill()
    flow.communicate()
    time.sleep(2.0)
    if Path(f"/proc/{victim}").exists():
        raise Trouble("a pool worker outlived its flow")
    run(home, "ingest")
    check(lab, home, "ingest")


# --- signals ------------------------------------------------------------------------------------


def terminated_trainer(lab: Lab) -> None:
    """SIGTERM while the flow trains."""
    home = lab.home_after("encode", "sigterm")
    flow = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *line("finetune")],
        env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert flow.stdout is not None
    for row in flow.stdout:
        if "finetune/" in row and "running" in row:
            time.sleep(4.0)
            break
    flow.send_signal(signal.SIGTERM)
    flow.communicate(timeout=120)
    run(home, "finetune")
    check(lab, home, "finetune")


# --- ranks --------------------------------------------------------------------------------------

RANKS = ("--set", "finetune.launch.launcher=torchrun", "--set", "finetune.launch.ranks=2")


def rank_killed(lab: Lab) -> None:
    """SIGKILL one of two ranks in training: torchrun starts both again, from the checkpoint."""
    whole = _undisturbed_ranks(lab)
    home = lab.home_after("encode", "rank-killed")
    flow = _training(home)
    os.kill(_rank(flow, home, 1), signal.SIGKILL)
    said, _ = flow.communicate(timeout=600)
    if flow.returncode:
        raise Trouble(f"exit {flow.returncode}: {said.strip().splitlines()[-1:]}")
    if _trained(home) != whole:
        raise Trouble("the weights differ from those of two ranks that nobody disturbed")
    clean(home)


def flow_killed_with_ranks(lab: Lab) -> None:
    """SIGKILL the flow while its ranks train: none may outlive it, the rest is made later."""
    whole = _undisturbed_ranks(lab)
    home = lab.home_after("encode", "flow-killed-with-ranks")
    flow = _training(home)
    pids = [_rank(flow, home, number) for number in (0, 1)]
    flow.kill()
    flow.communicate()
    limit = time.monotonic() + 60  # they are told, and save first
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > limit:
            raise Trouble("a rank outlived its flow")
        time.sleep(0.2)
    run(home, "finetune", extra=RANKS)
    if _trained(home) != whole:
        raise Trouble("the weights differ from those of two ranks that nobody disturbed")
    clean(home)


def _undisturbed_ranks(lab: Lab) -> dict[str, str]:
    home = lab.home_after("encode", "ranks")
    run(home, "finetune", extra=RANKS)
    return _trained(home)


def _training(home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *line("finetune", *RANKS)], env=environment(home),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def _rank(flow: subprocess.Popen[str], home: Path, number: int) -> int:
    """Process of one rank, once rank 0 has told of its first step."""
    while flow.poll() is None:
        told = home.glob("scratch/finetune/*/ranks/progress.jsonl")
        if any(path.stat().st_size for path in told):
            for folder in Path("/proc").glob("[0-9]*"):
                try:
                    command = (folder / "cmdline").read_bytes()
                    if b"kontext.train" not in command or str(home).encode() not in command:
                        continue
                    if f"\0RANK={number}\0".encode() in (folder / "environ").read_bytes():
                        return int(folder.name)
                except OSError:
                    continue
        time.sleep(0.02)
    raise Trouble("the flow ended before its ranks trained")


def _trained(home: Path) -> dict[str, str]:
    """File name -> SHA-256 of what the finetune stage made."""
    (made,) = [m for m in engine_of(home).artifacts.list() if m.stage == "finetune"]
    return {file.name: file.sha256 for file in made.files if not file.name.startswith(SOFT)}


# --- disk full ----------------------------------------------------------------------------------


def full(name: str, done: str, until: str, limit: int, one_line: bool = True) -> Case:
    """Files larger than `limit` bytes cannot be written (RLIMIT_FSIZE), as on a full disk.

    Without `one_line` a traceback is borne: torch.save reports a short write by a RuntimeError.
    """

    def case(lab: Lab) -> None:
        home = lab.home_after(done, f"full-{until}")

        def starve() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # EFBIG instead of death
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        failed = subprocess.run(
            [sys.executable, "-m", "flows.cli", *line(until)],
            env=environment(home), capture_output=True, text=True, check=False, preexec_fn=starve,
        )  # fmt: skip
        if failed.returncode == 0:
            raise Trouble("the limit was never met")
        if one_line and "Traceback" in failed.stderr:
            raise Trouble(f"a traceback instead of one clear line: {tail(failed)}")
        run(home, until)
        check(lab, home, until)

    return Case("disk full", name, case)


def small_disk(lab: Lab) -> None:
    """The store on a tmpfs of 200 kB; then it grows."""
    home = lab.home_after("", "tmpfs")
    disk = home / "store"
    disk.mkdir(exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], capture_output=True,
        check=False,
    )  # fmt: skip
    if mounted.returncode:
        raise Skipped("mounting a tmpfs needs root")
    try:
        failed = run(home, "ingest", expect=1)
        if "Traceback" in failed.stderr:
            raise Trouble(f"a traceback instead of one clear line: {tail(failed)}")
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        run(home, "ingest")
        check(lab, home, "ingest")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


# --- catalog ------------------------------------------------------------------------------------


@contextmanager
def _sqlite_lock(home: Path) -> Iterator[None]:
    holder = sqlite3.connect(home / "catalog.sqlite", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        holder.rollback()
        holder.close()


def locked_database(lab: Lab) -> None:
    """Somebody else holds the catalog's database for six seconds."""
    home = lab.home_after("shard", "locked-database")
    with _sqlite_lock(home):
        flow = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *line("index")],
            env=environment(home), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(6.0)
    flow.wait()  # it may have waited, or failed with a clear line
    run(home, "index")
    check(lab, home, "index")


def locked_for_good(lab: Lab) -> None:
    """The database stays locked: one clear line, and nothing is half committed."""
    home = lab.home_after("shard", "locked-for-good")
    with _sqlite_lock(home):
        failed = run(home, "index", expect=1)
    if "Traceback" in failed.stderr:
        raise Trouble(f"a traceback instead of one clear line: {tail(failed)}")
    run(home, "index")
    check(lab, home, "index")


def locked_file(lab: Lab) -> None:
    """Another writer holds the catalog's write lock for six seconds."""
    home = lab.home_after("shard", "locked-file")
    with FileLock(home / "catalog.sqlite.lock"):
        flow = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *line("index")],
            env=environment(home), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(6.0)
    if flow.wait():
        raise Trouble("it did not wait for the other writer")
    check(lab, home, "index")


# --- two at once --------------------------------------------------------------------------------


def two_homes(
    lab: Lab, homes: list[Path], until: str, store: str, env: dict[str, str] | None = None
) -> None:
    """The same command in several homes over one store, all at the same time."""
    flows = [
        subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *line(until, "--store", store)],
            env=environment(home, env), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for home in homes
    ]  # fmt: skip
    for flow in flows:
        _, said = flow.communicate(timeout=600)
        if flow.returncode:
            raise Trouble(f"one of the two failed: {said.strip().splitlines()[-1:]}")
    for home in homes:
        check(lab, home, until, store)


def two_in_one_home(lab: Lab) -> None:
    home = lab.home_after("", "two-in-one-home")
    two_homes(lab, [home, home], "caption", f"file://{home}/store")


def two_in_two_homes(lab: Lab) -> None:
    first, second = (lab.home_after("", f"two-homes-{n}") for n in (1, 2))
    two_homes(lab, [first, second], "caption", f"file://{first}/store")


# --- clock --------------------------------------------------------------------------------------


def clock(name: str, shift: str) -> Case:
    """The clock jumps between two stages."""

    def case(lab: Lab) -> None:
        if shutil.which("faketime") is None:
            raise Skipped("faketime is not installed")
        home = lab.home_after("ingest", f"clock{shift.replace(' ', '')}")
        run(home, "mine", prefix=("faketime", "-f", shift))
        run(home, "caption")
        check(lab, home, "caption")

    return Case("clock", name, case)


DIRECT = [
    *KILLS,
    Case("chunk worker", "SIGKILL of one pool process", worker_killed),
    Case("chunk worker", "SIGKILL of the flow while its pool works", flow_killed_with_pool),
    Case("trainer", "SIGTERM while the flow trains", terminated_trainer),
    Case("trainer rank", "SIGKILL of one of two", rank_killed),
    Case("trainer rank", "SIGKILL of the flow while two train", flow_killed_with_ranks),
    full("no file above 3 kB in ingest", "", "ingest", 3_000),
    full("no file above 20 kB in shard", "screen", "shard", 20_000),
    full("no file above 8 kB in the catalog", "shard", "index", 8_000),
    full("no file above 100 kB in the trainer", "encode", "finetune", 100_000, one_line=False),
    Case("disk full", "a store on 200 kB of tmpfs, then more room", small_disk),
    Case("catalog", "its database locked for 6 s", locked_database),
    Case("catalog", "its database locked for good, then free", locked_for_good),
    Case("catalog", "its write lock held for 6 s", locked_file),
    Case("two at once", "two pipelines, one home", two_in_one_home),
    Case("two at once", "two homes, one store", two_in_two_homes),
    clock("a day back between stages", "-1d"),
    clock("a month ahead, then back", "+30d"),
]
