"""Stage encode: latents (mode) and text states, computed once for every image and text.

Figures:
    images: {} images encoded
    sizes: {} sizes of images
    texts: {} texts encoded
    shards: {} shards
    longest_text: the longest text has {} tokens
    texts_at_length_limit: {} texts cut at the limit
    latent_std: latents spread by {}
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import torch
from torch import Tensor

from kontext.data.encoded.banks import (
    Bank,
    Entries,
    make_shards,
    open_bank,
    shard_bytes,
    shard_path,
    write_bank,
)
from kontext.data.encoded.latents import (
    ENCODED_PAIRS,
    encode_images,
    encode_texts,
    pair_rows,
    text_key,
    unique_texts,
)
from kontext.data.encoded.reuse import Reused
from kontext.data.encoded.rows import row_shapes, spread
from kontext.data.pixels import png_size
from kontext.data.shards.read import PairSet, by_size, decoded, load_split
from kontext.engine.executors.choice import choice
from kontext.engine.stage import Needs, Stage, StageContext
from kontext.models.autoencoder.network import Autoencoder, load_autoencoder
from kontext.models.precision import compute_dtype
from kontext.models.text.cache import later_text_encoder
from kontext.models.text.encoders import SMALL, TextEncoder
from kontext.parallel.memory import keep_freed_memory
from kontext.parallel.ranks.inputs import Inputs
from kontext.parallel.ranks.launch import on_ranks
from kontext.parallel.ranks.rank import Rank
from kontext.store.artifacts.artifact_store import Artifact
from kontext.train.record import numerics
from kontext.train.record.ledger import dtype_name
from schemas.sections.training import EncodeConfig

STAGE = Stage(
    name="encode",
    section="encode",
    inputs=("shard", "train-autoencoder"),
    weights=("text",),
    summary="encode images and text once, keyed by content and encoder digest",
)

_FEW = 0.1  # share of rows
_SHARD_BYTES = 2**30  # of a shard, at most: T5's states of 256 texts


class _BankWork(NamedTuple):
    """A bank to be made."""

    name: str
    entries: Entries  # what its rows are of
    encode: Callable[[Sequence[int]], dict[str, Tensor]]  # some of them
    rows: int  # of a shard


BankProgress = Callable[[int, int, str], None]  # (rows done, rows in all, what)


def run(ctx: StageContext[EncodeConfig]) -> None:
    """Encode all splits; the banks are keyed by pixel id, text and encoder digests.

    Memory holds one shard of either bank at a time, and a rerun takes the finished ones.

    Raises:
        NumericsError: the autoencoder was trained with other numerics than it has here.
        ArtifactError: an image is damaged.
    """
    config = ctx.config
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_autoencoder(ctx.inputs["train-autoencoder"], device)
    inputs = _inputs(ctx)
    encoder = _encoder(inputs, device)
    ledger = numerics.encoded_ledger(
        ctx, model, compute_dtype("auto", device), encoder.digest, config.text_length
    )
    numerics.check_against(ctx, "encode", ledger, "train-autoencoder", arithmetic=False)

    def on_the_way(done: int, total: int, _: Mapping[str, float | None]) -> None:
        ctx.report.progress(done, total, "encoding on ranks")

    splits = _splits(ctx.inputs["shard"])
    codec = numerics.codec_digest(ctx.inputs["train-autoencoder"])
    work = (
        _latents(config, model, splits, codec, device, ctx.report.progress),
        _texts(config, encoder, splits, ctx.report.progress),
    )
    made = [made for made in ctx.earlier() if _same_numerics(made, ledger)]
    reused = [
        Reused(bank.entries, [open_bank(one, bank.name) for one in made], bank.encode)
        for bank in work
    ]
    new, count = sum(one.missing() for one in reused), sum(len(one.entries.keys) for one in work)
    ctx.log.info("%d of %d rows are as they were", count - new, count)
    if new > _FEW * count:  # to start processes for a few rows takes longer than they do
        on_ranks(encode_on_rank, config, inputs, on_the_way, stop=ctx.stop)
        if choice().ray and config.launch.launcher == "in-process":
            _on_workers(ctx, inputs, work, device)
    latents, texts = (
        write_bank(ctx.output, ctx.scratch, bank.name, bank.entries, bank.rows, encode, ctx.stop)
        for bank, encode in zip(work, reused, strict=True)
    )
    image_row, text_row = (
        {key: row for row, key in enumerate(keys)} for keys in (latents.keys, texts.texts or [])
    )
    rows = [row for pairs in splits for row in pair_rows(pairs, image_row, text_row)]
    ctx.output.add_table("pairs.parquet", pa.Table.from_pylist(rows, ENCODED_PAIRS))
    ledger["dtype: latents"] = dtype_name(latents.tensors["latents"].dtype)
    ledger["text: dtype"] = dtype_name(texts.tensors["tokens"].dtype)
    ctx.output.add_json(numerics.LEDGER, ledger)
    numerics.report_ledger(ctx, "encode", ledger)
    _summarise(ctx, config, latents, texts, encoder)


def _inputs(ctx: StageContext[EncodeConfig]) -> Inputs:
    """The inputs, with the folder of given text encoders: ranks and workers read it too."""
    given = ctx.weights.text
    return Inputs.of(ctx).using(files={"text": Path(given)} if given else None)


def _encoder(inputs: Inputs, device: torch.device) -> TextEncoder:
    folder = inputs.files.get("text")
    return later_text_encoder(f"flux:{folder}" if folder else SMALL, device)


def encode_on_rank(rank: Rank, config: EncodeConfig, inputs: Inputs) -> None:
    """A rank's shards of both banks, into the scratch folder: on a disk that all ranks see."""
    world, trained = rank.world, inputs["train-autoencoder"]
    model = load_autoencoder(trained, world.device)
    encoder = _encoder(inputs, world.device)
    splits = _splits(inputs["shard"])

    def progress(done: int, total: int, _: str) -> None:
        rank.check()
        rank.progress(done, total, {})

    codec = numerics.codec_digest(trained)
    for name, entries, encode, rows in (
        _latents(config, model, splits, codec, world.device, progress),
        _texts(config, encoder, splits, progress),
    ):
        make_shards(inputs.scratch, name, entries, rows, encode, world.rank, world.size)


