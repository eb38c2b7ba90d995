"""The SQL views, and the acceptance rule that the screen stage shares with the lake."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import duckdb
import pyarrow as pa

from kontext.errors import CatalogError
from schemas.risks import risks
from schemas.tables import JUDGED_SCORES, JUDGEMENTS

CHANGES_RESULTS = True
DATA_FILES = ("../../../schemas/views/acceptance.sql",)  # the others only show what is there

_NAMES = (  # in order of dependence
    "acceptance",
    "train_pairs",
    "rejected_pairs",
    "safety_summary",
    "pairs_by_category",
    "license_summary",
    "pair_files",
    "stage_runs",
    "lineage",
)
THRESHOLDS = (
    *(f"{name}_max{kind}" for name in risks() for kind in ("", "_unmatchable")),
    "exposure_delta_max",
    "l1_min",
    "changed_frac_min",
    "largest_blob_min",
    "misalignment_max",
    "sharpness_min",
    "change_kept_min",  # 0.95 where a policy does not say
    "ssim_max",
    "pdq_distance_min",
    "clip_t_min",
    "clip_dir_min",
    *(f"judge_{score}_min" for score in JUDGED_SCORES),
)
_VERDICTS = pa.schema(
    [("pair_id", pa.string()), ("accept", pa.bool_()), ("reject_reasons", pa.list_(pa.string()))]
)


@dataclass(frozen=True)
class View:
    """A view of the catalog; its file starts with the comment people see."""

    name: str
    comment: str
    sql: str


@cache
def views() -> tuple[View, ...]:
    """All views, in an order in which they can be created."""
    folder = resources.files("schemas").joinpath("views")
    return tuple(_parse(name, folder.joinpath(f"{name}.sql").read_text()) for name in _NAMES)


def views_digest() -> str:
    """SHA-256 over the text of all views."""
    return hashlib.sha256("\0".join(view.sql for view in views()).encode()).hexdigest()


def acceptance(
    pairs: pa.Table,
    captions: pa.Table,
    pair_scores: pa.Table,
    thresholds: Mapping[str, float],
    judgements: pa.Table | None = None,
) -> pa.Table:
    """Apply the acceptance rule to tables in memory: exactly the lake's `acceptance` view.

    `judgements` are there where a recipe asks for a judge.

    Returns columns pair_id, accept, reject_reasons (list of string, empty when accepted), one row
    per pair, sorted by pair_id. Raises CatalogError for a threshold name no rule knows.
    """
    check_thresholds(thresholds)
    for risk in risks().values():
        if risk.column not in pair_scores.column_names:  # null, as in the lake
            nulls = pa.nulls(pair_scores.num_rows, pa.float32())
            pair_scores = pair_scores.append_column(risk.column, nulls)
    policy = policy_table(thresholds)
    judged = JUDGEMENTS.empty_table() if judgements is None else judgements
    tables = {
        "pairs": pairs,
        "captions": captions,
        "pair_scores": pair_scores,
        "policy": policy,
        "judgements": judged,
    }
    with duckdb.connect() as connection:
        connection.execute("SET threads = 1")
        for name, table in tables.items():
            dataset = pa.array([""] * table.num_rows, pa.string())
            connection.register(name, table.append_column("dataset", dataset))
        rule = views()[0].sql
        found = connection.execute(
            f"SELECT pair_id, accept, reject_reasons FROM ({rule}) ORDER BY pair_id"
        ).to_arrow_table()
    return found.cast(_VERDICTS)


def policy_table(thresholds: Mapping[str, float]) -> pa.Table:
    """Thresholds as rows of the table `policy`, without its dataset; sorted by name."""
    kinds = pa.schema([("name", pa.string()), ("value", pa.float64())])
    rows = [{"name": name, "value": float(thresholds[name])} for name in sorted(thresholds)]
    return pa.Table.from_pylist(rows, kinds)


def check_thresholds(thresholds: Mapping[str, float]) -> None:
    """Refuse threshold names that no rule reads: a misspelt limit is no limit."""
    for name in thresholds:
        if name.partition("@")[0] not in THRESHOLDS:
            known = ", ".join(THRESHOLDS)
            raise CatalogError(f"no rule reads the threshold '{name}' (known: {known})")


def _parse(name: str, text: str) -> View:
    lines = text.splitlines()
    head = []
    while lines and lines[0].startswith("-- "):
        head.append(lines.pop(0)[3:])
    assert head, f"view {name} has no comment"
    return View(name, " ".join(head), _FOR_EACH.sub(_repeated, "\n".join(lines)))


_FOR_EACH = re.compile(r" *-- for each (risk|judged score)\n(.*?) *-- end\n", re.DOTALL)


def _repeated(block: re.Match[str]) -> str:
    """The block once per risk or judged score, with its name for {risk} or {score}."""
    names = risks() if block[1] == "risk" else JUDGED_SCORES
    word = block[1].rpartition(" ")[2]
    return "".join(block[2].replace(f"{{{word}}}", name) for name in names)
