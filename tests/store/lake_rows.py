"""Small, valid rows for every dataset table."""

from typing import Any

import pyarrow as pa

from schemas.catalog import DATASET_TABLES


def rows(name: str, *given: dict[str, Any]) -> pa.Table:
    """A table of the lake (without its dataset column); columns not given are empty or zero."""
    schema = pa.schema(list(DATASET_TABLES[name])[1:])
    return pa.Table.from_pylist(
        [{field.name: row.get(field.name, _zero(field.type)) for field in schema} for row in given],
        schema=schema,
    )


def dataset(pairs: int, policy: dict[str, float]) -> dict[str, pa.Table]:
    """All tables of a dataset in which pair i has l1 = i/100 and lies in train, val or test."""
    ids = [f"p{i:02d}" for i in range(pairs)]
    classes = ("local", "style", "t2i")
    found = {name: rows(name) for name in DATASET_TABLES}
    found |= {
        "images": rows(
            "images", *({"pixel_id": f"x{i}", "license_spdx": "MIT"} for i in range(pairs))
        ),
        "pairs": rows(
            "pairs",
            *(
                {"pair_id": p, "relation_class": classes[i % 3], "target_id": f"x{i}"}
                for i, p in enumerate(ids)
            ),
        ),
        "captions": rows("captions", *({"pair_id": p, "status": "ok"} for p in ids)),
        "pair_scores": rows(
            "pair_scores",
            *({"pair_id": p, "l1": i / 100, "change_kept": 1.0} for i, p in enumerate(ids)),
        ),
        "splits": rows(
            "splits",
            *(
                {"pair_id": p, "split": "test" if i % 5 == 4 else "train"}
                for i, p in enumerate(ids)
            ),
        ),
        "policy": rows("policy", *({"name": n, "value": v} for n, v in policy.items())),
        "safety_decisions": rows(
            "safety_decisions",
            {"check": "hash_gate", "outcome": "drop", "reason": "canary", "subject_hmac": "a"},
            {"check": "classifier", "outcome": "pass", "subject_hmac": "b"},
        ),
    }
    return found


def _zero(kind: pa.DataType) -> Any:
    if pa.types.is_list(kind):
        return []
    if pa.types.is_boolean(kind):
        return False
    if pa.types.is_string(kind):
        return ""
    if pa.types.is_fixed_size_binary(kind):
        return bytes(kind.byte_width)
    return 0
