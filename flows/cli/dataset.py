"""`kontext dataset …`: a dataset version for other tools."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.cli.shared import named, opened
from flows.cli.shared.options import Json, Panel, Store
from flows.cli.shared.show import print_result

PLACE = (Panel.DATA, 7)
app = typer.Typer(help="Hand a dataset version to other tools.")
Form = Literal["webdataset", "parquet", "imagefolder"]


@app.command()
def export(
    version: Annotated[
        str, typer.Argument(help="NAME or NAME@vN; by default the home's own dataset.")
    ] = "",
    output: Annotated[Path, typer.Option("--output", "-o", help="New or empty folder.")] = Path(
        "dataset"
    ),
    form: Annotated[Form, typer.Option("--format", "-f", help="What to write.")] = "webdataset",
    as_json: Json = False,
    store: Store = "",
) -> None:
    """Write its pairs as WebDataset tars, Parquet with pictures inside, or folders of images."""
    from kontext.data.shards.export import export_dataset
    from kontext.errors import KontextError

    name = version.partition("@")[0] or named.dataset("", store)
    at = version if "@" in version else None
    try:
        made = export_dataset(opened.catalog(store), opened.objects(store), name, form, output, at)
    except FileExistsError as error:
        raise KontextError(str(error)) from error
    files = [str(path) for path in made]
    result = {"dataset": name, "version": at or "newest", "format": form, "files": files}
    print_result(result, "\n".join(files), as_json)


@app.command()
def urls(
    version: Annotated[
        str, typer.Argument(help="NAME or NAME@vN; by default the home's own dataset.")
    ] = "",
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Print where its shards lie, one URL a split, as webdataset and other tools take them."""
    from kontext.store.artifacts.named_shards import named_in, ranges
    from kontext.store.catalog.export import export_version
    from kontext.store.catalog.versions import find_version
    from kontext.store.objects import folder_url

    catalog, objects = opened.catalog(store), opened.objects(store)
    found = find_version(catalog.datasets(), version or named.dataset("", store))
    prefix = export_version(catalog, objects, found)
    folder = folder_url(objects.url, f"{prefix}shards")
    rows = {split: folder + name for split, name in ranges(named_in(objects, prefix)).items()}
    print_result({"dataset": str(found), "urls": rows}, "\n".join(rows.values()), as_json)


@app.command()
def report(
    version: Annotated[
        str, typer.Argument(help="NAME or NAME@vN; by default the home's own dataset.")
    ] = "",
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML file to write.")] = Path(
        "data.html"
    ),
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Write the data report: what is left at each step, every score with its limit, samples."""
    from kontext.data.report.page import data_report
    from kontext.store.catalog.versions import find_version

    catalog, artifacts = opened.catalog(store), opened.artifacts(store)
    found = find_version(catalog.datasets(), version or named.dataset("", store))
    inputs = {stage: artifacts.open(stage, digest) for stage, digest in catalog.inputs(found)}
    output.write_text(data_report(inputs, str(found)), encoding="utf-8")
    print_result({"dataset": str(found), "file": str(output)}, f"{found}: {output}", as_json)


@app.command()
def optout(
    entries: Annotated[
        list[str],
        typer.Argument(help="Pictures' names (with * and ?), sha256:…, or files here."),
    ],
    as_json: Json = False,
) -> None:
    """Let no ingest take pictures of these names, or these files, from now on.

    What was made before is taken out by `kontext safety sweep`.
    """
    from kontext.safety.opt_outs import FILE, add
    from kontext.store.objects import sha256_file

    found = [Path(entry) for entry in entries]
    said = [
        f"sha256:{sha256_file(path)}" if path.is_file() else entry
        for path, entry in zip(found, entries, strict=True)
    ]
    new, where = add(opened.home(), said), opened.home() / FILE
    count = "1 entry is" if new == 1 else f"{new} entries are"
    text = f"{count} new in {where}; `kontext safety sweep` takes out what there is"
    print_result({"new": new, "file": str(where), "entries": said}, text, as_json)
