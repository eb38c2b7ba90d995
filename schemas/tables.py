"""Arrow schemas of every table workers write. Ids are lower-case hex; no column is always null.

Each field carries a `comment`, which the catalog keeps as the column's comment.
"""

from collections.abc import Iterable

import pyarrow as pa

from schemas.risks import Risk, risks

CHANGES_RESULTS = True

Column = tuple[str, pa.DataType, str]


def table_schema(comment: str, *columns: Column) -> pa.Schema:
    """A table: its comment, and (name, type, comment) of each column."""
    fields = [pa.field(name, kind, metadata={"comment": text}) for name, kind, text in columns]
    return pa.schema(fields, metadata={"comment": comment})


CATEGORIES = ("local", "global", "character", "style", "text")  # KontextBench's five tasks
RELATION_CLASSES = (*CATEGORIES, "t2i")

IMAGES = table_schema(
    "One row per accepted image.",
    ("pixel_id", pa.string(), "SHA-256 of the stored RGB8 pixels (with their shape): the key"),
    ("image_id", pa.string(), "SHA-256 of the original bytes"),
    ("pdq", pa.binary(32), "256-bit PDQ perceptual hash"),
    ("pdq_quality", pa.uint8(), "PDQ quality 0-100; below 50 the hash gate cannot match"),
    (
        "crops",
        pa.list_(pa.struct([("pdq", pa.binary(32)), ("pdq_quality", pa.uint8())])),
        "PDQ of each crop to a size in training; none where the whole picture is read",
    ),
    (
        "scores",
        pa.list_(pa.float32()),
        "what the policy's classifiers say, 0 to 1: whole, then each crop (see scored_by.json)",
    ),
    (
        "width_px",
        pa.uint32(),
        "width as stored: the picture's own shape, at most ingest.max_side a side",
    ),
    ("height_px", pa.uint32(), "height as stored"),
    ("orig_width_px", pa.uint32(), "width as decoded"),
    ("orig_height_px", pa.uint32(), "height as decoded"),
    ("bytes", pa.uint64(), "size of the original"),
    ("format", pa.string(), "container format as sniffed"),
    ("source", pa.string(), "source name, e.g. emoji:noto or dicebear:micah"),
    ("source_ref", pa.string(), "name inside the source"),
    ("group_key", pa.string(), "same group = same concept, character or scene"),
    ("concept", pa.string(), "what is shown, in words"),
    ("attributes", pa.string(), "JSON object of exact labels (string to string)"),
    ("license_spdx", pa.string(), "licence of the art"),
    ("author", pa.string(), "author of the art"),
    ("synthetic", pa.bool_(), "rendered from parameters rather than drawn or photographed"),
)

PIXELS = table_schema(
    "Stored pixels, kept apart from the metadata.",
    ("pixel_id", pa.string(), "key into images"),
    ("png", pa.binary(), "lossless PNG, RGB8"),
)

REJECTS = table_schema(
    "Every image that was not accepted, with the reason.",
    ("source", pa.string(), "source name"),
    ("subject_hmac", pa.string(), "HMAC-SHA256 of the image id: joins decisions, recovers nothing"),
    ("source_ref", pa.string(), "name inside the source; empty for safety rejects"),
    ("reason", pa.string(), "decode or safety reject reason"),
    ("detail", pa.string(), "one line; empty for safety rejects"),
)

OUTCOMES = table_schema(
    "What became of every planned image, one row each in the plan's order, and of edits of it.",
    ("source", pa.string(), "source name"),
    ("source_ref", pa.string(), "name inside the source; empty for safety rejects"),
    ("subject_hmac", pa.string(), "HMAC-SHA256 of the image id: joins decisions, recovers nothing"),
    ("outcome", pa.string(), "kept, duplicate, or the reject reason"),
    ("checked", pa.bool_(), "whether the hash gate decided: decisions has its row, in this order"),
    ("pixel_id", pa.string(), "of the stored pixels; empty where none were made"),
    ("made", pa.bool_(), "made of the planned image before it, by an edit; not planned itself"),
    ("item", pa.string(), "HMAC of bytes, labels and settings: the same item has the same outcome"),
)

