"""Ingest: plan every source, decode and hash-gate each image, keep each picture once.

A picture keeps its shape and, up to a cap, its pixels; stages bring it to a bucket's size when they
read it (`kontext.data.buckets`). Art that is drawn here has no pixels of its own: it is kept at the
size that it is trained at.

Nothing of an image is written before hash gate and classifiers have passed it, and nothing of a
chunk before the chunk's canaries and the gate's probes were stopped: benign pictures in the forms
that real ones come in (`kontext.safety.proof`).
"""

import os
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from kontext.data.decode import Decoded, LaterError, decode_image
from kontext.data.forms import Crops, crop_probes
from kontext.data.gating import POLICY, Later, Read, Row, gate_one, kept_of, outcome_row, reject_row
from kontext.data.ingest_chunk import IngestChunk, no_rows, tables_of, vouched
from kontext.data.payloads import Payloads, Verdict
from kontext.data.scoring import Scorer
from kontext.data.sources import EDITED, read_all
from kontext.data.sources.base import GivenPair, Planned, Skipped, SourceItem
from kontext.data.words import names_of, prove_words, refused_names, refused_pair
from kontext.errors import DecodeError, GateError, SourceError
from kontext.safety.canaries import canary_items
from kontext.safety.hashes import HashGate
from kontext.safety.ids import Check, Decision, Outcome, Reason, subject_hmac
from kontext.safety.keys import run_key
from kontext.safety.opt_outs import OptOuts, opt_outs
from kontext.safety.proof import failure, probes, proved_gate
from kontext.safety.texts import judged_by
from schemas.sections.data import IngestConfig
from schemas.tables import DECISIONS, GIVEN, REJECTS

DUPLICATE = "duplicate"  # an outcome, beside KEPT and the reasons of rejects
CANARY = "canary"  # source name of the injected canaries
Named = tuple[str, str]  # source, name inside of it

_CHUNK_BYTES = 256 << 20  # of files; as PNG, photographs are up to twice as large


@dataclass(frozen=True)
class Plan:
    """What ingest will do: chunks of items; the pairs that sources bring; what they left out."""

    chunks: list[IngestChunk]
    pairs: list[GivenPair]
    skipped: list[Skipped]

    @property
    def images(self) -> int:
        """Images to read, without canaries."""
        return sum(item.source != CANARY for chunk in self.chunks for item in chunk.items)


