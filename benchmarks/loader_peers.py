"""What `benchmarks.loader` compares with: other loaders over the same samples, on disk or on S3."""

import functools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.seaweed import KEYS, seaweed
from kontext.data.pixels import decode_png

Batches = Callable[[], Iterator[Any]]
MEMBERS = ("json", "ctx0", "tgt")
_BUCKET = "loader"
_SECONDS = 3600  # that a signed address holds


@dataclass(frozen=True)
class Where:
    """The samples: in a folder, and on an S3 server too where there is an endpoint."""

    folder: Path
    endpoint: str = ""

    @property
    def store(self) -> str:
        """The URL of a store that has `data/`, the shards."""
        return f"s3://{_BUCKET}" if self.endpoint else f"file://{self.folder}"

    def fresh(self, name: str) -> Path:
        """An empty folder for what a loader keeps of what it has fetched."""
        path = self.folder / "fetched" / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path


Epoch = Callable[[Where, int, int], Batches]


def mosaic() -> Any:
    """The mosaicml-streaming package, or None where it is not installed."""
    try:
        import streaming
    except ImportError:
        return None
    return streaming


def litdata() -> Any:
    """The LitData package, or None where it is not installed."""
    try:
        import litdata
    except ImportError:
        return None
    return litdata


def peers() -> dict[str, Epoch]:
    """The loaders that are installed here, by name."""
    found: dict[str, Epoch] = {"webdataset": webdataset_epoch}
    if mosaic() is not None:
        found["mosaicml"] = mosaic_epoch
    if litdata() is not None:
        found["litdata"] = litdata_epoch
    return found


def write_as_peers_do(folder: Path, samples: Sequence[Mapping[str, Any]]) -> None:
    """The samples as MDS in `folder/mds` and as LitData's chunks in `folder/lit`."""
    if mosaic() is not None:
        columns = dict.fromkeys(MEMBERS, "bytes")
        with mosaic().MDSWriter(out=str(folder / "mds"), columns=columns) as out:
            for sample in samples:
                out.write({name: sample[name] for name in MEMBERS})
    if litdata() is not None:
        from litdata.streaming.writer import BinaryWriter

        (folder / "lit").mkdir()
        writer = BinaryWriter(str(folder / "lit"), chunk_bytes="64MB")
        for number, sample in enumerate(samples):
            writer.add_item(number, {name: sample[name] for name in MEMBERS})
        writer.done()
        writer.merge()


@contextmanager
def on_s3(folder: Path) -> Iterator[Where]:
    """All that is in a folder of data, on an S3 server of our own."""
    import boto3

    with seaweed(folder / "weed") as endpoint:
        os.environ |= {**KEYS, "AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1"}
        os.environ["S3_ENDPOINT_URL"] = endpoint  # as mosaicml-streaming calls it
        client = boto3.client("s3")
        client.create_bucket(Bucket=_BUCKET)
        for part in ("data", "mds", "lit"):
            for path in sorted((folder / part).glob("*")):
                client.upload_file(str(path), _BUCKET, f"{part}/{path.name}")
        yield Where(folder, endpoint)


def _stacked(samples: Sequence[dict[str, Any]], ends: str) -> tuple[Any, Any, list[Any]]:
    """What every peer's collation does with raw members; tensors travel in shared memory."""
    contexts = np.stack([decode_png(sample[f"ctx0{ends}"]) for sample in samples])[:, None]
    targets = np.stack([decode_png(sample[f"tgt{ends}"]) for sample in samples])
    records = [json.loads(sample["json"]) for sample in samples]
    return torch.from_numpy(contexts), torch.from_numpy(targets), records


def webdataset_epoch(where: Where, batch: int, workers: int) -> Batches:
    """One epoch of webdataset's own loader: shards shuffled, and a buffer of 1,000 samples."""
    import webdataset

    paths = sorted((where.folder / "data").glob("*.tar"))
    urls = [_signed(path.name) for path in paths] if where.endpoint else [*map(str, paths)]
    collate = functools.partial(_stacked, ends=".png")

    def run() -> Iterator[Any]:
        data = webdataset.DataPipeline(
            webdataset.SimpleShardList(urls),
            webdataset.split_by_worker,  # before the shuffle, which differs between workers
            webdataset.shuffle(100),
            webdataset.tarfile_to_samples(),
            webdataset.shuffle(1000),
            webdataset.batched(batch, collation_fn=collate, partial=True),
        )
        yield from webdataset.WebLoader(data, num_workers=workers, batch_size=None)

    return run


def _signed(name: str) -> str:
    """A shard as webdataset reads what is not a file: by curl."""
    import boto3

    address = boto3.client("s3").generate_presigned_url(
        "get_object", Params={"Bucket": _BUCKET, "Key": f"data/{name}"}, ExpiresIn=_SECONDS
    )
    return f"pipe:curl -s -f -L '{address}'"


def mosaic_epoch(where: Where, batch: int, workers: int) -> Batches:
    """One epoch of mosaicml-streaming's loader, which can resume too."""
    streaming = mosaic()
    collate = functools.partial(_stacked, ends="")

    def run() -> Iterator[Any]:
        streaming.base.util.clean_stale_shared_memory()
        place: dict[str, str] = {"local": str(where.folder / "mds")}
        if where.endpoint:
            place = {"remote": f"s3://{_BUCKET}/mds", "local": str(where.fresh("mds"))}
        data = streaming.StreamingDataset(
            **place, shuffle=True, batch_size=batch, num_canonical_nodes=1
        )
        yield from streaming.StreamingDataLoader(
            data, batch_size=batch, num_workers=workers, collate_fn=collate
        )

    return run


def litdata_epoch(where: Where, batch: int, workers: int) -> Batches:
    """One epoch of LitData's loader, which can resume too."""
    library = litdata()
    collate = functools.partial(_stacked, ends="")

    def run() -> Iterator[Any]:
        place: dict[str, Any] = {"input_dir": str(where.folder / "lit")}
        if where.endpoint:
            place = {
                "input_dir": f"s3://{_BUCKET}/lit",
                "cache_dir": str(where.fresh("lit")),
                "storage_options": {"endpoint_url": where.endpoint},
            }
        data = library.StreamingDataset(**place, shuffle=True)
        yield from library.StreamingDataLoader(
            data, batch_size=batch, num_workers=workers, collate_fn=collate
        )

    return run