MOMENTS = table_schema(
    "When the pictures of a series were taken: frames of a video, photographs of a folder.",
    ("pixel_id", pa.string(), "the picture"),
    ("kind", pa.string(), "frame or photograph"),
    ("series", pa.string(), "source, and the video or folder that it is from"),
    ("shot", pa.int64(), "when a frame's shot began, in milliseconds; else 0"),
    ("at_s", pa.float64(), "seconds from the video's beginning, or since 1970 by the camera"),
)

GIVEN = table_schema(
    "Pairs that a source brought with it, with the instruction somebody gave.",
    ("source", pa.string(), "source name"),
    ("row", pa.string(), "file and row it stands in"),
    ("context_ids", pa.list_(pa.string()), "pixel ids of the context images; empty for T2I"),
    ("target_id", pa.string(), "pixel id of the target image; empty where one was rejected"),
    ("instruction", pa.string(), "as given, byte for byte"),
    ("kind", pa.string(), "what the source calls this kind of edit; often empty"),
    ("target_caption", pa.string(), "caption of the target, where the source has one"),
    (
        "status",
        pa.string(),
        "ok, picture_REASON of a rejected picture, text_REASON of words",
    ),
)

EDITS = table_schema(
    "Pairs that stage ingest made by known operations, where the recipe asks for them.",
    ("source", pa.string(), "source name"),
    ("row", pa.string(), "the pair's name: picture#operation, and -back for the way back"),
    ("context", pa.string(), "the context's name inside the source"),
    ("target", pa.string(), "the target's name inside the source"),
    ("instruction", pa.string(), "a sentence that is true of the parameters"),
    ("inverse", pa.string(), "one for the way back; empty where there is none"),
    ("category", pa.string(), "of KontextBench's five"),
    ("operation", pa.string(), "which operation"),
    ("evidence", pa.string(), "JSON: version, seed, parameters, share and box of what changed"),
)

PAIRS = table_schema(
    "Directed pairs (target x | context y, instruction c) as mined.",
    ("pair_id", pa.string(), "SHA-256 of context ids, target id, relation and parameters"),
    ("context_ids", pa.list_(pa.string()), "pixel ids of the context images; empty for T2I"),
    ("target_id", pa.string(), "pixel id of the target image"),
    ("relation_class", pa.string(), "local, global, character, style, text or t2i"),
    ("relation", pa.string(), "what changes, e.g. skin_tone, expression, day_night, glyph"),
    ("miner", pa.string(), "which miner proposed it"),
    ("miner_version", pa.string(), "version of the miner"),
    ("params", pa.string(), "JSON: exact attribute, from, to, subject"),
    ("group_key", pa.string(), "component seed: the concept, character or scene"),
    ("source", pa.string(), "source of the target image"),
    ("license_spdx", pa.string(), "strictest licence of the images involved"),
)

CAPTIONS = table_schema(
    "Text for every pair.",
    ("pair_id", pa.string(), "key into pairs"),
    ("instruction", pa.string(), "imperative edit instruction; for T2I the target caption"),
    ("instruction_short", pa.string(), "shortest form"),
    ("instruction_inverse", pa.string(), "the instruction that undoes it; empty for T2I"),
    ("target_caption", pa.string(), "caption of the target alone"),
    ("context_caption", pa.string(), "caption of the context alone; empty for T2I"),
    ("template", pa.string(), "relation/paraphrase number"),
    ("status", pa.string(), "ok, or why there is no text: refused, malformed, empty and others"),
    ("captioner", pa.string(), "captioner id and version"),
)
CAPTION_TEXTS = CAPTIONS.names[1:6]

