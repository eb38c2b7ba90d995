"""Digests of the files that training starts from: part of the digest of the stage that trains."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from kontext.data.sources.external import file_digests
from kontext.models.files.locate import TEXT_FOLDERS, find_autoencoder, find_transformer
from kontext.models.files.recognise import SCHEDULER
from kontext.train.images.perceptual import file_digest
from kontext.train.start.given import config_beside, names_artifact
from schemas.paths import expanded
from schemas.sections.training import AutoencoderConfig
from schemas.sections.weights import WeightsConfig

CHANGES_RESULTS = False  # its digests are in the artifact's digest

_KINDS = (".safetensors", ".json")


def autoencoder_digest(config: AutoencoderConfig, home: Path | None = None) -> str:
    """SHA-256 of the file that an autoencoder's section points to; empty where there is none."""
    return file_digest(config)


def weights_digests(weights: WeightsConfig, home: Path | None = None) -> dict[str, str]:
    """Of each given part: the SHA-256 of its files' bytes, or the artifact, which has one.

    Where files lie counts for nothing. They are read once, as those of ingest's folders are. Of
    what is not there it is the name.

    Args:
        weights: as `kontext.train.start.fit.found` returns it.

    Raises:
        WeightsError: no weights in a folder.
        OSError: a file cannot be read.
    """
    found: dict[str, str] = {}
    with file_digests(home) as digests:
        for part, said in weights.named.items():
            if names_artifact(said):
                found[part] = said
                continue
            if not expanded(said).exists():
                found[part] = f"not there: {said}"
                continue
            digest = hashlib.sha256()
            for name, file in _files(part, expanded(said)):
                digest.update(f"{name}\x1f{_own(part, file) or digests.of(file)}\n".encode())
            found[part] = digest.hexdigest()
    return found


def _own(part: str, file: Path) -> str:
    """What a part's `config.json` says of it where it is a model folder's of ours, else empty.

    The rest of that file counts for nothing: a name, the place of the text encoders.
    """
    config = config_beside(file) if file.name == "config.json" else {}
    return json.dumps(config.get(part), sort_keys=True) if config else ""


def _files(part: str, place: Path) -> Iterator[tuple[str, Path]]:
    """Name and path of every file that decides what a part at `place` is."""
    if part == "text":
        folders = [place / name for name in TEXT_FOLDERS]
        inside = (p for folder in folders for p in sorted(folder.rglob("*")) if p.is_file())
        yield from ((str(file.relative_to(place)), file) for file in inside)
        return
    if part == "adapter":
        found = [place] if place.is_file() else sorted(place.glob("*.safetensors"))
        yield from (("weights", file) for file in found)
        return
    path = find_transformer(place) if part == "transformer" else find_autoencoder(place)
    if path.is_file():
        yield "weights", path  # by any name
        if (config := path.parent / "config.json").is_file():
            yield config.name, config
        return
    yield from ((p.name, p) for p in sorted(path.iterdir()) if p.suffix in _KINDS)
    if part == "transformer" and (scheduler := path.parent / SCHEDULER).is_file():
        yield SCHEDULER, scheduler
