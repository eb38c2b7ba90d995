"""Texts of artifacts from outside meet the text rules and the classifier, as those of sources do.

They are told by the names of columns in tables, and of keys in the JSON of samples of shards. What
people ask for and captions meet both; names of files, concepts and labels the rules alone
(`kontext.data.words`). Other texts are not read: reports, model cards, replies of chat models, and
columns of names that no table of ours has.
"""

import json
import tarfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kontext.data.shards.write import map_file, tar_places
from kontext.data.words import refused_names
from kontext.errors import CanaryError, GateError
from kontext.safety.ids import Reason
from kontext.safety.texts import CANARIES, judge_texts, prove_texts

CHANGES_RESULTS = False  # lets artifacts in or keeps them out; no stage calls it

# what people ask for, and captions
ASKED = {
    "instruction", "instruction_short", "instruction_inverse", "inverse", "target_caption",
    "context_caption", "caption", "prompt",
}  # fmt: skip
NAMES = {"source_ref", "concept", "attributes", "group_key", "kind", "row", "context", "target"}
_LABELS = "attributes"  # a JSON object of labels: each is a text of its own
_ROWS, _AT_ONCE = 4096, 256
_Text = tuple[bool, str]  # whether the classifier is asked, too; and the text


def refused_text(name: str, path: Path) -> tuple[Reason, str] | None:
    """The first text of a file that is refused, and why; None where none is.

    Args:
        name: of the file, for messages.

    Raises:
        GateError: the classifier cannot be asked, or the file cannot be read.
    """
    seen: set[_Text] = set()
    new = (text for text in _texts(name, path) if text[1] not in ("", "{}") and text not in seen)
    while batch := list(dict.fromkeys(islice(new, _AT_ONCE))):
        seen.update(batch)
        for asks, text in batch:
            reason = None if asks else refused_names(text)
            if reason is not None:
                return reason, text
        asked = [text for asks, text in batch if asks]
        for text, found in zip(asked, judge_texts(asked), strict=True):
            if found is not None:
                return found, text
    return None


def prove_outside_texts(table: Path, tar: Path) -> None:
    """Raise CanaryError unless what is refused is found in a table and in a tar.

    Args:
        table, tar: files that hold one of CANARIES each, as an instruction.
    """
    prove_texts()
    for path in (table, tar):
        found = refused_text(path.name, path)
        if found is None or found[1] not in CANARIES:
            raise CanaryError(f"a text in a {path.suffix[1:]} was not stopped: nothing is imported")


def _texts(name: str, path: Path) -> Iterator[_Text]:
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith(b"PAR1"):
        try:
            yield from _of_table(path)
        except (pa.ArrowException, OSError) as error:
            raise GateError(f"{name} is no table that can be read") from error
    elif head[257:262] == b"ustar":
        try:
            for member, body, *_ in tar_places(map_file(path)):
                if member.endswith(".json"):
                    yield from _of_json(json.loads(bytes(body)))
        except (tarfile.HeaderError, ValueError, RecursionError) as error:
            raise GateError(f"{name} is no tar of samples that can be read") from error


def _of_table(path: Path) -> Iterator[_Text]:
    with pq.ParquetFile(path) as file:
        wanted = [column for column in file.schema_arrow.names if column in ASKED | NAMES]
        for batch in file.iter_batches(_ROWS, columns=wanted) if wanted else ():
            for column, values in zip(batch.schema.names, batch.columns, strict=True):
                for text in _strings(values.to_pylist()):
                    if column == _LABELS:
                        yield from ((False, label) for label in _labels(text))
                    else:
                        yield column in ASKED, text


def _labels(text: str) -> Iterator[str]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = text  # read as it is
    pairs = found.items() if isinstance(found, dict) else [("", found)]
    for label, value in pairs:
        yield label
        yield value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _of_json(value: Any, key: str = "") -> Iterator[_Text]:
    """Texts under the keys that we know, however deep."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _of_json(part, name if name in ASKED | NAMES else key)
    elif isinstance(value, list):
        for part in value:
            yield from _of_json(part, key)
    elif isinstance(value, str) and key:
        yield key in ASKED, value


def _strings(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, list | tuple):
            yield from _strings(value)
        elif isinstance(value, dict):
            yield from _strings(value.values())
