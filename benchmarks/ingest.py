"""Stage ingest from a list of addresses, beside img2dataset: pictures per second of CPU.

    python -m venv PEER && PEER/bin/pip install img2dataset
    python -m benchmarks.ingest --peer PEER/bin/python [--megapixels .26 2 12] [--images 200 100 40]

Both fetch the same JPEG files from one local server (whose CPU time is not counted) with one worker
process, and write pictures whose longer side is 256 pixels. img2dataset writes JPEG files into
tars. We decode in full precision, look for bombs, match hashes, leave out duplicates, and write
lossless PNG.

CPU seconds are those of a run with all its processes, less those of a run over an empty list (the
imports, and whatever else does not depend on the pictures). Also printed with all of it.
Goal: 1.5 times as many pictures per second of CPU, at every size.
"""

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from benchmarks.goals import goal
from benchmarks.pdq import photographs
from benchmarks.timing import save

SIDE = 256  # pixels, of the longer side of what is written
_GOAL = 1.5
_PEER = """
import sys
from img2dataset import download
if __name__ == "__main__":
    listed, out, side = sys.argv[1:]
    download(
        url_list=listed, output_folder=out, input_format="parquet", url_col="url",
        caption_col="caption", output_format="webdataset", processes_count=1, thread_count=16,
        image_size=int(side), resize_mode="keep_ratio_largest", resize_only_if_bigger=True,
        enable_wandb=False, retries=0,
    )
"""


def serve(folder: Path) -> str:
    """Serve a folder from a process of its own, until this one ends; its address."""
    command = [sys.executable, "-m", "benchmarks.ingest", "--serve", str(folder)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    assert child.stdout is not None
    return child.stdout.readline().strip()


def _serve(folder: str) -> None:
    class Quiet(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    sys.stdin.read()  # until the parent is gone


def ours(listed: Path, work: Path, host: str) -> list[str]:
    """The command of an ingest of this list."""
    return [
        *(sys.executable, "-m", "benchmarks.ingest"),
        *("--ingest", str(listed), "--folder", str(work), "--host", host),
    ]


def _ingest(listed: str, work: Path, host: str) -> None:
    from kontext.engine.run import Engine
    from kontext.engine.stage import Reporter
    from kontext.stages import STAGES
    from schemas.recipes import Recipe, load_recipe

    recipe = load_recipe("ci").model_dump()
    recipe |= {"name": "benchmark"}
    recipe["ingest"] |= {
        "sources": [{"kind": "pairs", "path": listed}] if listed else [],
        "max_side": SIDE,
        "processes": 1,
        "web": {"allowed_hosts": [host], "host_wait": 0},
    }
    store, catalog = f"file://{work}/store", work / "catalog.sqlite"
    engine = Engine(Recipe.model_validate(recipe), store, catalog, work, stages=STAGES)
    import logging

    made = engine.run_stage("ingest", Reporter(logging.getLogger("benchmark")))
    kept = engine.artifacts.open("ingest", made.digest).table("images").num_rows
    print(json.dumps({"kept": kept}))


def peer(python: str, listed: Path, work: Path) -> list[str]:
    """The command of img2dataset over this list."""
    script = work.with_suffix(".py")
    script.write_text(_PEER)
    return [python, str(script), str(listed), str(work), str(SIDE)]


def cpu_seconds(command: Sequence[str]) -> tuple[float, str]:
    """CPU time of a command with all its processes, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    threads = {"OMP_NUM_THREADS": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **threads}
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(done.stderr)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used, done.stdout


def listing(path: Path, url: str, names: Sequence[str]) -> Path:
    """A list of addresses, as both read it."""
    rows = {"url": [f"{url}/{name}" for name in names], "caption": [f"waves {n}" for n in names]}
    schema = pa.schema([("url", pa.string()), ("caption", pa.string())])
    pq.write_table(pa.table(rows, schema), path)
    return path


def draw(folder: Path, count: int, megapixels: float) -> list[str]:
    """So many photographs as JPEG files; their names."""
    names = [f"{megapixels:g}-{number:05d}.jpg" for number in range(count)]
    for name, rgb in zip(names, photographs(count, megapixels), strict=True):
        buffer = io.BytesIO()
        Image.fromarray(rgb).save(buffer, "JPEG", quality=90)
        (folder / name).write_bytes(buffer.getvalue())
    return names


def compare(args: argparse.Namespace, folder: Path) -> None:
    """All sizes, one after the other, both tools in turn; printed, judged and saved."""
    files = folder / "files"
    files.mkdir()
    url = serve(files)
    host = url.removeprefix("http://")
    runs: dict[str, Callable[[Path, Path], list[str]]] = {
        "kontext": lambda listed, work: ours(listed, work, host),
        "img2dataset": lambda listed, work: peer(args.peer, listed, work),
    }
    one = listing(folder / "one.parquet", url, draw(files, 1, 0.01))
    base = {name: cpu_seconds(run(one, folder / f"{name}-one"))[0] for name, run in runs.items()}
    print("one tiny picture: " + ", ".join(f"{n} {s:.1f} s" for n, s in base.items()))
    record, reached = {}, []
    for megapixels, count in zip(args.megapixels, args.images, strict=True):
        names = draw(files, count, megapixels)
        listed = listing(folder / f"{megapixels:g}.parquet", url, names)
        used = {}
        for name, run in runs.items():
            used[name], said = cpu_seconds(run(listed, folder / f"{name}-{megapixels:g}"))
            if name == "kontext":
                assert json.loads(said.splitlines()[-1])["kept"] == count, said
        rate = {name: count / (seconds - base[name]) for name, seconds in used.items()}
        whole = used["img2dataset"] / used["kontext"]
        times = rate["kontext"] / rate["img2dataset"]
        each = ", ".join(f"{name} {value:.1f}" for name, value in rate.items())
        print(f"{megapixels:g} megapixels, {count} files: {each} pictures per CPU second")
        print(f"  with start and end: {whole:.2f} times as many")
        reached.append(goal(f"  {megapixels:g} megapixels", times, _GOAL, " ×", at_least=True))
        record[f"{megapixels:g}"] = {
            "files": count,
            "cpu_seconds": used,
            "pictures_per_cpu_second": rate,
            "ratio": times,
            "ratio_whole": whole,
        }
        for name in names:
            (files / name).unlink()
    save("ingest", torch.device("cpu"), {"by_megapixels": record, "start_cpu_seconds": base})
    sys.exit(not all(reached))


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", help="python of an environment with img2dataset")
    parser.add_argument("--megapixels", type=float, nargs="+", default=[0.26, 2, 12])
    parser.add_argument("--images", type=int, nargs="+", default=[200, 100, 40])
    for hidden in ("serve", "ingest", "host"):
        parser.add_argument(f"--{hidden}", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        _serve(args.serve)
    elif args.ingest:
        _ingest(args.ingest, args.folder, args.host)
    elif not args.peer:
        parser.error("--peer PYTHON: an environment with img2dataset")
    else:
        with tempfile.TemporaryDirectory(prefix="kontext-ingest-") as temporary:
            compare(args, Path(temporary))


if __name__ == "__main__":
    main()