def plan_work(config: IngestConfig, home: Path) -> Plan:
    """All items of all sources, in recipe order, cut into chunks, with canaries spread over them.

    Raises:
        SourceError: a source is missing or empty.
        GateError: a hash list is missing, malformed or stale, or more canaries than exist.
    """
    proved_gate(config, home)  # refuse before any work is done
    found = without_opted_out(read_all(config.sources), opt_outs(home))
    items = found.items
    if config.edits.per_picture:
        items = import_module(EDITED).marked(items, found.pairs, config.edits)
    if not items:
        raise SourceError("the sources hold no images")
    edits = config.edits.per_picture
    # with its edits a picture is several, and takes as long
    step = max(1, config.chunk_size // (4 * edits)) if edits else config.chunk_size
    chunks = list(cut(items, step))
    for number, canary in enumerate(_canaries(config.canaries)):
        chunk = chunks[number * len(chunks) // config.canaries]
        chunk.insert(len(chunk) // 2, canary)
    work = [IngestChunk.of(chunk, config, home) for chunk in chunks]
    return Plan(work, found.pairs, found.skipped)


def without_opted_out(found: Planned, opted_out: OptOuts) -> Planned:
    """Without pictures that somebody does not want in, by name; they are counted as left out."""
    gone = {(i.source, i.ref) for i in found.items if opted_out(i.source, i.ref)}
    if not gone:
        return found

    def whole(pair: GivenPair) -> bool:
        return all((pair.source, ref) not in gone for ref in (*pair.contexts, pair.target))

    return Planned(
        [item for item in found.items if (item.source, item.ref) not in gone],
        [pair for pair in found.pairs if whole(pair)],
        [*found.skipped, *(Skipped(s, ref, str(Reason.OPTED_OUT)) for s, ref in sorted(gone))],
    )


def cut(items: Sequence[SourceItem], most: int) -> Iterator[list[SourceItem]]:
    """Chunks of at most `most` items, and of not many more bytes than a worker should hold.

    What a chunk keeps is written at its end, and a large photograph is kept as megabytes.
    """
    chunk: list[SourceItem] = []
    size = 0
    for item in items:
        own = item.stamp[0] if item.path and item.stamp else len(item.payload or b"")
        if chunk and (len(chunk) >= most or size + own > _CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(item)
        size += own
    if chunk:
        yield chunk


def _canaries(count: int) -> Iterator[SourceItem]:
    try:
        payloads = canary_items(count)
    except ValueError as error:
        raise GateError(str(error)) from error
    yield from (_canary(str(number), payload) for number, payload in enumerate(payloads))


def _canary(ref: str, payload: bytes) -> SourceItem:
    return SourceItem(
        source=CANARY,
        ref=ref,
        group_key=CANARY,
        concept=CANARY,
        license_spdx="CC0-1.0",
        author="kontext",
        payload=payload,
    )


# --- worker --------------------------------------------------------------------------------------


def ingest_chunk(chunk: IngestChunk) -> Mapping[str, pa.Table]:
    """Decode, gate and bound one chunk: images, pixels, rejects, decisions, moments and outcomes.

    A pure function of the chunk (and of the hash lists and key at `home`). Outcomes are in order;
    they have no keys yet, and what is kept may still turn out to be a duplicate.

    Raises:
        GateError: the gate broke; or the home holds other lists, opt-outs or another key than the
            plan was made with.
        CanaryError: it let a canary through.
    """
    home = Path(chunk.home)
    if vouched(chunk.config, home) != chunk.vouched:
        raise GateError(
            f"{home} on {os.uname().nodename} holds other hash lists, other opt-outs or another "
            "safety key than the home of this run: the nodes need copies of all three"
        )
    gate, key = proved_gate(chunk.config, home), run_key(home)
    read = Read(Crops.of(chunk.config), Scorer(chunk.policy))
    rows = no_rows(chunk.config)
    with Payloads(chunk.items, chunk.config.web, home, key) as payloads:
        for item, data in payloads:
            if isinstance(data, SourceError):
                subject = subject_hmac(f"{item.source}/{item.ref}", key)
                said = () if refused_names(*names_of(item)) else (item.ref, str(data))
                ref, detail = said or ("", "")
                reject = reject_row(item.source, subject, ref, data.reason, detail)
                rows["rejects"].append(reject)
                rows["outcomes"].append(outcome_row(reject, checked=False))
                continue
            place = len(rows["images"])  # edits that are made of it come after it
            verdict = _ingest_one(item, data, chunk.config, gate, key, rows, read)
            payloads.judged(item, data, verdict)
            if verdict is Verdict.KEPT and item.ref in payloads.moments:
                pixels = rows["images"][place]["pixel_id"]
                rows["moments"].append({"pixel_id": pixels, **payloads.moments[item.ref]})
        read.scorer.prove()
        _prove(chunk, gate, key, rows, read)  # before anything of the chunk is written
    return tables_of(rows)


def _prove(
    chunk: IngestChunk, gate: HashGate, key: bytes, rows: Mapping[str, Sequence[Row]], read: Read
) -> None:
    """Raise CanaryError unless the gate has stopped the chunk's canaries, and stops every probe.

    And where what judges words has broken since the chunk began.
    """
    prove_words()
    outcomes = [row["outcome"] for row in rows["outcomes"] if row["source"] == CANARY]
    lost, failed = sum(outcome != CANARY for outcome in outcomes), []
    shown = (*probes(), *crop_probes(read.crops))
    for probe in shown:
        left: dict[str, list[Row]] = {name: [] for name in rows}
        item = _canary(probe.name, probe.data)
        _ingest_one(item, probe.data, chunk.config, gate, key, left, read)
        said = [(row["provider"], row["outcome"], row["reason"]) for row in left["decisions"]]
        if said != [(probe.provider, Outcome.DROP, probe.reason)] or left["pixels"]:
            failed.append(probe.name)
    if lost or failed:
        expected = len(outcomes) + len(shown)
        raise failure(failed, expected - lost - len(failed), expected)


def _ingest_one(
    item: SourceItem,
    data: bytes,
    config: IngestConfig,
    gate: HashGate,
    key: bytes,
    rows: dict[str, list[Row]],
    read: Read,
) -> Verdict:
    later = Later(gate)
    decoded: Decoded | None
    problem: DecodeError | None = None
    try:
        decoded = decode_image(
            data,
            resolution=config.resolution if item.trusted_svg else None,
            background=config.background,
            svg=item.trusted_svg,
            later=later,
        )
    except DecodeError as error:
        # it may be on a list all the same, and then its name is not kept
        decoded = error.first if isinstance(error, LaterError) else None
        problem = error
    kept = None if decoded is None or problem else kept_of(item, decoded, config)
    outcome = gate_one(item, data, decoded, kept, problem, gate, key, rows, read, later=later.hit)
    if item.series and kept is not None and kept.taken is not None and outcome is Verdict.KEPT:
        moment = {"kind": "photograph", "series": item.series, "shot": 0, "at_s": kept.taken}
        rows["moments"].append({"pixel_id": kept.pixel_id, **moment})
    if item.edits and kept is not None and outcome is Verdict.KEPT:

        def keep(other: SourceItem, png: bytes, made: Decoded) -> None:
            gate_one(other, png, made, made, None, gate, key, rows, read, png)
            rows["outcomes"][-1]["made"] = True

        rows["edits"] += import_module(EDITED).add(item, data, kept, config, keep)
    return outcome


# --- committer -----------------------------------------------------------------------------------


def skipped_rows(skipped: Sequence[Skipped], home: Path) -> pa.Table:
    """REJECTS rows of what sources left out; a name that the text rules refuse is not in them."""
    key, rows = run_key(home), []
    for one in skipped:
        subject = subject_hmac(f"{one.source}/{one.ref}", key)
        said = ("", "") if refused_names(one.ref, one.detail) else (one.ref, one.detail)
        rows.append(reject_row(one.source, subject, said[0], one.reason, said[1]))
    return pa.Table.from_pylist(rows, REJECTS)


def refused_pairs(pairs: Sequence[GivenPair], home: Path) -> pa.Table:
    """DECISIONS rows of the pairs whose words the text rules refuse."""
    key, rows = run_key(home), []
    for pair in pairs:
        reason = refused_pair(pair)
        if reason is not None:
            subject = subject_hmac(f"{pair.source}/{pair.row}", key)
            row = "text", subject, Check.TEXT_RULE, judged_by(), Outcome.DROP, reason, POLICY
            rows.append(Decision(*row)._asdict())
    return pa.Table.from_pylist(rows, DECISIONS)


def given_pairs(pairs: Sequence[GivenPair], outcomes: pa.Table) -> pa.Table:
    """GIVEN rows: the sources' own pairs, by the ids of their pictures.

    `outcomes` know pictures that are there twice by both names.
    """
    columns = outcomes.select(["source", "source_ref", "outcome", "pixel_id"]).to_pydict()
    pixel_of: dict[tuple[str, str], str] = {}
    reason_of: dict[tuple[str, str], str] = {}
    for source, ref, outcome, pixels in zip(*columns.values(), strict=True) if pairs else ():
        if pixels:
            pixel_of[source, ref] = pixels
        else:
            reason_of[source, ref] = outcome
    fallen = _made_of_stopped(pairs, pixel_of, reason_of)
    rows = [_given(pair, pixel_of, reason_of, fallen) for pair in pairs]
    return pa.Table.from_pylist(rows, GIVEN)


def _made_of_stopped(
    pairs: Sequence[GivenPair],
    pixel_of: Mapping[Named, str],
    reason_of: Mapping[Named, str],
) -> set[Named]:
    """What was made, turn by turn, of pictures that the gate has stopped; by their first names.

    The way back of a pair makes nothing: it does not lead from what is stopped to its original.
    """
    first: dict[str, Named] = {}  # a picture that is there twice is one
    name = {one: first.setdefault(pixels, one) for one, pixels in pixel_of.items()}
    made: dict[Named, list[Named]] = {}
    todo, fallen = [], set[Named]()
    for pair in pairs:
        refs = [(pair.source, ref) for ref in (*pair.contexts, pair.target)]
        todo += [ref for ref in refs if ref not in pixel_of and ref not in reason_of]
        if pair.contexts and not pair.row.endswith(":back"):
            made.setdefault(name.get(refs[0], refs[0]), []).append(name.get(refs[-1], refs[-1]))
    while todo:
        new = [ref for ref in made.get(todo.pop(), ()) if ref not in fallen]
        fallen.update(new)
        todo += new
    return {one for one, own in name.items() if own in fallen}


_NO_PAIR: Row = {name: [] if name == "context_ids" else "" for name in GIVEN.names}


def _given(
    pair: GivenPair,
    pixel_of: Mapping[tuple[str, str], str],
    reason_of: Mapping[tuple[str, str], str],
    fallen: Container[Named],
) -> Row:
    if (reason := refused_pair(pair)) is not None:
        return {**_NO_PAIR, "source": pair.source, "status": str(reason)}
    refs = [(pair.source, ref) for ref in (*pair.contexts, pair.target)]
    lost = [ref for ref in refs if ref not in pixel_of]
    if any(ref not in reason_of for ref in lost):
        # what the hash gate stopped has left no name, and its pair leaves neither name nor text
        return {**_NO_PAIR, "source": pair.source, "status": "picture_stopped_by_safety"}
    if any(ref in fallen for ref in refs):  # a later turn of a chain in which one was stopped
        return {**_NO_PAIR, "source": pair.source, "status": "picture_made_of_stopped"}
    ids = [] if lost else [pixel_of[ref] for ref in refs]
    return {
        "source": pair.source,
        "row": pair.row,
        "context_ids": ids[:-1],
        "target_id": ids[-1] if ids else "",
        "instruction": pair.instruction,
        "kind": pair.kind,
        "target_caption": pair.target_caption,
        "status": f"picture_{reason_of[lost[0]]}" if lost else "ok",
    }


def check_canaries(outcomes: pa.Table, expected: int) -> int:
    """Number of canaries the gate stopped.

    Raises:
        CanaryError: one got through, or was lost on the way.
    """
    own = outcomes.filter(pc.equal(outcomes["source"], CANARY))
    stopped = int(own.filter(pc.equal(own["outcome"], CANARY)).num_rows)
    if stopped != expected:
        raise failure([], stopped, expected)
    return stopped


def outcome_rows(images: pa.Table, rejects: pa.Table) -> list[Row]:
    """Counts per source and outcome ("kept" or the reject reason), sorted."""
    counts = Counter((source, "kept") for source in images["source"].to_pylist())
    counts.update(zip(rejects["source"].to_pylist(), rejects["reason"].to_pylist(), strict=True))
    return [
        {"source": source, "outcome": outcome, "images": count}
        for (source, outcome), count in sorted(counts.items())
    ]
