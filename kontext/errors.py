"""Errors that a user can repair. Each message is one clear line; the command prints it and exits 1.

Our own invariants use `assert`; these classes are for bad input, bad configuration and bad stores.
"""

CHANGES_RESULTS = False  # names what went wrong


class KontextError(ValueError):
    """Base of every user-facing error."""

    exit_code = 1


class RecipeError(KontextError):
    """A recipe name, key or value is not valid."""


class StoreError(KontextError):
    """The object store is unreachable, refuses us, or does not keep its promises."""


class ObjectNotFound(StoreError):
    """No object under that key."""


class ObjectExists(StoreError):
    """A conditional put found an object already there."""


class LedgerError(StoreError):
    """The safety ledger is not as it was written, or signed with a key that we do not have."""


class ArtifactError(KontextError):
    """An artifact is missing, ambiguous, or its bytes do not match its manifest."""


class CatalogError(KontextError):
    """A catalog query or commit is not possible."""


class VoteError(KontextError):
    """A vote that cannot be taken: unknown, given twice, or not as asked."""


class DoubledVote(VoteError):
    """This rater has voted on this pair already."""


class UnknownTask(VoteError):
    """Nothing of that name was asked of this rater."""


class DecodeError(KontextError):
    """Bytes that are not an image we accept; `reason` is the reject reason that is recorded."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class SourceError(KontextError):
    """An image source cannot be read (missing folder, missing npm package, bad licence).

    `reason` is the reject reason that is recorded where it is about a single picture.
    """

    reason = "unreadable"


class TooLargeError(SourceError):
    """A file has more bytes than a picture may have. None of them is read."""

    reason = "too_many_bytes"


class ChangedError(KontextError):
    """A file was changed while it was read: what was made of it is not what its digest says."""


class WeightsError(KontextError):
    """A weights file has the wrong layout, shape or digest."""


class SafetyRefusal(KontextError):
    """Policy refused an instruction or an image. Carries the reason enum, never the content."""

    exit_code = 3

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ChunkError(KontextError):
    """A chunk of work failed; finished chunks are kept and a rerun does only the rest."""

    def __init__(self, index: int, message: str) -> None:
        super().__init__(message)
        self.index = index


class EngineError(KontextError):
    """Where chunk work is to run is set wrongly, not installed, or not reached."""


class GateError(KontextError):
    """A gate stopped the stage: no pairs, an unusable hash list and the like.

    `kind` is how tools tell gates apart, for example as the name of an event.
    """

    kind = "gate.failed"


class BenchError(KontextError):
    """A public bench is not there or not as published, or its run cannot go on in its folder."""


class MetricUnavailable(KontextError):
    """A metric cannot be measured here, because its weights or its package are missing, say.

    The message is the reason, for the table. It is never a zero, nor a network without weights.
    """


class ExchangeError(KontextError):
    """An exchange of hashes is set wrongly, not reached, or gives what is not in its form."""


class CanaryError(GateError):
    """What keeps bad images out does not work: a canary came through, or a score is constant."""

    kind = "canary.failed"


class FilterError(GateError):
    """A filter of pairs does not work, or not as it did; `filter` is its name."""

    kind = "filter.broken"

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"filter {name} is broken: {message}")
        self.filter = name


class WorseError(GateError):
    """A model is worse than the tagged one beyond the margin, and was not to be published so."""

    kind = "model.worse"


def chunk_failure(index: int, count: int, why: str) -> KontextError:
    """The error of chunk `index` of `count`. `why` is `Class: text`; a gate's error stays one."""
    cause, _, text = why.partition(": ")
    gates = {kind.__name__: kind for kind in (GateError, CanaryError)}
    if cause in gates:
        return gates[cause](text)
    return ChunkError(index, f"chunk {index} of {count} failed: {why}")


class DivergedError(GateError):
    """Training went wrong: losses that are not finite or spike, a model that learns nothing."""

    kind = "training.diverged"


class WiringError(GateError):
    """A gate before training saw a symptom of broken wiring; `gate` is its name."""

    def __init__(self, gate: str, message: str) -> None:
        super().__init__(f"{gate}: {message}")
        self.gate = gate


class RanksError(KontextError):
    """The processes that train together died too often, or could not be started."""


class StallError(KontextError):
    """Training made no step for longer than the recipe allows."""


class NumericsError(KontextError):
    """Two things that should share their numerics do not; `lines` has one line per difference."""

    def __init__(self, message: str, lines: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.lines = lines


class Stopped(Exception):
    """The work was asked to end before it was done. What is made so far is saved: nothing failed.

    The same command goes on where it ended.
    """

    exit_code = 75  # EX_TEMPFAIL of sysexits.h
