"""The stage graph. Order is execution order; a new stage is one file and one line here."""

from __future__ import annotations

from kontext.stage import Stage

_ALL: tuple[Stage, ...] = (
    Stage(
        "ingest",
        "ingest",
        (),
        "kontext.stages.ingest",
        (
            "kontext.stages.ingest",
            "kontext.data.ingest",
            "kontext.data.decode",
            "kontext.data.sources",
            "kontext.safety.hashes",
            "kontext.safety.pdq",
            "kontext.safety.canaries",
            "kontext.safety.ids",
        ),
        external="kontext.data.sources.external:fingerprint",
        summary="decode, canonicalise and hash-gate every image of the sources",
    ),
    Stage(
        "mine",
        "mine",
        ("ingest",),
        "kontext.stages.mine",
        ("kontext.stages.mine", "kontext.data.mine", "kontext.data.sources.stable"),
        summary="propose directed pairs (x | y, c) in five categories",
    ),
    Stage(
        "caption",
        "caption",
        ("ingest", "mine"),
        "kontext.stages.caption",
        ("kontext.stages.caption", "kontext.data.caption", "kontext.data.sources.stable"),
        summary="write instruction, inverse and captions from the true attributes",
    ),
    Stage(
        "screen",
        "screen",
        ("ingest", "mine", "caption"),
        "kontext.stages.screen",
        (
            "kontext.stages.screen",
            "kontext.safety",
            "kontext.data.judge",
            "kontext.models.clip",
            "kontext.models.clip_train",
            "kontext.models.features",
            "kontext.models.text",
            "kontext.store.views",
            "schemas.views",
        ),
        summary="score safety and quality; thresholds are SQL views",
    ),
    Stage(
        "shard",
        "shard",
        ("ingest", "mine", "caption", "screen"),
        "kontext.stages.shard",
        (
            "kontext.stages.shard",
            "kontext.data.dataset",
            "kontext.data.shards",
            "kontext.data.split",
            "kontext.data.decode",
            "kontext.data.images",
        ),
        summary="write deterministic WebDataset tars, split by connected component",
    ),
    Stage(
        "index",
        "index",
        ("ingest", "mine", "caption", "screen", "shard"),
        "kontext.stages.index",
        ("kontext.stages.index", "kontext.store.views", "schemas.views"),
        summary="commit one catalog snapshot: a dataset version",
    ),
    Stage(
        "train-autoencoder",
        "autoencoder",
        ("shard",),
        "kontext.stages.train_autoencoder",
        (
            "kontext.stages.train_autoencoder",
            "kontext.train.autoencoder",
            "kontext.train.loop",
            "kontext.train.optim",
            "kontext.train.ema",
            "kontext.models.features",
            "kontext.parallel.attention",
            "kontext.models.autoencoder",
            "kontext.models.discriminators",
        ),
        pool="gpu",
        summary="train the f8 x 16 KL autoencoder (L1 + perceptual + PatchGAN), measure scale",
    ),
    Stage(
        "encode",
        "encode",
        ("shard", "train-autoencoder"),
        "kontext.stages.encode",
        (
            "kontext.stages.encode",
            "kontext.data.latents",
            "kontext.data.loader",
            "kontext.models.text",
            "kontext.models.autoencoder",
        ),
        summary="encode images and text once, keyed by content and encoder digest",
    ),
    Stage(
        "finetune",
        "finetune",
        ("encode", "train-autoencoder"),
        "kontext.stages.finetune",
        (
            "kontext.stages.finetune",
            "kontext.train.flow",
            "kontext.models.batch",
            "kontext.train.loop",
            "kontext.train.optim",
            "kontext.train.ema",
            "kontext.train.timesteps",
            "kontext.models.transformer",
            "kontext.models.heads",
            "kontext.parallel.attention",
            "kontext.models.sequence",
        ),
        pool="gpu",
        summary="rectified-flow transformer: text-to-image, then joint text and image",
    ),
    Stage(
        "distill",
        "distill",
        ("encode", "train-autoencoder", "finetune"),
        "kontext.stages.distill",
        (
            "kontext.stages.distill",
            "kontext.train.distill",
            "kontext.models.batch",
            "kontext.train.loop",
            "kontext.train.optim",
            "kontext.train.ema",
            "kontext.train.timesteps",
            "kontext.models.transformer",
            "kontext.models.heads",
            "kontext.models.sequence",
            "kontext.models.discriminators",
            "kontext.sample.euler",
            "kontext.parallel.attention",
        ),
        pool="gpu",
        summary="LADD: a four-step student from the teacher's own edits",
    ),
    Stage(
        "evaluate",
        "evaluate",
        (
            "ingest",
            "mine",
            "caption",
            "screen",
            "shard",
            "index",
            "train-autoencoder",
            "encode",
            "finetune",
            "distill",
        ),
        "kontext.stages.evaluate",
        ("kontext.stages.evaluate", "kontext.evaluate", "kontext.sample.euler"),
        pool="gpu",
        summary="held-out edits beside reference editors, and the report",
    ),
    Stage(
        "publish",
        "publish",
        ("shard", "index", "train-autoencoder", "finetune", "distill", "evaluate"),
        "kontext.stages.publish",
        ("kontext.stages.publish", "kontext.evaluate.model_card", "kontext.sample.folder"),
        summary="weights, model card, dataset card, lineage",
    ),
)

STAGES: dict[str, Stage] = {stage.name: stage for stage in _ALL}


def downstream(name: str) -> list[str]:
    """Stage names that depend on `name`, itself first, in execution order."""
    found = {name}
    for stage in _ALL:
        if found & set(stage.inputs):
            found.add(stage.name)
    return [stage.name for stage in _ALL if stage.name in found]
