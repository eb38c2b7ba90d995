"""A run's numbers and pictures for TensorBoard, where the package `tensorboard` is installed."""

import io
import logging
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary, finalize

CHANGES_RESULTS = False  # shown to people

_LOG = logging.getLogger("kontext.train")
_WRITERS: WeakValueDictionary[Path, Any] = WeakValueDictionary()  # of this process, by folder


class Board:
    """One folder's event file, made with the first event: `tensorboard --logdir FOLDER` shows it.

    Boards of one folder in one process write to one file, because TensorBoard reads an older file
    no further once there is a newer one. Without the package nothing is written, and the log says
    so once.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: Any = None

    def scalars(self, step: int, values: Mapping[str, float | None]) -> None:
        """Numbers of a step by their tags; what is None is left out."""
        if writer := self._opened():
            for tag, value in values.items():
                if value is not None:
                    writer.add_scalar(tag, value, step)
            writer.flush()

    def picture(self, step: int, tag: str, png: bytes) -> None:
        """A picture of a step, given as the bytes of a PNG."""
        if writer := self._opened():
            import numpy as np
            from PIL import Image

            with Image.open(io.BytesIO(png)) as image:
                writer.add_image(tag, np.array(image.convert("RGB")), step, dataformats="HWC")
            writer.flush()

    def _opened(self) -> Any:
        """The folder's SummaryWriter; None without the package."""
        made = _summary_writer()
        if self._writer is None and made is not None:
            self._writer = _WRITERS.get(self.folder)
            if self._writer is None:
                self._writer = _WRITERS[self.folder] = made(str(self.folder))
                finalize(self._writer, self._writer.file_writer.close)
        return self._writer


@cache
def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        _LOG.warning("nothing is written for TensorBoard: %s (pip install tensorboard)", error)
        return None
    return SummaryWriter
