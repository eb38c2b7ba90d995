"""`kontext bench`: runs a public bench with any editor, and prints its table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flows.cli.shared import named, opened
from flows.cli.shared.complete import complete_ref
from flows.cli.shared.options import Json, Panel, Store, Text
from flows.cli.shared.show import print_json, print_table, say

if TYPE_CHECKING:
    from kontext.evaluate.judges.judging import Judges
    from kontext.evaluate.public.editors import BenchEditor

PLACE = (Panel.MODELS, 6)

Name = Annotated[str, typer.Argument(help="Which bench; empty: list them all.")]
Data = Annotated[
    Path | None, typer.Option("--data", "-d", help="Folder with the data, as it was published.")
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Folder of the run; by default bench-NAME. Goes on there."),
]
Weights = Annotated[
    str,
    typer.Option(
        "--weights",
        "-w",
        help="Model: name (model@NAME), folder or artifact; by default see `kontext use`.",
        autocompletion=complete_ref,
    ),
]
Editor = Annotated[
    Literal["model", "identity", "codec"],
    typer.Option(help="The model, or a reference: does nothing, or the model's autoencoder alone."),
]
OwnEditor = Annotated[
    str,
    typer.Option(
        "--command", help="Another editor: 'PROGRAM {input} {instruction} {output}' for each edit."
    ),
]
Timeout = Annotated[float, typer.Option(min=1, help="Seconds of one edit by --command, at most.")]
Steps = Annotated[int | None, typer.Option(min=1, max=200, help="Sampling steps.")]
Guidance = Annotated[float | None, typer.Option(min=0.0, help="Guidance strength.")]
Seed = Annotated[int, typer.Option(help="Noise seed, as of `kontext edit`.")]
Judge = Annotated[
    list[str] | None,
    typer.Option(help="Model that judges, as the endpoint names it; repeatable, first is printed."),
]
Endpoint = Annotated[
    str, typer.Option(help="OpenAI-compatible endpoint of the judges; key: OPENAI_API_KEY.")
]
Passes = Annotated[int, typer.Option(min=1, max=32, help="Times that every judge is asked.")]
BudgetTokens = Annotated[
    int, typer.Option(min=0, help="Tokens for judges, both ways; 0: no limit.")
]
BudgetRequests = Annotated[int, typer.Option(min=0, help="Requests to judges; 0: no limit.")]
Against = Annotated[
    Path | None,
    typer.Option(help="Another run's folder: judges compare both, pair by pair, in both orders."),
]
Partial = Annotated[
    bool, typer.Option("--partial", help="Run a set that is not as published, and say so.")
]
First = Annotated[
    int, typer.Option(min=0, help="Only the first items of each category (0: all), and say so.")
]
Retry = Annotated[bool, typer.Option("--retry", help="Make edits that failed before once more.")]
Policy = Annotated[str, typer.Option(help="Safety policy: strict, research, … or a .yaml file.")]
HashLists = Annotated[
    list[str] | None, typer.Option(help="Hash list: images on it are refused; repeatable.")
]


def bench(
    name: Name = "",
    data: Data = None,
    weights: Weights = "",
    editor: Editor = "model",
    command: OwnEditor = "",
    timeout: Timeout = 600,
    steps: Steps = None,
    guidance: Guidance = None,
    text: Text = "",
    seed: Seed = 0,
    out: Out = None,
    judge: Judge = None,
    endpoint: Endpoint = "",
    passes: Passes = 1,
    budget_tokens: BudgetTokens = 0,
    budget_requests: BudgetRequests = 0,
    against: Against = None,
    partial: Partial = False,
    first: First = 0,
    retry: Retry = False,
    policy: Policy = "default",
    hash_list: HashLists = None,
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Edit every item of a public bench, score it, and print the table. Run again, it goes on."""
    from flows.cli.shared.bar import work_bar
    from kontext.evaluate.benches.public import load_bench
    from kontext.evaluate.public.run import BenchRequest, run_bench
    from kontext.safety.guard import EditGuard
    from kontext.store.objects import open_store

    if not name:
        _list(as_json)
        return
    if data is None:
        raise typer.BadParameter("--data FOLDER is missing", param_hint="--data")
    loaded = load_bench(name, data.resolve(), partial)
    loaded = loaded.first(first) if first else loaded
    judges = None
    if judge or endpoint:
        judges = _judges(judge or [], endpoint, passes, budget_tokens, budget_requests)
    own = not command and editor != "identity"  # a model is looked for in a store
    ref = named.model(weights, store) if own else ""
    # every edit and refusal is written into the ledger
    at = opened.at(store, write=not own or Path(ref).is_dir())
    guard = EditGuard.of(at.home, open_store(at.store), policy, tuple(hash_list or ()))
    maker = _editor(command, timeout, editor, ref, text, store, at.home, steps, guidance)
    folder = (out or Path(f"bench-{name}")).resolve()
    request = BenchRequest(loaded, maker, folder, seed, judges, against, retry)
    with work_bar() as progress:
        summary = run_bench(request, guard, at.home, progress)
    if as_json:
        print_json(summary)
        return
    typer.echo((folder / "table.md").read_text(), nl=False)
    say(f"{folder / 'index.html'}")


def _list(as_json: bool) -> None:
    """All benches, and how to get their data."""
    from kontext.evaluate.benches.public import known_benches

    known = {name: module.BENCH for name, module in known_benches().items()}
    if as_json:
        fields = ("title", "total", "pictures", "licence", "get", "note")
        print_json([{"name": n, **{f: getattr(b, f) for f in fields}} for n, b in known.items()])
        return
    rows = [(n, b.title, b.total, b.licence, b.get) for n, b in known.items()]
    print_table(rows, ("bench", "set", "items", "licence", "get the data with"), right=[2])


def _judges(models: list[str], endpoint: str, passes: int, tokens: int, requests: int) -> Judges:
    from kontext.evaluate.judges.judging import Judges

    return Judges(tuple(models), endpoint, passes, budget_tokens=tokens, budget_requests=requests)


def _editor(
    command: str,
    timeout: float,
    editor: str,
    ref: str,
    text: str,
    store: str,
    home: Path,
    steps: int | None,
    guidance: float | None,
) -> BenchEditor:
    """The editor that is asked for."""
    from kontext.edit.request import Options
    from kontext.evaluate.public.editors import Codec, Command, Identity, Model

    if command:
        return Command(command, timeout)
    if editor == "identity":
        return Identity()
    from kontext.edit.edit_file import load_edit_model
    from kontext.edit.weights.model_store import model_source

    source = model_source(ref, lambda: opened.artifacts(store))
    model = load_edit_model(source, home, text=text)
    return Codec(model) if editor == "codec" else Model(model, Options(steps, guidance))