@dataclass(frozen=True)
class ShardChunk:
    """One shard of a bank, for a worker."""

    bank: str  # latents or texts
    number: int
    config: EncodeConfig
    inputs: str  # JSON of `Inputs.description`
    threads: int  # sums of floats depend on how many there are
    manifests: tuple[Path, ...]  # of the inputs, where the store is a folder; and given weights

    def files(self) -> tuple[Path, ...]:
        """What a worker must be able to read."""
        return self.manifests


def _on_workers(
    ctx: StageContext[EncodeConfig],
    inputs: Inputs,
    banks: Sequence[_BankWork],
    device: torch.device,
) -> None:
    """All shards of both banks, made as chunk work, into the scratch folder."""
    threads, said = torch.get_num_threads(), json.dumps(inputs.description(), sort_keys=True)
    manifests = tuple(path for one in inputs.artifacts.values() if (path := one.place()))
    seen = (*manifests, *(path / "text_encoder" / "config.json" for path in inputs.files.values()))
    chunks = [
        ShardChunk(bank.name, number, ctx.config, said, threads, seen)
        for bank in banks
        for number in range(len(bank.entries.parts(bank.rows)))
    ]
    needs = Needs(processors=threads, gpus=1.0 if device.type == "cuda" else 0.0)
    results = ctx.map_chunks(encode_shard, chunks, needs=needs)
    for chunk, result in zip(chunks, results, strict=True):
        path = shard_path(ctx.scratch, chunk.bank, chunk.number)
        partial = path.with_suffix(".partial")
        partial.write_bytes(result["shard"]["file"][0].as_py())
        partial.replace(path)


def encode_shard(chunk: ShardChunk) -> dict[str, pa.Table]:
    """`shard`: one row, whose `file` is the bytes that `make_shards` writes."""
    torch.set_num_threads(chunk.threads)
    _, entries, encode, rows = _opened(chunk.config.model_dump_json(), chunk.inputs)[chunk.bank]
    part = entries.parts(rows)[chunk.number]
    data = shard_bytes(encode(part), entries)
    return {"shard": pa.table({"file": pa.array([data], pa.large_binary())})}


@lru_cache(maxsize=1)
def _opened(config: str, inputs: str) -> dict[str, _BankWork]:
    """What a worker needs for all of its shards: the models, and what they encode."""
    section, found = EncodeConfig.model_validate_json(config), Inputs.opened(json.loads(inputs))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trained = found["train-autoencoder"]
    model, encoder = load_autoencoder(trained, device), _encoder(found, device)
    splits = _splits(found["shard"])

    def quiet(done: int, total: int, what: str) -> None:
        return  # a chunk is the unit that is told of

    codec = numerics.codec_digest(trained)
    banks = (
        _latents(section, model, splits, codec, device, quiet),
        _texts(section, encoder, splits, quiet),
    )
    return {bank.name: bank for bank in banks}


