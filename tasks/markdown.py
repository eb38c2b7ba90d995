"""Markdown for the orchestrator's UI: keys, tables, pictures and links. Pure functions."""

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

MAX_IMAGE_BYTES = 700_000  # base64 grows by 4/3; artifacts live in the server's database


def artifact_key(*parts: str) -> str:
    """A valid artifact key: lower-case letters, digits and single dashes."""
    key = re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")
    if not key:
        raise ValueError(f"no letters or digits in artifact key {parts!r}")
    return key


def stage_key(stage: str, name: str) -> str:
    """Key of what a stage publishes, without saying its name twice.

    `train-autoencoder` and `autoencoder-samples` give `train-autoencoder-samples`.
    """
    first, words = artifact_key(stage).split("-"), artifact_key(name).split("-")
    if words[: len(first)] == first:
        words = words[len(first) :]
    elif words[0] == first[-1]:
        words = words[1:]
    return "-".join([*first, *words])


def page_key(stage: str) -> str:
    """Key of a stage's summary page; no stage can publish under it."""
    return artifact_key("stage", stage)


def artifact_link(key: str, artifact_id: object = None) -> str:
    """Path of one artifact's page, or of its key's history. The UI's sidebar lists neither."""
    return f"/v2/artifacts/artifact/{artifact_id}" if artifact_id else f"/v2/artifacts/key/{key}"


def run_link(run_id: object) -> str:
    """Path of a flow run's page."""
    return f"/v2/runs/flow-run/{run_id}"


def number(value: Any) -> str:
    """A metric as people read it: 4 significant digits, thousands apart, a dash for nothing."""
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        if value.is_integer() and abs(value) < 1e15:
            return f"{int(value):,}"
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)


def one_line(text: str) -> str:
    """An error's or a state's message in one line, without what Prefect puts before it."""
    text = " ".join(text.split())
    return re.sub(r"^(Flow|Task) run encountered an exception:? ", "", text)


def duration(seconds: float | None) -> str:
    """`4.2 s`, `3 min 05 s`, `2 h 10 min`; a dash for None."""
    if seconds is None:
        return "—"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(count: float) -> str:
    """Bytes in decimal units."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A markdown table. Bars and newlines in cells are escaped."""
    lines = ["| " + " | ".join(headers) + " |", "|" + "|".join(" --- " for _ in headers) + "|"]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else number(value)
    return text.replace("|", "\\|").replace("\n", " ")


def metrics_line(metrics: Mapping[str, Any], words: Mapping[str, str], limit: int = 3) -> str:
    """The first few metrics in one line, for a table cell; digests and the like are left out."""
    short = {n: v for n, v in metrics.items() if not (isinstance(v, str) and len(v) > 16)}
    return ", ".join(figures(short, words)[:limit]) or "—"


def figures(metrics: Mapping[str, Any], words: Mapping[str, str]) -> list[str]:
    """Metrics as people read them: those with words in the order of these, then all others.

    What was not measured comes last, in one line.

    `words` are those of a stage (`kontext.engine.graph`): a metric's name, perhaps with a `*`, and
    what to say, with a place for the value: {}, {%} for a share, {size} for bytes.
    """
    known = {name: value for name, value in metrics.items() if value is not None}
    missing = [_plain(name) for name in metrics if name not in known]
    found: dict[str, str] = {}
    for name, said in words.items():
        pattern = re.compile(re.escape(name).replace(r"\*", "(.+)"))
        for metric, value in known.items():
            if metric not in found and (match := pattern.fullmatch(metric)):
                part = match[1].replace("_", " ") if match.groups() else ""
                found[metric] = _said(said.replace("*", part), value)
    for metric, value in known.items():
        found.setdefault(metric, f"{_plain(metric)}: {number(value)}")
    return [*found.values(), *([f"not measured: {', '.join(missing)}"] if missing else [])]


def _plain(metric: str) -> str:
    return metric.replace("_", " ").replace("/", " of ", 1)


def _said(words: str, value: Any) -> str:
    shown = number(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        share = f"{100 * value:.3g} %" if math.isfinite(value) else shown
        words = words.replace("{%}", share).replace("{size}", size(value))
    return re.sub(r"\{(%|size)?\}", lambda _: shown, words)


def picture(png: bytes, caption: str) -> str:
    """Markdown with the picture inside. An image artifact would print its long address instead."""
    data, kind = fit_image(png)
    text = base64.b64encode(data).decode()
    alt = caption.replace('"', "'").replace("\n", " ")
    return f'<img src="data:image/{kind};base64,{text}" alt="{alt}">\n\n{caption}\n'


def fit_image(png: bytes) -> tuple[bytes, str]:
    """The picture unchanged where it is small enough, else a smaller JPEG; with its kind."""
    if len(png) <= MAX_IMAGE_BYTES:
        return png, "png"
    from PIL import Image

    with Image.open(io.BytesIO(png)) as opened:
        image = opened.convert("RGB")
    while True:
        out = io.BytesIO()
        image.save(out, "JPEG", quality=88)
        if out.tell() <= MAX_IMAGE_BYTES:
            return out.getvalue(), "jpeg"
        image = image.resize((max(1, image.width * 3 // 4), max(1, image.height * 3 // 4)))


def json_safe(value: Any) -> Any:
    """A value that JSON can carry: no NaN, no bytes, no exotic types."""
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(k): json_safe(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set):
        return [json_safe(v) for v in value]
    return str(value)
