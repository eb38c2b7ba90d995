"""`kontext arena`: a page for blind votes between editors, and what the votes say."""

from __future__ import annotations

import math
from contextlib import closing
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flows.cli.shared import named, opened
from flows.cli.shared.complete import complete_ref
from flows.cli.shared.options import Json, Panel, Store
from flows.cli.shared.show import dim, print_json, print_table, say
from kontext.errors import ArtifactError

if TYPE_CHECKING:
    from kontext.evaluate.arena.ratings import PoolRatings, Ratings
    from kontext.store.artifacts.artifact_store import ArtifactStore
    from kontext.store.votes import VoteBook

PLACE = (Panel.MODELS, 7)
app = typer.Typer(
    help="Serve a page for blind votes between editors, or rate them by the votes.",
    invoke_without_command=True,
)
Run = Annotated[
    str,
    typer.Option(
        help="Evaluation, or a model that was evaluated; by default the default model's.",
        autocompletion=complete_ref,
    ),
]


@app.callback()
def arena(
    context: typer.Context,
    run: Run = "",
    editor: Annotated[
        list[str] | None,
        typer.Option(help="Editor that competes; repeatable. By default all of the evaluation."),
    ] = None,
    pool: Annotated[
        Literal["people", "vlm"], typer.Option(help="Who votes here; pools are rated apart.")
    ] = "people",
    seed: Annotated[
        int, typer.Option(help="Draws sides and gold items.", min=0, max=2**32 - 1)
    ] = 0,
    port: Annotated[
        int | None,
        typer.Option(help="By default 4300, or a free one; 0: a free one.", min=0, max=65535),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; another one than this has a secret link.")
    ] = "127.0.0.1",
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Serve the page on which people vote between the edits of an evaluation, until Ctrl-C."""
    if context.invoked_subcommand is not None:
        return
    from flows.arena.serve import home_key, serve
    from kontext.evaluate.arena.asking import Arena
    from kontext.evaluate.arena.contest import open_contest
    from kontext.store.votes import VoteBook

    at = opened.at(store, write=True)
    artifacts = opened.artifacts(store)
    contest = open_contest(artifacts, _evaluation(artifacts, run, store), editor or ())
    book = VoteBook(artifacts.objects, opened.catalog(store), contest.evaluation)
    key = home_key(at.home)
    _warn(book)

    def said(url: str) -> None:
        if as_json:
            print_json({"url": url, "evaluation": contest.evaluation, "votes": len(book.votes)})
            return
        say(
            f"{len(contest.items)} items of evaluate/{contest.evaluation[:12]}, "
            f"{len(contest.editors)} editors, {len(book.votes)} votes so far"
        )
        typer.echo(f"vote at {url} (Ctrl-C stops it)")

    with closing(book):
        serve(Arena(contest, book, key, pool, seed), key, host, port, said)


@app.command()
def ratings(
    run: Run = "",
    draws: Annotated[
        int, typer.Option(help="Resamples for the intervals.", min=20, max=100_000)
    ] = 500,
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Rate the editors of an evaluation by its votes (Bradley-Terry), people and VLMs apart."""
    from kontext.evaluate.arena.contest import open_contest
    from kontext.evaluate.arena.ratings import rate
    from kontext.store.votes import VoteBook

    artifacts = opened.artifacts(store)
    contest = open_contest(artifacts, _evaluation(artifacts, run, store))
    with closing(VoteBook(artifacts.objects, opened.catalog(store), contest.evaluation)) as book:
        votes = book.votes
    _warn(book)
    found = [rate(votes, pool, draws) for pool in sorted({vote.pool for vote in votes})]
    if as_json:
        print_json({"evaluation": contest.evaluation, "pools": [pool.as_dict() for pool in found]})
        return
    if not found:
        say(f"no votes yet on evaluate/{contest.evaluation[:12]}: `kontext arena` takes them")
    for pool in found:
        _print_pool(pool)


def _warn(book: VoteBook) -> None:
    for problem in book.damaged.values():
        say(f"not counted: {problem}")


def _evaluation(artifacts: ArtifactStore, run: str, store: str) -> str:
    """`run`, or the evaluation of the default model, or the latest one."""
    if run:
        return run
    try:
        found = named.default_model(store)
    except ArtifactError:
        found = None
    if found is not None and "evaluate" in found.artifact.manifest.inputs:
        dim(f"using {found}")
        return f"evaluate/{found.artifact.manifest.inputs['evaluate']}"
    if artifacts.tagged("latest/evaluate") is None:
        raise ArtifactError("no evaluation yet: `kontext run` makes one")
    return "evaluate"


def _print_pool(pool: PoolRatings) -> None:
    typer.echo(f"{pool.pool}: {pool.votes} votes are counted")
    for rater in pool.raters:
        typer.echo(f"  {rater.said}")
    if not pool.votes:
        return
    typer.echo(f"\n1000 is {pool.anchor or 'the mean of the editors'}; 95 % intervals over items")
    for each in pool.questions:
        _print_question(each)
    if not math.isnan(pool.left):
        typer.echo(f"\nthe left side was chosen in {pool.left:.0%} of decided answers")


def _print_question(each: Ratings) -> None:
    agree = "" if math.isnan(each.agreement) else f", raters' agreement α = {each.agreement:.2f}"
    typer.echo(f"\n{each.question} ({each.items} items, {each.clusters} components{agree})")
    rows = [(r.editor, f"{r.rating:.0f}", _interval(r.low, r.high), r.votes) for r in each.ratings]
    print_table(rows, ("editor", "rating", "95 %", "votes"), right=(1, 2, 3), indent=2)
    order = [row.editor for row in each.ratings]
    for pair in (p for p in each.differences if (p.first, p.second) in pairwise(order)):
        between = _interval(pair.low, pair.high)
        verdict = pair.verdict
        if verdict == "undecided":
            verdict += f", about {pair.more:,} more votes" if pair.more < 100_000 else ""
        typer.echo(f"  {pair.first} − {pair.second}: {pair.points:+.0f} {between}: {verdict}")


def _interval(low: float, high: float) -> str:
    return "too few" if math.isnan(low) else f"[{low:.0f}, {high:.0f}]"
