"""The fault matrix: `python -m tests.faults` (or `make faults`).

Breaks the pipeline in every way of the list, then asks after each: does the same command complete,
are all bytes those of an undisturbed run, are `artifacts verify` and `safety verify` clean, is no
run left Running? Writes the table of docs/faults.md. Exit 1 when a case failed.
"""

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.seaweed import KEYS, NoServer, seaweed
from tests.faults.cases import DIRECT, Case, Skipped
from tests.faults.lab import Lab, Trouble
from tests.faults.proxy import FaultProxy
from tests.faults.s3_cases import S3, S3_CASES
from tests.faults.server_cases import SERVER_CASES, close_server

TABLE = Path(__file__).resolve().parents[2] / "docs" / "faults.md"


@dataclass(frozen=True)
class Row:
    """One case's outcome."""

    case: Case
    outcome: str  # passed, FAILED or skipped
    seconds: float
    said: str = ""


def main() -> int:
    """Run the cases asked for and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="a regular expression for group or name")
    parser.add_argument("--list", action="store_true", help="list the cases and stop")
    parser.add_argument("--root", type=Path, help="folder to keep (default: a temporary one)")
    parser.add_argument("--minutes", type=float, default=120, help="start no case after this")
    parser.add_argument("--table", type=Path, default=TABLE, help="where the table goes")
    chosen = parser.parse_args()
    cases = [
        case
        for case in (*DIRECT, *S3_CASES, *SERVER_CASES)
        if re.search(chosen.only, f"{case.group}: {case.name}", re.IGNORECASE)
    ]
    if chosen.list:
        for case in cases:
            print(f"{case.group}: {case.name}")
        return 0
    root = chosen.root or Path(tempfile.mkdtemp(prefix="kontext-faults-"))
    try:
        rows = run_all(root, cases, chosen.minutes)
    finally:
        if chosen.root is None:
            shutil.rmtree(root, ignore_errors=True)
    chosen.table.write_text(table(merged(chosen.table, rows)))
    failed = [row for row in rows if row.outcome == "FAILED"]
    print(f"{len(rows) - len(failed)} of {len(rows)} without fault, {len(failed)} failed")
    return 1 if failed else 0


def run_all(root: Path, cases: list[Case], minutes: float) -> list[Row]:
    """Every case in turn; what the machine lacks or has no time for is skipped by name."""
    began = time.monotonic()
    lab = Lab(root)
    lab.prepare()
    print(f"undisturbed run: {time.monotonic() - began:.0f} s", flush=True)
    rows = []
    with _s3(root) as trouble:
        for case in cases:
            late = time.monotonic() - began > 60 * minutes
            lacking = trouble if case in S3_CASES else ""
            why = "out of time" if late else lacking
            row = Row(case, "skipped", 0.0, why) if why else one(lab, case)
            rows.append(row)
            print(f"{row.outcome:8} {row.seconds:5.0f} s  {case.group}: {case.name}  {row.said}",
                  flush=True)  # fmt: skip
    close_server()
    return rows


def one(lab: Lab, case: Case) -> Row:
    """Run one case."""
    began = time.monotonic()
    try:
        case.run(lab)
    except Skipped as reason:
        return Row(case, "skipped", time.monotonic() - began, str(reason))
    except (Trouble, OSError, subprocess.SubprocessError) as error:
        return Row(case, "FAILED", time.monotonic() - began, str(error).replace("\n", " ")[:300])
    return Row(case, "passed", time.monotonic() - began)


@contextmanager
def _s3(root: Path) -> Iterator[str]:
    """SeaweedFS behind the proxy; yields why not, if it cannot be had."""
    try:
        with seaweed(root / "weed") as endpoint:
            S3.proxy, S3.keys = FaultProxy(endpoint), dict(KEYS)
            os.environ.update(S3.keys, AWS_ENDPOINT_URL=endpoint, AWS_REGION="us-east-1")
            yield ""
            S3.proxy.close()
    except NoServer as error:
        yield str(error)


def merged(path: Path, rows: list[Row]) -> list[Row]:
    """The cases in the command's order: those just run, and the others as the file has them."""
    found = {(row.case.group, row.case.name): row for row in rows}
    text = path.read_text() if path.exists() else ""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if len(cells) == 4 and cells[3].isdigit():
            outcome, _, said = cells[2].replace("\\|", "|").partition(": ")
            old = Row(Case(cells[0], cells[1], lambda _: None), outcome, float(cells[3]), said)
            found.setdefault((cells[0], cells[1]), old)
    known = [(case.group, case.name) for case in (*DIRECT, *S3_CASES, *SERVER_CASES)]
    return [found[key] for key in known if key in found]


def table(rows: list[Row]) -> str:
    """docs/faults.md."""
    words = ("passed", "FAILED", "skipped")
    counts = {word: sum(row.outcome == word for row in rows) for word in words}
    lines = [
        "# Fault matrix",
        "",
        "Written by `make faults` (`python -m tests.faults`). After each fault the same command",
        "was given again. *Passed* means: it completed, every file has the SHA-256 of an",
        "undisturbed run's, `kontext artifacts verify` and `kontext safety verify` are clean, and",
        "(with a server) no run was left Running.",
        "",
        f"Last run {datetime.now(UTC):%Y-%m-%d} on {platform.system()} {platform.machine()}, "
        f"{os.cpu_count()} cores, Python {platform.python_version()}; rows of cases that were not "
        "part of it are from earlier runs. "
        f"{counts['passed']} passed, {counts['FAILED']} failed, {counts['skipped']} skipped.",
        "",
        "| what | fault | outcome | seconds |",
        "|---|---|---|---|",
    ]
    for row in rows:
        said = f": {row.said}".replace("|", "\\|") if row.said else ""
        outcome = f"{row.outcome}{said}"
        lines.append(f"| {row.case.group} | {row.case.name} | {outcome} | {row.seconds:.0f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
