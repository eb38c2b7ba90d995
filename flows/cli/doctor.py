"""`kontext doctor`: what this machine can run, or what a weights file is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.shared import named, opened
from flows.cli.shared.options import Json, Panel, Store
from flows.cli.shared.show import print_json, print_table

if TYPE_CHECKING:
    from kontext.doctor import Check

PLACE = (Panel.RUN, 7)
_SIGNS = {"ok": "✔", "warn": "!", "fail": "✘"}


def doctor(
    weights: Annotated[
        str, typer.Argument(help="Weights file, folder, name or artifact to look at instead.")
    ] = "",
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Check what this machine can run and how to repair the rest; or say what WEIGHTS is."""
    from kontext.doctor import check_machine
    from tasks.workspace import places

    if weights:
        _weights(weights, store, as_json)
        return
    at = places()
    checks = [*check_machine(at.home, at.store), _server()]
    if as_json:
        print_json([vars(check) for check in checks])
    else:
        rows = []
        for check in checks:
            rows.append((_SIGNS[check.state], check.name, check.found))
            if check.remedy and check.state != "ok":
                rows.append(("", "", f"→ {check.remedy}"))
        print_table(rows)
    if any(check.state == "fail" for check in checks):
        raise typer.Exit(1)


def _server() -> Check:
    from flows.server.processes import port_free
    from flows.server.serve import connect
    from flows.server.settings import DEFAULT_PORT
    from kontext.doctor import OK, WARN, Check

    api = connect()
    if api is not None:
        return Check("server", OK, f"up at {api.url}/v2")
    if port_free("127.0.0.1", DEFAULT_PORT):
        return Check("server", OK, f"down; port {DEFAULT_PORT} is free (`kontext up`)")
    remedy = "`kontext up` takes another port"
    return Check("server", WARN, f"down; port {DEFAULT_PORT} is taken by another program", remedy)


def _weights(ref: str, store: str, as_json: bool) -> None:
    """Print what a weights file, folder or artifact is; exit 1 where keys do not fit."""
    from kontext.edit.weights.model_store import examine

    rows = examine(named.model(ref, store), lambda: opened.artifacts(store))
    if as_json:
        print_json(rows)
    else:
        typer.echo("\n\n".join(_text(row) for row in rows))
    if any(row["problems"] for row in rows):
        raise typer.Exit(1)


def _text(row: dict[str, Any]) -> str:
    dtypes = ", ".join(f"{n} x {kind}" for kind, n in row["dtypes"].items())
    lines = [
        f"{row['file']}",
        f"  {row['part']} in {row['layout']} layout: {row['model']}",
        f"  {row['parameters']:,} parameters{f' ({dtypes})' if dtypes else ''}",
        *([f"  made for {row['made_for']}"] if row.get("made_for") else []),
        *([f"  called up by: {row['trigger']}"] if row.get("trigger") else []),
        *(f"  ✘ {problem}" for problem in row["problems"]),
        f"  needs {row['needs']}",
    ]
    if row["assumed"]:
        lines.append(
            f"  ! not known from the tensors: {', '.join(row['assumed'])} (add config.json)"
        )
    return "\n".join(lines)
