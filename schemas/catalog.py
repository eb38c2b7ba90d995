"""What the catalog holds: dataset tables, the safety ledger, votes, and the tables about runs."""

import pyarrow as pa

from schemas import tables as t
from schemas.metrics import scores_of_items

_PARENT = pa.struct([("stage", pa.string()), ("digest", pa.string())])


_DATASET = pa.field("dataset", pa.string(), metadata={"comment": "dataset name, see datasets"})


def _of_dataset(schema: pa.Schema) -> pa.Schema:
    return pa.schema([_DATASET, *schema], metadata=schema.metadata)


LEDGER = pa.schema(
    [
        *t.DECISIONS,
        *t.table_schema(
            "",
            ("decided_at", pa.timestamp("us", tz="UTC"), "when it entered the ledger"),
            ("run", pa.string(), "orchestrator run; empty outside one"),
            ("artifact", pa.string(), "stage/digest that made the decision"),
            ("prev_hash", pa.string(), "row_hash of the row before; 64 zeros for the first"),
            ("row_hash", pa.string(), "HMAC-SHA256 of all other columns"),
        ),
    ],
    metadata={
        "comment": "The signed, chained safety ledger: every decision, when and by which run."
    },
)

POLICY = t.table_schema(
    "Thresholds in force; the views read them, so changing one changes what is accepted.",
    ("name", pa.string(), "threshold; <name>@<relation_class> overrides <name>"),
    ("value", pa.float64(), "limit"),
)

# Rows of the latest version of every dataset; earlier versions answer by time travel.
DATASET_TABLES: dict[str, pa.Schema] = {
    name: _of_dataset(schema)
    for name, schema in {
        "images": pa.schema([f for f in t.IMAGES if f.name != "scores"], t.IMAGES.metadata),
        "pairs": t.PAIRS,
        "captions": t.CAPTIONS,
        "judgements": t.JUDGEMENTS,
        "pair_scores": t.PAIR_SCORES,
        "image_scores": t.IMAGE_SCORES,
        "safety_decisions": LEDGER,
        "rejects": t.REJECTS,
        "splits": t.SPLITS,
        "shards": t.SHARDS,
        "shard_members": t.SHARD_MEMBERS,
        "policy": POLICY,
    }.items()
}


def _columns(schema: pa.Schema, *names: str) -> list[t.Column]:
    fields = [schema.field(name) for name in names]
    return [(field.name, field.type, field.metadata[b"comment"].decode()) for field in fields]


_NOT_SHOWN = ("pair_id", "unmatchable", "text_reason", "ncii_reason")
_SHOWN_SCORES = [name for name in t.PAIR_SCORES.names if name not in _NOT_SHOWN]
# Written by the committer from the tables above, in their transaction (store/catalog/facts.py).
PAIR_FACTS = _of_dataset(
    t.table_schema(
        "One row per pair: all that is known about it, and the verdict under the policy in force.",
        *_columns(t.PAIRS, "pair_id"),
        ("category", pa.string(), "local, global, character, style, text or t2i"),
        *_columns(t.PAIRS, "relation", "miner", "params", "context_ids", "target_id"),
        ("group_key", pa.string(), "the concept, character or scene"),
        *_columns(t.PAIRS, "source", "license_spdx"),
        ("target_license", pa.string(), "licence of the target image"),
        ("target_author", pa.string(), "author of the target image"),
        ("instruction", pa.string(), "edit instruction; for T2I the target caption"),
        *_columns(t.CAPTIONS, "instruction_short", "instruction_inverse", "target_caption"),
        ("caption_status", pa.string(), "ok, refused, malformed, empty or missing"),
        ("split", pa.string(), "train, val or test; null where no shard holds it"),
        ("component_id", pa.string(), "connected component; null where no shard holds it"),
        *_columns(t.PAIR_SCORES, *_SHOWN_SCORES),
        ("accept", pa.bool_(), "whether training may use it"),
        ("reject_reasons", pa.list_(pa.string()), "every reason why not; empty when accepted"),
    )
)

