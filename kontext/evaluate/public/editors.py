"""Editors that a bench can run: a model, and references that need none or only its autoencoder.

None of them asks the policy itself: `editing.edit_item` does, for all of them alike.
"""

import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kontext.data.decode import decode_image
from kontext.data.pixels import Pixels, encode_png
from kontext.edit.editor import with_policy
from kontext.edit.provenance.record import encode_image
from kontext.edit.request import Edit, Options
from kontext.errors import BenchError, DecodeError, KontextError
from kontext.parallel.parent import die_with_parent

if TYPE_CHECKING:
    from kontext.edit.edit_model import EditModel
    from kontext.safety.guard import Screening

CHANGES_RESULTS = False  # for users; no stage runs a public bench

_PLACES = ("{input}", "{instruction}", "{output}", "{seed}")
_TAIL = 4096  # bytes of what a program has said


class FailedEdit(KontextError):
    """An editor could not make one edit; the others go on."""


class BenchEditor(Protocol):
    """Anything that edits a picture by an instruction."""

    draws: bool  # whether it can draw from words alone

    @property
    def card(self) -> Mapping[str, Any]:
        """What it is, with all settings: other settings are another editor."""

    def make(self, images: Sequence[Pixels], instruction: str, seed: int) -> Pixels:
        """The result. Raises KontextError where this edit cannot be made."""

    def png(
        self, images: Sequence[Pixels], instruction: str, seed: int, made: Pixels, by: Any
    ) -> bytes:
        """The result as a file; `by` is the screening that it has passed."""


class _Plain:
    """Files that say nothing of themselves."""

    draws = False

    def png(
        self, images: Sequence[Pixels], instruction: str, seed: int, made: Pixels, by: Any
    ) -> bytes:
        """See `BenchEditor`."""
        return encode_png(made)


class Identity(_Plain):
    """Does nothing. A score of edit success has to be low for it."""

    card: Mapping[str, Any] = {"editor": "identity"}

    def make(self, images: Sequence[Pixels], instruction: str, seed: int) -> Pixels:
        """See `BenchEditor`."""
        return images[0]


@dataclass(frozen=True)
class Codec(_Plain):
    """A model's autoencoder alone: what no edit of that model can keep better."""

    model: "EditModel"
    draws = False

    @property
    def card(self) -> Mapping[str, Any]:
        """See `BenchEditor`."""
        named = {"model": self.model.settings.name, "digest": self.model.digest}
        return {"editor": "codec", **named, "device": self.model.device.type}

    def make(self, images: Sequence[Pixels], instruction: str, seed: int) -> Pixels:
        """See `BenchEditor`."""
        (job,) = self.model.prepare([Edit(images[:1], "round trip")])
        options = Options(keep_detail=False)
        return self.model.finish([job], job.contexts[0], options)[0]


@dataclass(frozen=True)
class Model:
    """A model folder, artifact or tag. Pictures are those of `kontext edit --seed`."""

    model: "EditModel"
    options: Options = field(default_factory=Options)
    draws = True

    @property
    def card(self) -> Mapping[str, Any]:
        """See `BenchEditor`."""
        own = self.model
        asked = {name: value for name, value in asdict(self.options).items() if value is not None}
        named = {"editor": "model", "model": own.settings.name, "digest": own.digest}
        return {**named, "steps": own.steps(self.options), **asked, "device": own.device.type}

    def make(self, images: Sequence[Pixels], instruction: str, seed: int) -> Pixels:
        """See `BenchEditor`."""
        return self.model.edit_many([Edit(images, instruction, seed)], self.options)[0]

    def png(
        self,
        images: Sequence[Pixels],
        instruction: str,
        seed: int,
        made: Pixels,
        by: "Screening",
    ) -> bytes:
        """See `BenchEditor`. The file says how it was made, as those of `kontext edit` do."""
        record = self.model.provenance(Edit(images, instruction, seed), self.options)
        return encode_image(made, with_policy(record, by, made), "PNG")


@dataclass(frozen=True)
class Command(_Plain):
    """Any other editor: a program that reads a picture and writes one.

    The command is split as a shell would, but no shell runs it, so that no instruction can be one.
    """

    command: str
    timeout: float = 600.0  # seconds of one edit
    draws = True

    def __post_init__(self) -> None:
        """Raises BenchError for a command that writes nothing, or is not told what to do."""
        for place in ("{instruction}", "{output}"):
            if place not in self.command:
                raise BenchError(f"--command has no {place}: PROGRAM {' '.join(_PLACES[:3])}")
        try:
            shlex.split(self.command)
        except ValueError as error:
            raise BenchError(f"--command cannot be split into words: {error}") from error

    @property
    def card(self) -> Mapping[str, Any]:
        """See `BenchEditor`."""
        return {"editor": "command", "command": self.command}

    def make(self, images: Sequence[Pixels], instruction: str, seed: int) -> Pixels:
        """See `BenchEditor`."""
        with tempfile.TemporaryDirectory() as scratch:
            source, output = Path(scratch, "input.png"), Path(scratch, "output.png")
            if images:
                source.write_bytes(encode_png(images[0]))
            values = (str(source), instruction, str(output), str(seed))
            self._run(dict(zip(_PLACES, values, strict=True)), Path(scratch, "said"))
            if not output.is_file():
                raise FailedEdit("the command ended well, but wrote no output")
            try:
                found = decode_image(output.read_bytes(), resolution=None, background="#ffffff")
            except DecodeError as error:
                raise FailedEdit(f"the command's output is no picture: {error}") from error
        return found.rgb

    def _run(self, values: Mapping[str, str], log: Path) -> None:
        """What it says goes to a file: a pipe is open for as long as what it has started runs."""
        words = self._words(values)
        try:
            with log.open("wb") as said:
                running = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=_dies_with_parent,
                )
        except (OSError, ValueError) as error:  # ValueError: a word has a zero byte
            said_why = getattr(error, "strerror", None) or error
            raise BenchError(f"cannot start {words[0]}: {said_why}") from error
        try:
            running.wait(self.timeout)
        except subprocess.TimeoutExpired as error:
            raise FailedEdit(f"the command took more than {self.timeout:g} s") from error
        finally:
            with suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)  # what it has started, too
            running.wait()
        if running.returncode:
            raise FailedEdit(_ended(running.returncode, _tail(log)))

    def _words(self, values: Mapping[str, str]) -> list[str]:
        """The command's words, filled in."""
        words = []
        for word in shlex.split(self.command):
            for place, value in values.items():
                # one place a word, or an instruction with {output} in it would be filled again
                if place in word:
                    word = word.replace(place, value)
                    break
            words.append(word)
        return words


def _dies_with_parent() -> None:
    die_with_parent(signal.SIGKILL)


def _tail(log: Path) -> bytes:
    """The end of what a program has said."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL))
        return file.read()


def _ended(code: int, said: bytes) -> str:
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    last = f": {lines[-1][:200]}" if lines else ""
    how = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
    return f"the command {how}{last}"
