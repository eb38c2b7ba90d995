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
    from kontext.evaluate.arena.calibration import Agreement
    from kontext.evaluate.arena.contest import Contest
    from kontext.evaluate.arena.ratings import PoolRatings, Ratings
    from kontext.store.artifacts.artifact_store import ArtifactStore
    from kontext.store.votes import Vote, VoteBook

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
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Rate the editors of an evaluation by its votes (Bradley-Terry), people and VLMs apart."""
    from kontext.evaluate.arena.ratings import rate

    contest, votes = _voted(run, store)
    found = [rate(votes, pool) for pool in sorted({vote.pool for vote in votes})]
    if as_json:
        print_json({"evaluation": contest.evaluation, "pools": [pool.as_dict() for pool in found]})
        return
    if not found:
        say(f"no votes yet on evaluate/{contest.evaluation[:12]}: `kontext arena` takes them")
    for pool in found:
        _print_pool(pool)


@app.command()
def calibrate(
    run: Run = "",
    judge: Annotated[
        list[str] | None,
        typer.Option(
            help="Model that is asked, as the endpoint names it; repeatable. Without one: models "
            "that have voted here themselves (--pool vlm)."
        ),
    ] = None,
    endpoint: Annotated[
        str, typer.Option(help="OpenAI-compatible endpoint of the judges; key: OPENAI_API_KEY.")
    ] = "",
    passes: Annotated[
        int, typer.Option(min=1, max=32, help="Times that every judge is asked.")
    ] = 1,
    budget_tokens: Annotated[
        int, typer.Option(min=0, help="Tokens for judges, both ways; 0: no limit.")
    ] = 0,
    budget_requests: Annotated[
        int, typer.Option(min=0, help="Requests to judges; 0: no limit.")
    ] = 0,
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Compare judges with people, on the pairs that people have voted on."""
    from flows.cli.shared.bar import work_bar
    from kontext.evaluate.arena.calibration import asked, calibrated, machine_answers
    from kontext.evaluate.judges.judging import Judges

    contest, votes = _voted(run, store)
    answers, lost = machine_answers(votes), dict[str, int]()
    if judge or endpoint:
        judges = Judges(
            tuple(judge or ()),
            endpoint,
            passes,
            budget_tokens=budget_tokens,
            budget_requests=budget_requests,
        )
        with work_bar() as progress:
            answers, lost = asked(contest, votes, judges, opened.at(store).home, progress)
    found = calibrated(votes, answers)
    if as_json:
        rows = [one.as_dict() for one in found]
        print_json({"evaluation": contest.evaluation, "agreement": rows, "unusable": lost})
        return
    if not any(one.second != "people" for one in found):
        say(f"evaluate/{contest.evaluation[:12]} has no pairs that people and judges have answered")
    _print_agreement(found, lost)


def _voted(run: str, store: str) -> tuple[Contest, list[Vote]]:
    """An evaluation, and the votes on it; damaged ones are said."""
    from kontext.evaluate.arena.contest import open_contest
    from kontext.store.votes import VoteBook

    artifacts = opened.artifacts(store)
    contest = open_contest(artifacts, _evaluation(artifacts, run, store))
    with closing(VoteBook(artifacts.objects, opened.catalog(store), contest.evaluation)) as book:
        votes = list(book.votes)
    _warn(book)
    return contest, votes


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


def _print_agreement(found: list[Agreement], lost: dict[str, int]) -> None:
    rows = []
    for one in found:
        bounds = [
            f"{factor * own.value:{form}} [{factor * own.low:{form}}, {factor * own.high:{form}}]"
            for own, factor, form in ((one.agreement, 100, ".0f"), (one.kappa, 1, ".2f"))
        ]
        ties = " / ".join(f"{share:.0%}" for share in one.ties)
        rows.append((one.question, one.first, one.second, one.pairs, one.answers, *bounds, ties))
    if rows:
        heads = ("question", "of", "and", "pairs", "answers", "agreement, %", "kappa", "ties")
        print_table(rows, heads, right=(3, 4))
        typer.echo("95 % intervals over items; people with people: the ceiling; kappa 0: chance")
    for name, count in lost.items():
        if count:
            typer.echo(f"{name}: {count} verdicts could not be used")


def _interval(low: float, high: float) -> str:
    return "too few" if math.isnan(low) else f"[{low:.0f}, {high:.0f}]"