REPLIES = table_schema(
    "Every request to a model about a pair, with the reply as it came.",
    ("pair_id", pa.string(), "key into pairs: the first pair that it was sent for"),
    ("kind", pa.string(), "what was asked for: caption, or one of the judge's questions"),
    ("request", pa.string(), "SHA-256 of model, words, settings and pixel ids"),
    ("prompt_hash", pa.string(), "SHA-256 of what is the same for all pairs: words and shape"),
    ("turn", pa.uint8(), "0, or 1 where the first answer had to be mended"),
    ("outcome", pa.string(), "answered, filtered, garbled, error, lost or unreached"),
    ("http", pa.uint16(), "HTTP status; 0 where none came"),
    ("status", pa.string(), "what became of the pair's answer in the end"),
    ("problem", pa.string(), "why, where it is not ok"),
    ("model", pa.string(), "model as the server names it"),
    ("tokens_in", pa.int64(), "tokens asked"),
    ("tokens_out", pa.int64(), "tokens answered"),
    ("counted", pa.bool_(), "whether the server said so; else the most that it can have been"),
    ("cost_usd", pa.float64(), "tokens at the recipe's prices"),
    ("reply", pa.string(), "the body as received"),
)

JUDGEMENTS = table_schema(
    "A model's opinion of captioned edits, where the recipe asks for it. Limits live in views.",
    ("pair_id", pa.string(), "key into pairs"),
    ("status", pa.string(), "ok, or why there are no scores: malformed, refused and others"),
    ("problem", pa.string(), "more about that; empty where ok"),
    ("follow", pa.float32(), "1 to 5: target shows what the instruction asks for"),
    ("preserve", pa.float32(), "1 to 5: all else is as it was"),
    ("quality", pa.float32(), "1 to 5: no visible faults"),
    ("follow_shuffled", pa.float32(), "1 to 5: follow with another pair's instruction"),
    ("follow_swapped", pa.float32(), "1 to 5: follow with context and target swapped"),
    ("shuffled_gap", pa.float32(), "follow minus follow_shuffled: 0 or less is no evidence"),
    ("swapped_gap", pa.float32(), "follow minus follow_swapped"),
    ("judge", pa.string(), "who judged"),
)
JUDGED_SCORES = ("follow", "preserve", "quality", "shuffled_gap", "swapped_gap")  # with limits

VECTORS = table_schema(
    "Features of images or texts that the small CLIP was trained on, so that none is made twice.",
    ("key", pa.string(), "pixel id or text"),
    ("vector", pa.binary(), "float32 values, little-endian"),
)

LEARNT = table_schema(
    "What the small CLIP was trained with, for this version of the dataset or an earlier one.",
    ("pixel_id", pa.string(), "key into images"),
    ("words", pa.binary(16), "digest of the texts that it was trained with"),
)

JUDGED_TEXTS = table_schema(
    "Texts that rules and classifier let pass, so that none of them is judged twice.",
    ("text_hmac", pa.string(), "keyed BLAKE2b-128, hexadecimal, by the home's key, limit, code"),
)

IMAGE_SCORES = table_schema(
    "Raw safety scores per image and classifier. Thresholds live in views.",
    ("pixel_id", pa.string(), "key into images"),
    ("classifier", pa.string(), "classifier id"),
    ("label", pa.string(), "class, e.g. nsfw or FEMALE_BREAST_EXPOSED"),
    ("score", pa.float32(), "0 to 1: the largest of its forms"),
    ("forms", pa.list_(pa.float32()), "of the whole picture, then of each crop that is read"),
)

REFUSED = table_schema(
    "Images that the policy refuses by themselves, whatever the pair: in no sheet, set or catalog.",
    ("pixel_id", pa.string(), "key into images of the ingest artifact"),
)


def pair_scores(known: Iterable[Risk]) -> pa.Schema:
    """The table of scores with a column for each of these risks."""
    risk_columns = (
        (risk.column, pa.float32(), f"largest {risk.score} score over all images of the pair")
        for risk in known
    )
    return table_schema(
        "Raw quality and safety scores per pair.",
        ("pair_id", pa.string(), "key into pairs"),
        *risk_columns,
        *_QUALITY,
    )


