"""What happened to a run, in words: for its state, its page and `kontext status`."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import httpx
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run

from kontext.engine.stage import StageOutcome
from tasks.markdown import duration, one_line
from tasks.reporter import PrefectReporter
from tasks.request import CONTINUE


def stage_story(outcome: StageOutcome, reporter: PrefectReporter) -> str:
    """How a stage's artifact came to be: reused or made; after `; ` which attempt went on where."""
    ref, made = f"{outcome.stage}/{outcome.digest}", outcome.manifest
    if outcome.reused:
        return f"reused {ref}, made {made.created_at[:16].replace('T', ' ')} UTC"
    line = f"made {ref} in {duration(outcome.seconds)}"
    try:
        with get_client(sync_client=True) as client:
            before = _before(client, reporter)
    except httpx.HTTPError as error:  # the artifact is made: it must not fail for a sentence
        before = f"what was before is not known: {type(error).__name__}"
    return f"{line}; {before}" if before else line


def _before(client: SyncPrefectClient, reporter: PrefectReporter) -> str:
    """The attempt before, and what of its work this one went on with; empty for a first one."""
    own, count = str(flow_run.get_id()), flow_run.get_run_count() or 1
    ended = ended_as(client, own)
    attempt = f"attempt {count}, after one that {ended}" if ended else ""
    if not reporter.continued_from:
        return attempt
    resumed = f"resumed from {reporter.continued_from}"
    other = reporter.earlier_run
    if other in ("", own):
        return f"{resumed} ({attempt})" if attempt else resumed
    return f"{resumed} of run {_named(client, other)}, because that {ended_as(client, other)}"


def ended_as(client: SyncPrefectClient, run: str) -> str:
    """`Crashed: its process died`: the last end of a run; empty where it has none, or is gone."""
    try:
        states = client.read_flow_run_states(UUID(run))
    except (ObjectNotFound, ValueError):
        return ""
    ends = [state for state in states if state.is_final()]
    return said(max(ends, key=lambda state: state.timestamp)) if ends else ""


def said(state: Any) -> str:
    """A state's name and message in one line."""
    message = one_line(str(state.message or "")).partition(CONTINUE)[0]
    return f"{state.name}: {message}" if message else str(state.name)


def _named(client: SyncPrefectClient, run: str) -> str:
    try:
        return f"'{client.read_flow_run(UUID(run)).name}'"
    except (ObjectNotFound, ValueError):
        return run


def notable(stories: Sequence[tuple[str, str]]) -> str:
    """What a pipeline says of its stages (name, story): those that were retried or went on."""
    parts = [(name, story.partition("; ")[2]) for name, story in stories]
    return "".join(f"; {name}: {rest}" for name, rest in parts if rest)
