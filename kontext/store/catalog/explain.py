"""Everything about one pair, read from the catalog."""

from typing import Any

from kontext.errors import CatalogError
from kontext.store.catalog.catalog import Catalog
from kontext.store.catalog.rows import plain_rows
from kontext.store.lake.ddl import quote

_QUERIES = {
    "source": """
        SELECT CASE WHEN i.pixel_id = p.target_id THEN 'target' ELSE 'context' END AS role,
            i.pixel_id, i.source, i.source_ref, i.concept, i.attributes, i.group_key,
            i.width_px, i.height_px, i.license_spdx, i.author
        FROM pairs p JOIN images i ON i.dataset = p.dataset
            AND (i.pixel_id = p.target_id OR list_contains(p.context_ids, i.pixel_id))
        WHERE p.pair_id = '{id}' AND p.dataset = '{dataset}' ORDER BY role, i.pixel_id""",
    "evidence": """
        SELECT dataset, pair_id, relation_class, relation, miner, miner_version, params, group_key
        FROM pairs WHERE pair_id = '{id}' AND dataset = '{dataset}'""",
    "caption": """
        SELECT instruction, instruction_short, instruction_inverse, target_caption,
            context_caption, template, status, captioner
        FROM captions WHERE pair_id = '{id}' AND dataset = '{dataset}'""",
    "image scores": """
        SELECT s.pixel_id, s.classifier, s.label, round(s.score, 4) AS score
        FROM image_scores s JOIN pairs p ON p.dataset = s.dataset
            AND (s.pixel_id = p.target_id OR list_contains(p.context_ids, s.pixel_id))
        WHERE p.pair_id = '{id}' AND p.dataset = '{dataset}'
        ORDER BY s.score DESC, s.pixel_id, s.label LIMIT 6""",
    "pair scores": """
        SELECT * EXCLUDE (dataset, pair_id) FROM pair_scores
        WHERE pair_id = '{id}' AND dataset = '{dataset}'""",
    "decision": """
        SELECT accept, reject_reasons FROM acceptance
        WHERE pair_id = '{id}' AND dataset = '{dataset}'""",
    "split": """
        SELECT split, component_id FROM splits WHERE pair_id = '{id}' AND dataset = '{dataset}'""",
    "shard": """
        SELECT s.name, s.sha256, m.offset_bytes, m.length_bytes
        FROM shard_members m JOIN shards s USING (dataset, shard_id)
        WHERE m.pair_id = '{id}' AND m.dataset = '{dataset}'""",
}


def find_pair(
    catalog: Catalog, start: str, at: str | None = None, dataset: str = ""
) -> tuple[str, str]:
    """Pair id and dataset of the one pair whose id starts so, at a dataset version or snapshot.

    `dataset` is where it is looked up if it is in several. Raises CatalogError where no pair, or
    more than one, starts so.
    """
    matches = catalog.query(
        f"SELECT pair_id, min_by(dataset, (dataset <> {quote(dataset)}, dataset)) AS dataset "
        f"FROM pairs WHERE starts_with(pair_id, {quote(start)}) "
        "GROUP BY pair_id ORDER BY pair_id LIMIT 3",
        at=at,
    ).to_pylist()
    if len(matches) != 1:
        what = "no pair" if not matches else "more than one pair"
        raise CatalogError(f"{what} starts with '{start}'")
    return matches[0]["pair_id"], matches[0]["dataset"]


def explain(
    catalog: Catalog, pair_id: str, at: str | None = None, dataset: str = ""
) -> dict[str, list[dict[str, Any]]]:
    """Source, evidence, caption, scores, decision, split and shard of one pair, as rows each.

    A unique start of `pair_id` (lower-case hexadecimal) is enough. `at` is a dataset version or a
    snapshot number; None: now. `dataset` is where the pair is looked up if it is in several.
    Raises CatalogError where no pair, or more than one, starts so.
    """
    found, dataset = find_pair(catalog, pair_id, at, dataset)
    names = {"id": found, "dataset": dataset.replace("'", "''")}
    return {
        title: plain_rows(catalog.query(text.format(**names), at=at))
        for title, text in _QUERIES.items()
    }
