"""The S3 store beside `aws s3 cp`: MB/s put and get, same server, same bytes, one run.

    python -m benchmarks.store [--megabytes 256] [--rounds 3] [--small 200] [--aws PATH]

Starts a SeaweedFS on free ports of this machine unless AWS_ENDPOINT_URL is set, then lets the two
clients take turns, and prints the ratio of their best rates (ours / theirs). `aws` is started as a
command, so its start-up (about half a second) is part of its time; --megabytes large makes that
small, and the rate without it is printed too. --small times many 20 kB objects: `aws s3 cp
--recursive` of a folder beside `put_file` and `download` in 8 threads. Prints each goal with its
figure; exit 1 where one is not reached. Results go to benchmarks/results/store.json.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.goals import goal
from benchmarks.seaweed import KEYS, seaweed
from kontext.store.objects import ObjectStore, open_store

RESULTS = Path(__file__).parent / "results"


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """A SeaweedFS of our own, with AWS_* set to it; or whatever AWS_ENDPOINT_URL names."""
    if os.environ.get("AWS_ENDPOINT_URL"):
        yield os.environ["AWS_ENDPOINT_URL"]
        return
    with seaweed(folder) as endpoint:
        os.environ |= {**KEYS, "AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1"}
        yield endpoint


def timed(action: Callable[[], object]) -> float:
    """Seconds it takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def one_file(store: ObjectStore, aws: Callable[..., None], args: argparse.Namespace) -> Any:
    """Seconds of put and get of one large file, by both."""
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        source, back = Path(temporary, "source"), Path(temporary, "back")
        source.write_bytes(os.urandom(1 << 20) * args.megabytes)
        for turn in range(args.rounds + 1):  # the server makes its volumes in the first
            ours, theirs = f"large/ours-{turn}", f"{store.url}/large/aws-{turn}"
            pairs: list[tuple[str, Callable[[], object]]] = [
                ("put", lambda o=ours: store.put_file(o, source)),
                ("put_aws", lambda t=theirs: aws("cp", str(source), t)),
                ("get", lambda o=ours: store.download(o, back)),
                ("get_aws", lambda t=theirs: aws("cp", t, str(back))),
            ]
            for name, action in pairs:
                back.unlink(missing_ok=True)
                seconds = timed(action)
                if turn:
                    times.setdefault(name, []).append(seconds)
            assert back.read_bytes() == source.read_bytes()
            store.delete(ours)
            store.delete(f"large/aws-{turn}")
    return {name: min(seconds) for name, seconds in times.items()}


def many_files(store: ObjectStore, aws: Callable[..., None], count: int) -> Any:
    """Seconds of put and get of many small files, by both."""
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(8) as pool:
        folder, back = Path(temporary, "in"), Path(temporary, "out")
        folder.mkdir()
        files = [folder / f"{number:05d}" for number in range(count)]
        for file in files:
            file.write_bytes(os.urandom(20_000))
        url = f"{store.url}/small/aws/"
        keys = [f"small/ours/{file.name}" for file in files]
        paths = [back / file.name for file in files]
        return {
            "put": timed(lambda: list(pool.map(store.put_file, keys, files))),
            "put_aws": timed(lambda: aws("cp", "--recursive", str(folder), url)),
            "get": timed(lambda: list(pool.map(store.download, keys, paths))),
            "get_aws": timed(lambda: aws("cp", "--recursive", url, str(back / "aws"))),
        }


def compare(times: dict[str, float], megabytes: float, start: float) -> dict[str, float]:
    """Rates and ratios; `net` leaves the start-up of the command out of its time."""
    found = {}
    for what in ("put", "get"):
        ours, theirs = times[what], times[f"{what}_aws"]
        found[f"{what}_mb_s"] = round(megabytes / ours, 1)
        found[f"{what}_aws_mb_s"] = round(megabytes / theirs, 1)
        found[f"{what}_ratio"] = round(theirs / ours, 2)
        found[f"{what}_ratio_net"] = round(max(theirs - start, 1e-3) / ours, 2)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", type=int, default=200)
    beside = shutil.which("aws", path=str(Path(sys.executable).parent))
    parser.add_argument("--aws", default=beside or shutil.which("aws"))
    args = parser.parse_args()
    if not args.aws:
        raise SystemExit("no aws command: pip install 'kontext[dev]', or --aws PATH")
    with (
        tempfile.TemporaryDirectory(prefix="kontext-store-") as temporary,
        server(Path(temporary)) as endpoint,
    ):
        store = open_store("s3://kontext-bench/store")

        def aws(*words: str) -> None:
            command = [args.aws, "--endpoint-url", endpoint, "s3", *words, "--only-show-errors"]
            subprocess.run(command, check=True)

        start = min(timed(lambda: _version(args.aws)) for _ in range(3))
        large = one_file(store, aws, args)
        small = many_files(store, aws, args.small)
    report: dict[str, Any] = {
        "aws": _version(args.aws),
        "megabytes": args.megabytes,
        "aws_start_seconds": round(start, 2),
        "one_file": compare(large, args.megabytes, start),
        f"{args.small}_small_files": compare(small, args.small * 0.02, start),
    }
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(report, indent=1)
    (RESULTS / "store.json").write_text(text + "\n")
    print(text)
    ratios = report["one_file"]
    found = [
        goal(f"{args.megabytes} MB, {what}, rate / rate of aws s3 cp", ratios[f"{what}_ratio"], 1.0,
             " x", at_least=True)
        for what in ("put", "get")
    ]  # fmt: skip
    return 0 if all(found) else 1


def _version(aws: str) -> str:
    done = subprocess.run([aws, "--version"], capture_output=True, text=True, check=True)
    return done.stdout.strip().split()[0]


if __name__ == "__main__":
    sys.exit(main())
