"""pair_facts: one row per pair with everything known about it and the verdict, joined at commit.

The joins over pairs, captions, scores, splits and images cost most of a query's time, and nearly
every question needs them. They are paid once, in the transaction that changes what they read, so a
view over `pair_facts` always answers as the joins would.
"""

import duckdb

from kontext.store.catalog.views import views
from kontext.store.lake.ddl import quote


def refresh_facts(connection: duckdb.DuckDBPyConnection, dataset: str) -> None:
    """Write a dataset's rows of pair_facts again, inside the caller's transaction."""
    connection.execute("DELETE FROM pair_facts WHERE dataset = ?", [dataset])
    connection.execute(f"INSERT INTO pair_facts BY NAME {_select(dataset)}")


def _select(dataset: str) -> str:
    def of(table: str) -> str:
        return f"(SELECT * EXCLUDE (dataset) FROM {table} WHERE dataset = {quote(dataset)})"

    # the rule reads these names; narrowed to one dataset, its joins do not meet all the others
    tables = ("pairs", "captions", "judgements", "pair_scores", "policy")
    narrow = ", ".join(
        f"{name} AS (SELECT * FROM lake.main.{name} WHERE dataset = {quote(dataset)})"
        for name in tables
    )
    rule = next(view.sql for view in views() if view.name == "acceptance")
    return f"""
        WITH verdict AS (WITH {narrow} SELECT pair_id, accept, reject_reasons FROM ({rule})),
        target AS (
            SELECT pixel_id, any_value(license_spdx) AS target_license,
                any_value(author) AS target_author
            FROM {of("images")} GROUP BY pixel_id
        )
        SELECT
            {quote(dataset)} AS dataset, p.pair_id, p.relation_class AS category, p.relation,
            p.miner, p.params, p.context_ids, p.target_id, p.group_key, p.source, p.license_spdx,
            target_license, target_author, c.instruction, c.instruction_short,
            c.instruction_inverse, c.target_caption, coalesce(c.status, 'missing')
            AS caption_status, s.split, s.component_id,
            q.* EXCLUDE (pair_id, unmatchable, text_reason, ncii_reason),
            v.accept, v.reject_reasons
        FROM {of("pairs")} p
        JOIN verdict v USING (pair_id)
        LEFT JOIN {of("captions")} c USING (pair_id)
        LEFT JOIN {of("pair_scores")} q USING (pair_id)
        LEFT JOIN {of("splits")} s USING (pair_id)
        LEFT JOIN target t ON t.pixel_id = p.target_id
        ORDER BY p.pair_id
    """
