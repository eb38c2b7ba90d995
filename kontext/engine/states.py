"""What the engine says about stages: what is done, what is planned, what running one did."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.manifest import Manifest

CHANGES_RESULTS = False  # for people and flows


@dataclass(frozen=True)
class StageOutcome:
    """What running a stage did."""

    stage: str
    digest: str
    reused: bool
    seconds: float  # spent now; the manifest has what the work took
    manifest: Manifest


@dataclass(frozen=True)
class StageStatus:
    """Whether a stage is done for this recipe."""

    stage: str
    digest: str
    state: str  # done, missing (never made) or stale (made, but from other code, recipe or inputs)
    why: str


@dataclass(frozen=True)
class PlannedStage:
    """One line of a plan."""

    stage: str
    digest: str
    reused: bool
    why: str
