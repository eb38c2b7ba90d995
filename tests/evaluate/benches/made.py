"""Public benches in their published layouts, as large as is wanted. No data is theirs."""

import csv
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

KONTEXT = {
    "Instruction Editing - Local": 416,
    "Instruction Editing - Global": 262,
    "Text Editing": 92,
    "Style Reference": 63,
    "Character Reference": 193,
}


def picture(number: int, size: tuple[int, int] = (48, 32), mark: str = "orange") -> Image.Image:
    """A drawing like no other's."""
    image = Image.new("RGB", size, (number * 37 % 256, number * 91 % 256, 120))
    ImageDraw.Draw(image).ellipse((4, 4, 4 + 5 * (number % 5 + 2), 26), fill=mark)
    image.putpixel((0, 0), (number % 256, number // 256, 0))
    return image


def png(image: Image.Image) -> bytes:
    """Its bytes as a PNG."""
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def kontextbench(
    folder: Path, counts: Mapping[str, int] | None = None, pictures: int = 108
) -> list[dict[str, Any]]:
    """`test/metadata.jsonl` and `test/images/NNNN.jpg`. Returns the rows."""
    (folder / "test" / "images").mkdir(parents=True)
    for number in range(pictures):
        picture(number).save(folder / "test" / "images" / f"{number:04d}.jpg", quality=95)
    rows: list[dict[str, Any]] = []
    for category, count in (counts or KONTEXT).items():
        for _ in range(count):
            number = len(rows)
            name = f"images/{number % pictures:04d}.jpg"
            said = {"key": f"{number:04d}", "instruction": f"make it blue \u2028{number}"}
            rows.append({"file_name": name, "category": category, **said})
    write_lines(folder, rows)
    return rows


def write_lines(folder: Path, rows: list[dict[str, Any]]) -> None:
    """KontextBench's metadata anew."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (folder / "test" / "metadata.jsonl").write_text("".join(lines), "utf-8")


def gedit(folder: Path, items: int, tasks: tuple[str, ...]) -> None:
    """Two Parquet files with two groups of rows each, English and Chinese in turn."""
    (folder / "data").mkdir(parents=True)
    rows = []
    for number in range(items):
        for language in ("en", "cn"):
            shown = {"bytes": png(picture(number // 2)), "path": f"{number}.png"}
            rows.append(
                {
                    "key": f"{language}{number:04d}",
                    "task_type": tasks[number % len(tasks)],
                    "instruction": f"edit {number}",
                    "instruction_language": language,
                    "input_image": shown,
                    "input_image_raw": shown,
                    "Intersection_exist": number % 3 == 0,
                }
            )
    half = len(rows) // 2
    for part, own in enumerate((rows[:half], rows[half:])):
        at = folder / "data" / f"train-{part:05d}-of-00002.parquet"
        pq.write_table(pa.Table.from_pylist(own), at, row_group_size=max(1, half // 2))


def gedit_v2(folder: Path, items: int, tasks: int) -> None:
    """One Parquet file; two items share a picture."""
    (folder / "data").mkdir(parents=True)
    rows = [
        {
            "key": f"task{number % tasks}_{number:06d}",
            "task": "text_editing" if number % tasks == 0 else f"task{number % tasks}",
            "instruction": f"replace 'OLD' with 'NEW {number}'",
            "source_image": {"bytes": png(picture(number // 2)), "path": None},
        }
        for number in range(items)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "data" / "train-00000-of-00001.parquet")


def imgedit(folder: Path, counts: Mapping[str, int], name: str = "singleturn.json") -> None:
    """`Benchmark/singleturn/` as it comes out of the tar."""
    at = folder / "Benchmark" / "singleturn"
    (at / "animal").mkdir(parents=True)
    rows = {}
    for category, count in counts.items():
        for _ in range(count):
            number = len(rows)
            shown = f"animal/{number % 9:09d}.jpg"
            rows[str(number + 1000)] = {
                "id": shown,
                "prompt": f"edit {number}",
                "edit_type": category,
            }
    for number in range(9):
        picture(number).save(at / "animal" / f"{number:09d}.jpg")
    (at / name).write_text(json.dumps(rows))
    rubrics = {category: f"Grade {category}.\nInstruction: <edit_prompt>" for category in counts}
    (at / "judge_prompt.json").write_text(json.dumps(rubrics))


def magicbrush(folder: Path, turns: tuple[int, ...]) -> None:
    """`test/`, one session for each number of turns. A mask is transparent where it may change."""
    sessions: dict[str, list[dict[str, str]]] = {}
    captions: dict[str, dict[str, str]] = {}
    for number, count in enumerate(turns):
        session = str(100 + number)
        at = folder / "test" / "images" / session
        at.mkdir(parents=True)
        picture(number).save(at / f"{session}-input.png")
        names = [f"{session}-input.png", *(f"{session}-output{i + 1}.png" for i in range(count))]
        rows = []
        for turn in range(count):
            target = np.asarray(picture(number, mark=("red", "green", "white")[turn]))
            Image.fromarray(target).save(at / names[turn + 1])
            mask = picture(number).convert("RGBA")
            alpha = Image.new("L", mask.size, 255)
            alpha.paste(0, (0, 0, 40, 30))
            mask.putalpha(alpha)
            mask.save(at / f"{session}-mask{turn + 1}.png")
            rows.append(
                {
                    "input": names[turn],
                    "mask": f"{session}-mask{turn + 1}.png",
                    "output": names[turn + 1],
                    "instruction": f"paint it, turn {turn + 1}",
                }
            )
        sessions[session] = rows
        captions[session] = {name: f"a picture, {name}" for name in names}
    (folder / "test" / "global_descriptions.json").write_text(json.dumps(captions))
    (folder / "test" / "edit_sessions.json").write_text(json.dumps(sessions))


def edival(folder: Path, sessions: int) -> None:
    """The table with every session's beginnings, and the zip with pictures that nobody uses."""
    folder.mkdir(exist_ok=True)
    with (folder / "oai_instruction_generation_output.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["image_index", "turns", "instructions", "tasks"])
        table.writeheader()
        for session in range(sessions):
            said = [f"make it {colour}, {session}" for colour in ("red", "green", "blue")]
            for turns in (1, 2, 3):
                table.writerow(
                    {"image_index": session, "turns": turns, "instructions": said[:turns]}
                )
    with zipfile.ZipFile(folder / "input_images_resize_512.zip", "w") as archive:
        for session in range(sessions + 2):
            archive.writestr(f"{session}_input_raw.jpg", png(picture(session)))


def paintbench(folder: Path, tasks: tuple[str, ...], each: int) -> None:
    """`PaintBench/problems.jsonl` and folders by task, with the preservation cases."""
    lines = []
    for task in (*tasks, "preservation"):
        at = folder / "PaintBench" / task
        at.mkdir(parents=True)
        for number in range(each):
            before = Image.new("RGB", (32, 24), "white")
            after = before.copy()
            after.paste((0, 0, 255), (4, 4, 12 + number, 12))
            before.save(at / f"{number:03d}_input.png")
            (before if task == "preservation" else after).save(at / f"{number:03d}_answer.png")
            lines.append({"task": task, "problem_id": number, "instruction": "draw it"})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "PaintBench" / "problems.jsonl").write_text(text)
