"""From what the sources hold to what training gets: how many are left at each step, and why."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from kontext.store.artifacts.artifact_store import Artifact

CHANGES_RESULTS = False  # shows what is there

Inputs = Mapping[str, Artifact]
Losses = tuple[tuple[str, int], ...]  # (reason, how many), the most first
OUTCOMES = "outcomes.parquet"
_DROPPED = "dropped/"  # metrics of stage shard


@dataclass(frozen=True)
class Step:
    """What is left after a step, of images or of pairs, and what it took away."""

    name: str
    what: str
    count: int
    unit: str  # images or pairs
    share: float  # of the largest step of the same unit, 0 to 1
    lost: Losses = ()


@dataclass(frozen=True)
class Filter:
    """One reason to reject a pair: how many have it, and how many have no other."""

    reason: str
    rejects: int
    alone: int  # would be accepted without it


def steps(inputs: Inputs) -> list[Step]:
    """Seen, planned and kept images; proposed, mined, captioned, screened and sharded pairs."""
    ingest, shard = (inputs[name].manifest.metrics for name in ("ingest", "shard"))
    planned, kept = (int(ingest.get(f"images_{n}") or 0) for n in ("planned", "kept"))
    skipped = int(ingest.get("entries_skipped") or 0)
    outcomes: Counter[str] = Counter()
    counts = inputs["mine"].json("counts.json")
    for row in counts["outcomes"]:
        outcomes[row["outcome"]] += row["pairs"]
    pairs = inputs["mine"].table("pairs.parquet").num_rows
    status = Counter(inputs["caption"].table("captions.parquet")["status"].to_pylist())
    accepted = inputs["screen"].table("accepted.parquet")
    passed = pc.sum(accepted["accept"]).as_py() or 0
    captioned = _captioned(inputs)
    sharded = inputs["shard"].table("splits.parquet").num_rows
    reasons = {f.reason: f.rejects for f in filters(accepted)}
    of_screen = Counter({r: n for r, n in reasons.items() if not r.startswith("caption_")})
    split = Counter(
        {
            name.removeprefix(_DROPPED): int(count or 0)
            for name, count in shard.items()
            if name.startswith(_DROPPED)
            and name.removeprefix(_DROPPED) not in reasons
            and isinstance(count, int | float)
        }
    )
    images = [
        ("seen", "files and rows of the sources", planned + skipped, Counter[str]()),
        ("planned", "images to read", planned, Counter({"left out by the source": skipped})),
        ("kept", "decoded, through the hash gate, each once", kept, _rejected(inputs["ingest"])),
    ]
    proposed = int(counts["proposed"])
    of_pairs = [
        ("proposed", "by miners and by sources", proposed, Counter[str]()),
        ("mined", "within quotas and caps", pairs, Counter({**outcomes, "kept": 0})),
        ("captioned", "have an instruction", captioned, Counter({**status, "ok": 0})),
        ("screened", "pass safety and quality", passed, of_screen),
        ("sharded", "in a split of their own", sharded, split),
    ]
    return _of("images", images) + _of("pairs", of_pairs)


def _captioned(inputs: Inputs) -> int:
    captions = inputs["caption"].table("captions.parquet")
    return int(pc.sum(pc.equal(captions["status"], "ok")).as_py() or 0)


def _rejected(ingest: Artifact) -> Counter[str]:
    """Reasons of planned images that were not kept; canaries are none of them."""
    if not ingest.names(OUTCOMES):  # of an earlier kontext: entries that were left out too
        rejects = ingest.table("rejects.parquet")
        return _counts(rejects.filter(pc.not_equal(rejects["source"], "canary"))["reason"])
    outcomes = ingest.table(OUTCOMES)
    planned = pc.and_(pc.invert(outcomes["made"]), pc.not_equal(outcomes["source"], "canary"))
    own = outcomes.filter(planned)
    found = _counts(own["outcome"])
    del found["kept"]
    return found


def _of(unit: str, rows: Iterable[tuple[str, str, int, Counter[str]]]) -> list[Step]:
    listed = list(rows)
    most = max((count for _, _, count, _ in listed), default=0) or 1
    return [
        Step(name, what, count, unit, count / most, _losses(lost))
        for name, what, count, lost in listed
    ]


def _losses(lost: Counter[str]) -> Losses:
    return tuple((reason, count) for reason, count in lost.most_common() if count)


def filters(accepted: pa.Table) -> list[Filter]:
    """Every reject reason of the screen's `accepted` table, the most frequent first."""
    reasons = accepted["reject_reasons"]
    every = _counts(pc.list_flatten(reasons))
    only = reasons.filter(pc.equal(pc.list_value_length(reasons), 1))
    alone = _counts(pc.list_flatten(only))
    return [Filter(reason, count, alone[reason]) for reason, count in every.most_common()]


def _counts(values: pa.ChunkedArray) -> Counter[str]:
    found = pc.value_counts(values)
    return Counter({row["values"]: row["counts"] for row in found.to_pylist()})