def _same_numerics(made: Artifact, ledger: Mapping[str, str]) -> bool:
    """Whether an artifact was encoded as it would be today, the device included."""
    found = made.json(numerics.LEDGER) if made.names(numerics.LEDGER) else {}
    return all(found.get(name) == value for name, value in ledger.items())


def _splits(shards: Artifact) -> list[PairSet]:
    return [load_split(shards, name) for name in ("train", "val", "test")]


def _latents(
    config: EncodeConfig,
    model: Autoencoder,
    splits: list[PairSet],
    digest: str,
    device: torch.device,
    progress: BankProgress,
) -> _BankWork:
    """All splits' images: those of one size together, in the order of their pixel ids."""
    pngs = {pixel_id: png for pairs in splits for pixel_id, png in pairs.pngs.items()}
    grouped = by_size(sorted(pngs), lambda pixel_id: png_size(pngs[pixel_id]))
    ids = [pixel_id for own in grouped.values() for pixel_id in own]
    sizes = [size for size, own in grouped.items() for _ in own]

    def encode(rows: Sequence[int]) -> dict[str, Tensor]:
        made, done = [], rows[0]
        for images in decoded(pngs, [ids[row] for row in rows], config.batch):
            made.append(encode_images(model, images, device))
            done += len(images)
            progress(done, len(ids), "encoding images")
        return {"latents": torch.cat(made)}

    largest = max((width * height for width, height in sizes), default=0) // model.factor**2
    rows = _shard_rows(config, 2 * model.shape.z_channels * largest)
    return _BankWork("latents", Entries(ids, digest, sizes=sizes), encode, rows)


def _texts(
    config: EncodeConfig, encoder: TextEncoder, splits: list[PairSet], progress: BankProgress
) -> _BankWork:
    """All splits' instructions and the recipe's own prompts, the empty one first."""
    own = (row.instruction for pairs in splits for row in pairs.rows)
    texts = unique_texts([*own, *config.prompts])

    def encode(rows: Sequence[int]) -> dict[str, Tensor]:
        progress(rows[0], len(texts), "encoding texts")
        return encode_texts(encoder, [texts[row] for row in rows], config.text_length)

    entries = Entries([text_key(text) for text in texts], encoder.digest, texts)
    rows = _shard_rows(config, 2 * config.text_length * encoder.dim)
    return _BankWork("texts", entries, encode, rows)


def _shard_rows(config: EncodeConfig, size: int) -> int:
    """Rows of a shard, of `size` bytes each at most: a shard is made in memory."""
    return max(1, min(config.shard_rows, _SHARD_BYTES // max(1, size)))


def _lengths(texts: Bank, encoder: TextEncoder, most: int) -> Tensor:
    """Tokens of every text, cut at `most`. A mask tells nothing where padding is read too."""
    masks = texts.tensors["mask"][torch.arange(len(texts.keys))]
    if not bool(masks.all()):
        return masks.sum(1)
    return torch.tensor([min(encoder.count(text), most) for text in texts.texts or ()])


def _summarise(
    ctx: StageContext, config: EncodeConfig, latents: Bank, texts: Bank, encoder: TextEncoder
) -> None:
    lengths = _lengths(texts, encoder, config.text_length)
    truncated = int((lengths == config.text_length).sum())
    images, states = latents.tensors["latents"], texts.tensors["tokens"]
    deviation, shapes = float(spread(images)), sorted(set(row_shapes(images)))
    shards = images.shards + states.shards
    ctx.output.metric("shards", shards)
    ctx.output.metric("images", len(images))
    ctx.output.metric("texts", len(states))
    ctx.output.metric("longest_text", int(lengths.max()))
    ctx.output.metric("texts_at_length_limit", truncated)
    ctx.output.metric("sizes", len(shapes))
    ctx.output.metric("latent_std", deviation)
    ctx.output.metric("text_encoder", f"flux:{ctx.weights.text}" if ctx.weights.text else SMALL)
    ctx.report.markdown(
        "encode-summary",
        f"**{len(images):,}** images to latents {', '.join(str(tuple(s)) for s in shapes)} "
        f"(std {deviation:.3f}); **{len(states):,}** texts to "
        f"{config.text_length} x {states.shape[2]} states, {truncated} of them at the limit.",
    )