_QUALITY: tuple[Column, ...] = (
    ("exposure_delta", pa.float32(), "exposure of the target minus the edited image's"),
    ("unmatchable", pa.bool_(), "the hash gate could not match one of the images: stricter limits"),
    ("text_reason", pa.string(), "text rule that fired, or empty"),
    ("ncii_reason", pa.string(), "pair rule that fired, or empty"),
    ("clip_t", pa.float32(), "image-text cosine of target and target caption; NULL without one"),
    ("clip_i", pa.float32(), "image-image cosine of context and target (1 for T2I)"),
    ("clip_dir", pa.float32(), "directional similarity (0 for T2I); NULL without captions"),
    ("ssim", pa.float32(), "SSIM of context and target (0 for T2I)"),
    ("l1", pa.float32(), "mean absolute difference 0-1, in float (1 for T2I)"),
    ("changed_frac", pa.float32(), "share of pixels that change (1 for T2I)"),
    ("largest_blob", pa.float32(), "largest 4-connected area that changes 0-1 (1 for T2I)"),
    ("misalignment", pa.float32(), "mean shift of the corners / longer side; NULL unless ok"),
    ("misalignment_status", pa.string(), "ok, flat, unrelated, other_shape or no_context"),
    ("sharpness", pa.float32(), "log2 of Laplacian variances, target / context; NULL if flat"),
    ("change_kept", pa.float32(), "share of the edit that the crop in training keeps (1 for T2I)"),
    ("pdq_distance", pa.uint16(), "Hamming distance of the PDQ hashes (256 for T2I)"),
)
PAIR_SCORES = pair_scores(risks().values())  # as the catalog has it: of all classifiers

DECISIONS = table_schema(
    "Safety decisions, deterministic part; the ledger adds time and the hash chain.",
    ("subject_kind", pa.string(), "image, text, pair, edit or incident"),
    ("subject_hmac", pa.string(), "HMAC-SHA256 of the subject's id with the run key"),
    ("check", pa.string(), "hash_gate, classifier, text_rule, pair_rule, edit or operator"),
    ("provider", pa.string(), "which list or model, with version"),
    ("score", pa.float32(), "raw score where there is one, else -1"),
    ("threshold", pa.float32(), "threshold in force, else -1"),
    ("outcome", pa.string(), "pass, drop, quarantine, unmatchable or error"),
    ("reason", pa.string(), "reason enum, empty for pass"),
    ("policy_version", pa.string(), "policy in force, as version@digest"),
)

TOMBSTONES = table_schema(
    "Pictures that a sweep has taken from everything that was kept. They cannot be recovered.",
    ("subject_hmac", pa.string(), "HMAC-SHA256 of the image id: joins decisions"),
    ("pixel_hmac", pa.string(), "HMAC-SHA256 of the pixel id"),
    ("reason", pa.string(), "hash_match, opted_out, or related: made from one that was matched"),
    ("provider", pa.string(), "whose list, with version"),
)

SPLITS = table_schema(
    "Which split each pair is in, by connected component.",
    ("pair_id", pa.string(), "key into pairs"),
    ("component_id", pa.string(), "connected component over shared groups and near-duplicates"),
    ("split", pa.string(), "train, val or test"),
)

PICTURE_SPLITS = table_schema(
    "Which split a picture is in for ever, in this version of the dataset or an earlier one.",
    ("pixel_id", pa.string(), "key into images"),
    ("split", pa.string(), "train, val or test; nowhere: two versions made at once disagreed"),
)

SHARDS = table_schema(
    "WebDataset shards.",
    ("shard_id", pa.string(), "content name"),
    ("split", pa.string(), "train, val or test"),
    ("name", pa.string(), "file name inside the shard artifact"),
    ("sha256", pa.string(), "digest of the tar"),
    ("bytes", pa.uint64(), "size of the tar"),
    ("samples", pa.uint32(), "pairs inside"),
    ("first_key", pa.string(), "first sample key"),
    ("last_key", pa.string(), "last sample key"),
)

_FILE = pa.struct(
    [("name", pa.string()), ("offset_bytes", pa.uint64()), ("length_bytes", pa.uint64())]
)
SHARD_MEMBERS = table_schema(
    "Where each pair lies, for ranged reads.",
    ("shard_id", pa.string(), "key into shards"),
    ("pair_id", pa.string(), "key into pairs"),
    ("offset_bytes", pa.uint64(), "offset of the sample's first header"),
    ("length_bytes", pa.uint64(), "length of all its members with headers and padding"),
    ("files", pa.list_(_FILE), "each member's bytes in the tar: see the view pair_files"),
)
