"""Small real stages on real stage names, so that forms and deployments need no change."""

import io
import os
import signal
import time
from pathlib import Path

import pyarrow as pa
from PIL import Image

from kontext.engine.stage import Stage, StageContext
from kontext.errors import CanaryError, DivergedError, GateError, KontextError


def _stage(name: str, inputs: tuple[str, ...] = (), pool: str = "cpu", tag: str = "") -> Stage:
    return Stage(
        name=name,
        section=name,
        inputs=inputs,
        module="tests.flows.toy_stages",
        pool=pool,
        tag=tag,
        summary=f"toy {name}",
    )


GRAPH = {
    stage.name: stage
    for stage in (
        _stage("ingest"),
        _stage("mine", ("ingest",)),
        _stage("index", ("mine",), tag="dataset@demo"),  # no stage shard here
        _stage("distill", ("ingest", "mine"), pool="gpu"),
    )
}


def run(ctx: StageContext) -> None:
    """Write one file made from the inputs. Flag files in KONTEXT_HOME make a stage misbehave."""
    name = _name(ctx)
    saved = ctx.scratch / "saved"
    if saved.exists():
        ctx.report.continued("step 1 of 4")
    saved.touch()
    _misbehave(ctx.home, name)
    ctx.log.info("toy %s works", name)
    seconds = float(os.environ.get("TOY_SECONDS", "0"))
    for step in range(4):
        time.sleep(seconds / 4)
        ctx.report.progress(step + 1, 4, f"step {step + 1}")
    made_from = [reader.json("out.json")["name"] for reader in ctx.inputs.values()]
    ctx.output.add_json("out.json", {"name": name, "from": made_from})
    ctx.output.metric("inputs", len(made_from))
    ctx.output.metric("quality_db", 24.25)
    picture = io.BytesIO()
    Image.linear_gradient("L").resize((320, 160)).save(picture, "PNG")
    ctx.report.image("samples", picture.getvalue(), f"samples of {name}")
    ctx.report.table("counts", [{"kind": "local", "kept": 3, "share": float("nan")}])
    ctx.report.markdown("about", f"**{name}** made from {made_from}")
    if name == "mine":
        ctx.note("a fallback was taken")
        pairs = pa.table({"pair_id": [f"p{i}" for i in range(3)], "relation_class": ["local"] * 3})
        ctx.output.add_table("pairs.parquet", pairs)
    if name == "index":
        ctx.output.add_json("index.json", {"version": 1})


def _name(ctx: StageContext) -> str:
    return ctx.log.name.rpartition(".")[2]


def _misbehave(home: Path, name: str) -> None:
    if (home / f"fail-{name}").exists():
        raise KontextError(f"toy {name} was told to fail")
    for kind in (GateError, CanaryError, DivergedError):
        if (home / f"{kind.__name__}-{name}").exists():
            raise kind(f"toy {name} met a gate")
    crash = home / f"crash-{name}"
    if crash.exists():
        crash.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
