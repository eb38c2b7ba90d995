"""A dataset version as files that other tools read: WebDataset tars, Parquet or image folders.

Edits and text-to-image pairs are kept apart, because readers want one set of columns. All formats
are read again by `kontext run --source`.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kontext.data.shards.write import tar_samples
from kontext.errors import CatalogError
from kontext.store.artifacts.artifact_store import blob_key
from kontext.store.catalog.catalog import Catalog
from kontext.store.lake.ddl import quote
from kontext.store.objects import ObjectStore

CHANGES_RESULTS = False  # copies what is there

EDITS, CAPTIONS = "edits", "captions"
_TEXTS = (
    "pair_id",
    "instruction",
    "instruction_inverse",
    "target_caption",
    "relation_class",
    "relation",
    "source",
    "license_spdx",
)
_PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_ROWS = 256  # of a row group: pictures are large

Sample = tuple[dict[str, Any], dict[str, bytes]]  # record, pictures by name
Shard = tuple[str, str, bytes]  # split, file name, bytes of the tar


def export_dataset(
    catalog: Catalog,
    objects: ObjectStore,
    dataset: str,
    form: str,
    folder: Path,
    at: str | None = None,
) -> list[Path]:
    """Write a dataset version into a new or empty folder; returns the files, or folders of images.

    Args:
        form: webdataset, parquet or imagefolder.
        at: a version of it; None is the newest.

    Raises:
        CatalogError: it has no shards.
        FileExistsError: the folder holds something.
    """
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty")
    where = f"SELECT split, name, sha256 FROM shards WHERE dataset = {quote(dataset)} ORDER BY 1, 2"
    rows = catalog.query(where, at=at).to_pylist()
    if not rows:
        raise CatalogError(f"dataset {dataset} has no shards")
    folder.mkdir(parents=True, exist_ok=True)
    shards = ((row["split"], row["name"], objects.get(blob_key(row["sha256"]))) for row in rows)
    return sorted(FORMATS[form](shards, folder))


def _webdataset(shards: Iterator[Shard], folder: Path) -> set[Path]:
    made = set()
    for _, name, data in shards:
        (folder / name).write_bytes(data)
        made.add(folder / name)
    return made


def _imagefolder(shards: Iterator[Shard], folder: Path) -> set[Path]:
    """`train/edits/metadata.jsonl` beside its pictures, as Hugging Face's imagefolder has it."""
    made = set()
    for split, _, data in shards:
        for record, pictures in _samples(data):
            place = folder / split / _part(record)
            place.mkdir(parents=True, exist_ok=True)
            made.add(place)
            key = record["pair_id"][:32]
            for name, png in pictures.items():
                (place / f"{key}.{name}").write_bytes(png)
            files = [f"{key}.{name}" for name in pictures]
            row: dict[str, Any] = {"file_name": files[-1], **_texts(record)}
            if record["context_ids"]:
                row |= {"source_file_name": files[0], "reference_file_names": files[1:-1]}
            with (place / "metadata.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return made


def _parquet(shards: Iterator[Shard], folder: Path) -> set[Path]:
    """`train-edits.parquet` with pictures inside, with the feature types that `datasets` reads."""
    writers: dict[Path, pq.ParquetWriter] = {}
    try:
        for split, _, data in shards:
            for part in (EDITS, CAPTIONS):
                rows = [_row(*sample) for sample in _samples(data) if _part(sample[0]) == part]
                if not rows:
                    continue
                path, schema = folder / f"{split}-{part}.parquet", _schema(part)
                if path not in writers:
                    writers[path] = pq.ParquetWriter(path, schema, compression="zstd")
                table = pa.Table.from_pylist(rows, schema)
                writers[path].write_table(table, row_group_size=_ROWS)
    finally:
        for writer in writers.values():
            writer.close()
    return set(writers)


FORMATS: dict[str, Callable[[Iterator[Shard], Path], set[Path]]] = {
    "webdataset": _webdataset,
    "parquet": _parquet,
    "imagefolder": _imagefolder,
}


def _samples(data: bytes) -> Iterator[Sample]:
    """(record, pictures: contexts in their order, the target last) of a shard's samples."""
    for _, members, _, _ in tar_samples(data):
        record = json.loads(bytes(members["json"]))
        names = [*(f"ctx{i}.png" for i in range(len(record["context_ids"]))), "tgt.png"]
        yield record, {name: bytes(members[name]) for name in names}


def _part(record: dict[str, Any]) -> str:
    return EDITS if record["context_ids"] else CAPTIONS


def _texts(record: dict[str, Any]) -> dict[str, str]:
    return {name: record.get(name) or "" for name in _TEXTS}


def _row(record: dict[str, Any], pictures: dict[str, bytes]) -> dict[str, Any]:
    key = record["pair_id"][:32]
    *contexts, target = ({"bytes": png, "path": f"{key}.{n}"} for n, png in pictures.items())
    row: dict[str, Any] = {"target_image": target, **_texts(record)}
    return row | (
        {"source_image": contexts[0], "reference_images": contexts[1:]} if contexts else {}
    )


def _schema(part: str) -> pa.Schema:
    fields: list[tuple[str, pa.DataType]] = [("target_image", _PICTURE)]
    features: dict[str, Any] = {"target_image": {"_type": "Image"}}
    if part == EDITS:
        fields += [("source_image", _PICTURE), ("reference_images", pa.list_(_PICTURE))]
        features |= {"source_image": {"_type": "Image"}}
        features |= {"reference_images": {"_type": "Sequence", "feature": {"_type": "Image"}}}
    fields += [(name, pa.string()) for name in _TEXTS]
    features |= {name: {"_type": "Value", "dtype": "string"} for name in _TEXTS}
    about = json.dumps({"info": {"features": features}})
    return pa.schema(fields, metadata={"huggingface": about})
