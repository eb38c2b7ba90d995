"""The pairs that a query names, ready to be drawn.

A picture that safety keeps out of the data is not drawn either: pairs that were rejected for their
quality are shown whole, others by their text and reasons alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from kontext.data.images import ImageBank
from kontext.errors import CatalogError
from kontext.store.artifacts.artifact_store import ArtifactStore
from kontext.store.catalog.catalog import Catalog
from kontext.store.catalog.rows import plain_rows
from kontext.store.lake.ddl import quote
from schemas.risks import risks

CHANGES_RESULTS = False  # shows what is there

SCORES = (
    "clip_t",
    "clip_i",
    "clip_dir",
    "ssim",
    "l1",
    "changed_frac",
    "largest_blob",
    "misalignment",
    "sharpness",
    "change_kept",
    "pdq_distance",
)
_OF_QUALITY = (
    *("caption_", "clip_", "ssim_", "l1_", "changed_frac_", "pdq_distance_", "edit_"),
    *("largest_blob_", "misalignment_", "sharpness_"),
)
_UNDESCRIBED = "caption_refused"
_NO_RISK = ("exposure_delta", *SCORES)


@dataclass(frozen=True)
class Card:
    """One pair. `contexts` and `target` are PNG; empty where `hidden` says why."""

    pair_id: str
    instruction: str
    category: str
    relation: str
    miner: str
    split: str
    source: str
    licence: str
    author: str
    accepted: bool
    reasons: tuple[str, ...]
    scores: Mapping[str, float]
    risks: Mapping[str, float]
    more: Mapping[str, str] = field(default_factory=dict)  # the query's other columns
    contexts: tuple[bytes, ...] = ()
    target: bytes = b""
    hidden: str = ""


def cards_of(
    answer: pa.Table,
    catalog: Catalog,
    artifacts: ArtifactStore,
    dataset: str,
    at: str | None = None,
    most: int = 200,
) -> list[Card]:
    """A card per row of a query's answer that has a column `pair_id`, in its order.

    Raises:
        CatalogError: no such column, no row, or a pair that the dataset does not have.
    """
    if "pair_id" not in answer.column_names:
        raise CatalogError("the query names no pairs: it has no column pair_id")
    rows = plain_rows(answer.slice(0, most))
    if not rows:
        raise CatalogError("the query finds no pair")
    ids = [str(row["pair_id"]) for row in rows]
    facts = _facts(catalog, ids, dataset, at)
    if missing := [pair_id for pair_id in ids if pair_id not in facts]:
        raise CatalogError(f"dataset {dataset} has no pair {missing[0][:12]}")
    bank = _bank(catalog, artifacts, dataset, at)
    return [_card(row, facts[str(row["pair_id"])], bank) for row in rows]


def _facts(
    catalog: Catalog, ids: Sequence[str], dataset: str, at: str | None
) -> dict[str, dict[str, Any]]:
    """Pair id -> its row of pair_facts."""
    named = ", ".join(quote(pair_id) for pair_id in sorted(set(ids)))
    found = catalog.query(
        f"SELECT * FROM pair_facts WHERE dataset = {quote(dataset)} AND pair_id IN ({named})",
        at=at,
    )
    return {row["pair_id"]: row for row in found.to_pylist()}


def _bank(catalog: Catalog, artifacts: ArtifactStore, dataset: str, at: str | None) -> ImageBank:
    """The pictures that the dataset's version was made from."""
    made = catalog.query(
        f"SELECT inputs FROM datasets WHERE name = {quote(dataset)} ORDER BY version DESC LIMIT 1",
        at=at,
    )["inputs"][0].as_py()
    digest = next(one["digest"] for one in made if one["stage"] == "ingest")
    return ImageBank(artifacts.open("ingest", digest))


def _card(row: Mapping[str, Any], facts: Mapping[str, Any], bank: ImageBank) -> Card:
    reasons = tuple(facts["reject_reasons"] or ())
    # a plug-in's risk may begin as one of quality does; nor is a model's refusal one of quality
    risky = {_UNDESCRIBED, *(f"{name}_max" for name in risks())}
    unsafe = [one for one in reasons if one in risky or not one.startswith(_OF_QUALITY)]
    hidden = (
        f"not shown: {', '.join(unsafe)}" if unsafe or (not facts["accept"] and not reasons) else ""
    )
    pictures = [] if hidden else [bank.png(i) for i in (*facts["context_ids"], facts["target_id"])]
    shown = {"pair_id", "instruction", "category", "split", "dataset", *SCORES}
    return Card(
        pair_id=facts["pair_id"],
        instruction=facts["instruction"] or "",
        category=facts["category"],
        relation=facts["relation"],
        miner=facts["miner"],
        split=facts["split"] or "",
        source=facts["source"],
        licence=facts["license_spdx"],
        author=facts["target_author"] or "",
        accepted=bool(facts["accept"]),
        reasons=reasons,
        scores={name: facts[name] for name in SCORES if facts[name] is not None},
        risks={
            name.removesuffix("_max"): value
            for name, value in facts.items()
            if name.endswith("_max") and name not in _NO_RISK and value is not None
        },
        more={k: str(v) for k, v in row.items() if k not in shown and v is not None},
        contexts=tuple(pictures[:-1]),
        target=pictures[-1] if pictures else b"",
        hidden=hidden,
    )
