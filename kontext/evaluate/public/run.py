"""One run of a public bench: edit what is not edited yet, judge, and write the table anew.

All that a table says follows from the rows and the kept replies, so a run that was killed and gone
on with has the same table, byte for byte. Times are in `items.parquet` alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kontext.data.caption.base import Desk
from kontext.data.decode import decode_image
from kontext.data.pixels import Pixels, encode_png, pixel_id
from kontext.data.sources.stable import stable_hash
from kontext.errors import BenchError, SafetyRefusal
from kontext.evaluate.benches.files import PictureAt
from kontext.evaluate.benches.public import BenchItem, Loaded
from kontext.evaluate.judges.base import Shown
from kontext.evaluate.judges.judging import Judges, Verdicts, compare_all, judge_all, rubric_named
from kontext.evaluate.judges.pairwise import Duel
from kontext.evaluate.measures.base import resized
from kontext.evaluate.public.editing import RETRIED, Work, edit_items
from kontext.evaluate.public.editors import BenchEditor
from kontext.evaluate.public.journal import Journal, Row, read_json
from kontext.evaluate.public.measuring import measure_all
from kontext.evaluate.public.output import Judged, write_results
from kontext.safety.guard import EditGuard

CHANGES_RESULTS = False  # for users; no stage runs a public bench

CANARIES = 8  # items whose answer is known that every judge is asked about, at most, of each kind
Progress = Callable[[float, float, str], None]


@dataclass(frozen=True)
class BenchRequest:
    """What is run, and where. against: the folder of another run of the same bench."""

    loaded: Loaded
    editor: BenchEditor
    out: Path
    seed: int = 0
    judges: Judges | None = None
    against: Path | None = None
    retry: bool = False

    def __post_init__(self) -> None:
        """Raises BenchError where there is nothing that could judge."""
        if self.judges and not self.loaded.bench.judge:
            raise BenchError(f"{self.loaded.bench.title} has exact answers: it needs no judge")
        if self.against and not self.judges:
            raise BenchError("to compare with another run takes a judge (--judge, --endpoint)")


def run_bench(
    request: BenchRequest,
    guard: EditGuard,
    home: Path,
    progress: Progress = lambda done, total, what: None,
) -> dict[str, Any]:
    """Run a bench, or go on with it, and return the summary that `summary.json` has.

    Raises:
        BenchError: another run is in the folder, or the editor or the other run do not fit.
        KontextError, GateError, Stopped: of the judges' endpoint; what is done stays done.
    """
    loaded = request.loaded
    run = {
        "bench": loaded.name,
        "data": loaded.digest,
        "items": len(loaded.items),
        "editor": dict(request.editor.card),
        "seed": request.seed,
        "policy": guard.policy.id,
        "hash_lists": guard.gate.version,
    }
    with Journal.open(request.out, run) as journal:
        other = _other_run(request, run)
        if request.retry:
            journal.forget(RETRIED)
        work = Work(loaded, request.editor, guard, journal, request.seed)
        edit_items(work, lambda done, total: progress(done, total, "edits"))
        measured = measure_all(
            loaded, journal, lambda done, total: progress(done, total, "measures")
        )
        album = Album(loaded, journal, guard)
        rubric = rubric_named(loaded.bench.judge) if request.judges else None
        verdicts, duels = Verdicts(), Verdicts()
        if request.judges and rubric:
            desk = Desk(album.png, home, progress)
            shown = [album.shown(item) for item in album.edited]
            verdicts = judge_all(rubric, [*shown, *album.canaries()], request.judges, desk)
            if other is not None:
                duels = compare_all(album.duels(other), request.judges, desk)
        judged = Judged(rubric, request.judges, verdicts, duels, other)
        return write_results(loaded, journal, run, measured, judged)


def _other_run(request: BenchRequest, run: Mapping[str, Any]) -> Journal | None:
    """The run that this one is compared with, read only."""
    if request.against is None:
        return None
    said = read_json(request.against / "run.json")
    if said is None:
        raise BenchError(f"{request.against} has no run of a bench")
    differ = [name for name in ("bench", "data") if said.get(name) != run[name]]
    if differ:
        raise BenchError(f"{request.against} is no run of the same bench: another {differ[0]}")
    return Journal.finished(request.against, [item.id for item in request.loaded.items])


class Album:
    """The pictures that judges are shown, by their pixel ids."""

    def __init__(self, loaded: Loaded, journal: Journal, guard: EditGuard) -> None:
        self.loaded, self.journal, self.guard = loaded, journal, guard
        self._at: dict[str, Callable[[], Pixels]] = {}

    @property
    def edited(self) -> list[BenchItem]:
        """Items that have a result."""
        rows = self.journal.rows
        return [item for item in self.loaded.items if rows[item.id]["outcome"] == "edited"]

    def png(self, pixels: str) -> bytes:
        """The PNG of a pixel id, without what its file says of itself."""
        return encode_png(self._at[pixels]())

    def shown(self, item: BenchItem) -> Shown:
        """An edit as the judge sees it."""
        row = self.journal.rows[item.id]
        context = self._context(item, row)
        output = self._output(self.journal, item, row)
        return Shown(item.id, item.instruction, output, context, item.rubric)

    def canaries(self) -> list[Shown]:
        """The input as a result, and the true target where it is known: a judge must tell them."""
        able = [item for item in self.edited if self.journal.rows[item.id]["context"]]
        chosen = sorted(able, key=lambda item: stable_hash("canary", item.id))[:CANARIES]
        found = []
        for item in chosen:
            context = self._context(item, self.journal.rows[item.id])
            same = (item.id, item.instruction)
            found.append(Shown(*same, context, context, item.rubric, "identity"))
            if item.target is not None and (target := self._target(item.target)):
                found.append(Shown(*same, target, context, item.rubric, "oracle"))
        return found

    def _target(self, at: PictureAt) -> str:
        """A true target; empty where the policy refuses it, which has not seen it before."""
        data = at.read()
        pixels = _read(data)
        try:
            self.guard.begin().check_input(pixels, data)
        except SafetyRefusal:
            return ""
        return self._add(pixel_id(pixels), at.read)

    def duels(self, other: Journal) -> list[Duel]:
        """Items that both runs have a result of."""
        found = []
        for item in self.edited:
            row, theirs = self.journal.rows[item.id], other.rows[item.id]
            if theirs["outcome"] == "edited":
                own = self._output(self.journal, item, row)
                rival = self._output(other, item, theirs)
                context = self._context(item, row)
                found.append(Duel(item.id, item.instruction, context, own, rival))
        return found

    def _context(self, item: BenchItem, row: Row) -> str:
        """The picture that was edited: of a later turn the result of the one before."""
        if item.context is None:
            return ""
        if not item.after:
            return self._add(row["context"], item.context.read)
        return self._add(row["context"], self.journal.picture(item.after).read_bytes)

    def _output(self, journal: Journal, item: BenchItem, row: Row) -> str:
        """At the size of what was edited, as GEdit-Bench shows it."""
        path = journal.picture(item.id)
        context = self._at.get(self._context(item, row))
        if context is None:
            return self._add(row["output"], path.read_bytes)
        like = context()
        if like.shape[:2] == (row["height"], row["width"]):
            return self._add(row["output"], path.read_bytes)
        own = pixel_id(resized(_read(path.read_bytes()), like))
        self._at[own] = lambda: resized(_read(path.read_bytes()), context())
        return own

    def _add(self, pixels: str, read: Callable[[], bytes]) -> str:
        self._at.setdefault(pixels, lambda: _read(read()))
        return pixels


def _read(data: bytes) -> Pixels:
    return decode_image(data, resolution=None, background="#ffffff").rgb