DATASETS = t.table_schema(
    "Dataset versions, one catalog snapshot each: `kontext sql --at NAME@vN` answers as it was.",
    ("name", pa.string(), "dataset name"),
    ("version", pa.int32(), "1, 2, ... per name"),
    ("snapshot_id", pa.int64(), "catalog snapshot that committed it"),
    ("dataset_digest", pa.string(), "SHA-256 over input artifacts and table contents"),
    ("inputs", pa.list_(_PARENT), "artifacts it was made from"),
    ("images", pa.int64(), "images in it"),
    ("pairs", pa.int64(), "pairs in it, accepted or not"),
    ("message", pa.string(), "commit message"),
    ("committed_at", pa.timestamp("us", tz="UTC"), "when"),
)
RUNS = t.table_schema(
    "One row per artifact that was made.",
    ("stage", pa.string(), "stage name"),
    ("digest", pa.string(), "artifact digest"),
    ("recipe", pa.string(), "recipe name"),
    ("config", pa.string(), "JSON: the stage's resolved recipe section"),
    ("code_digest", pa.string(), "SHA-256 over the stage's sources"),
    ("inputs", pa.list_(_PARENT), "artifacts it was made from"),
    ("created_at", pa.timestamp("us", tz="UTC"), "when it was finished"),
    ("seconds", pa.float64(), "how long the work took"),
    ("git_commit", pa.string(), "commit of the code; empty outside git"),
    ("packages", pa.string(), "JSON: versions of the packages that decide results"),
    ("kernels", pa.string(), "JSON: which kernel served which role"),
    ("notes", pa.list_(pa.string()), "fallbacks taken and limits met"),
    ("run", pa.string(), "orchestrator run; empty outside one"),
)
ARTIFACTS = t.table_schema(
    "Files of every artifact.",
    ("stage", pa.string(), "stage name"),
    ("digest", pa.string(), "artifact digest"),
    ("file", pa.string(), "name inside the artifact"),
    ("sha256", pa.string(), "content, also its key below blobs/sha256/"),
    ("bytes", pa.uint64(), "size"),
)
METRICS = t.table_schema(
    "Metrics of every artifact.",
    ("stage", pa.string(), "stage name"),
    ("digest", pa.string(), "artifact digest"),
    ("name", pa.string(), "metric"),
    ("value", pa.float64(), "number; true is 1; null for words"),
    ("text", pa.string(), "words; empty for numbers"),
)
EVALUATED_ITEMS = t.table_schema(
    "One row per evaluation, held-out item and model: what was asked, the scores, and the picture.",
    ("digest", pa.string(), "digest of the evaluate artifact"),
    ("recipe", pa.string(), "recipe name"),
    ("run", pa.string(), "orchestrator run; empty outside one"),
    ("evaluated_at", pa.timestamp("us", tz="UTC"), "when"),
    ("model", pa.string(), "teacher or student"),
    ("model_stage", pa.string(), "stage that made the model"),
    ("model_digest", pa.string(), "digest of the artifact that is the model"),
    ("pair_id", pa.string(), "key into pairs"),
    ("category", pa.string(), "local, global, character, style or text"),
    ("relation", pa.string(), "what changes"),
    ("instruction", pa.string(), "what was asked"),
    ("source", pa.string(), "source of the target image"),
    ("component_id", pa.string(), "connected component: items that share one are related"),
    ("success", pa.bool_(), "whether the edit succeeded"),
    *((name, pa.float64(), text) for name, text in scores_of_items().items()),
    ("picture", pa.string(), "name of the edited picture; null where an older kontext kept none"),
    ("object", pa.string(), "object of the store in which the picture lies"),
    ("offset_bytes", pa.uint64(), "first byte of the PNG in that object"),
    ("length_bytes", pa.uint64(), "bytes of the PNG"),
)
_SHOWN = "what was shown on the {}: an editor, or identity, oracle or wrong"
_ANSWER = "left, right, tie or skip: "
VOTES = t.table_schema(
    "One row per vote of the arena: which of two edits is better, in three ways.",
    ("vote_id", pa.string(), "SHA-256 of evaluation, pool, rater, pair and editors: one each"),
    ("evaluation", pa.string(), "digest of the evaluate artifact whose edits were shown"),
    ("pool", pa.string(), "people or vlm: who votes there; never rated together"),
    ("rater", pa.string(), "the name that was given"),
    ("pair_id", pa.string(), "key into pairs"),
    ("category", pa.string(), "local, global, character, style, text, recolouring or removal"),
    ("component_id", pa.string(), "connected component: items that share one are related"),
    ("left_editor", pa.string(), _SHOWN.format("left")),
    ("right_editor", pa.string(), _SHOWN.format("right")),
    ("gold", pa.bool_(), "the answer is known: it tests the rater and rates no editor"),
    ("seed", pa.int64(), "with vote_id it drew which editor was on the left"),
    ("instruction", pa.string(), _ANSWER + "which does what was asked"),
    ("consistency", pa.string(), _ANSWER + "which keeps the rest as it was"),
    ("quality", pa.string(), _ANSWER + "which looks better"),
    ("seconds", pa.float64(), "from the pictures to the last answer, as the page says"),
    ("voted_at", pa.timestamp("us", tz="UTC"), "when"),
)
ABOUT_RUNS = ("runs", "artifacts", "metrics", "evaluated_items")  # rows of each finished stage

TABLES: dict[str, pa.Schema] = {
    **DATASET_TABLES,
    "pair_facts": PAIR_FACTS,
    "datasets": DATASETS,
    "runs": RUNS,
    "artifacts": ARTIFACTS,
    "metrics": METRICS,
    "evaluated_items": EVALUATED_ITEMS,
    "votes": VOTES,
}
