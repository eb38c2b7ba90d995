"""Every loader on made files in the published layout, and what is said of sets that are not so."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kontext.errors import BenchError
from kontext.evaluate.benches import edival, imgedit, paintbench, public
from kontext.evaluate.benches.public import BenchItem, known_benches, load_bench
from tests.evaluate.benches import made

SMALL = {"Instruction Editing - Local": 3, "Text Editing": 2}


def changed(monkeypatch: pytest.MonkeyPatch, name: str, **values: Any) -> None:
    """A bench of which less was published, so that a made one can be small."""
    module = known_benches()[name]
    monkeypatch.setattr(module, "BENCH", replace(module.BENCH, **values))


def test_benches_are_found_by_file() -> None:
    known = known_benches()
    assert set(known) >= {"kontextbench", "gedit", "imgedit", "magicbrush", "edival", "drawbench"}
    assert "held-out" not in known and "public" not in known
    for module in known.values():
        counts = [count for count in module.BENCH.counts.values() if count]
        some = len(counts) < len(module.BENCH.counts) or module.BENCH.categories
        assert some or sum(counts) == module.BENCH.total
        assert "FOLDER" in module.BENCH.get and module.BENCH.licence


def test_kontextbench_whole(tmp_path: Path) -> None:
    rows = made.kontextbench(tmp_path)
    found = load_bench("kontextbench", tmp_path)
    assert Counter(item.category for item in found.items) == {
        "local": 416,
        "global": 262,
        "text": 92,
        "style": 63,
        "character": 193,
    }
    assert len({item.base for item in found.items}) == 108 and not found.problems
    first = found.items[0]
    assert (first.id, first.instruction) == ("0000", rows[0]["instruction"])
    assert first.context and first.context.read()[:2] == b"\xff\xd8"
    linked = tmp_path / "test" / "images" / "0000.jpg"
    cached = linked.rename(tmp_path / "cached")  # as the hub's client may do
    linked.symlink_to(cached)
    assert not load_bench("kontextbench", tmp_path).problems
    few = found.first(2)
    assert Counter(item.category for item in few.items) == dict.fromkeys(found.bench.counts, 2)
    assert "only 10 of 1026 items" in few.problems[0].says and few.digest != found.digest


def test_what_is_not_as_published_is_named(tmp_path: Path) -> None:
    rows = made.kontextbench(tmp_path)
    rows[1]["key"] = rows[0]["key"]
    rows[2]["file_name"] = "images/9999.jpg"
    rows[3]["instruction"] = " "
    rows[4]["category"] = "Outpainting"
    made.write_lines(tmp_path, [*rows[:-1]])
    with pytest.raises(BenchError, match="not KontextBench as published: 2 items have the id 0000"):
        load_bench("kontextbench", tmp_path)
    found = load_bench("kontextbench", tmp_path, partial=True)
    assert [problem.kind for problem in found.problems] == [
        "duplicate_id",
        "missing_image",
        "no_instruction",
        "unknown_category",
        "wrong_count",  # local
        "wrong_count",  # character
        "wrong_count",  # all
        "wrong_count",  # base pictures
    ]
    says = " ".join(problem.says for problem in found.problems)
    assert "local: 415 items where 416" in says and "1025 items where 1026" in says
    assert "109 base pictures where 108" in says and "images/9999.jpg" in says
    assert set(found.unusable) == {"0000", "0002", "0003", "0004"}
    assert len(found.items) == 1024 and len({item.id for item in found.items}) == 1024


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("[1]", "1 is no JSON object"),
        ("{", "1 is no JSON:"),
        ('{"file_name": "a", "category": "b", "key": true, "instruction": "c"}', "has no 'key'"),
        ('{"file_name": "../../a", "category": "b", "key": 1, "instruction": "c"}', "leads out of"),
        ('{"file_name": "/etc/a", "category": "b", "key": 1, "instruction": "c"}', "leads out of"),
    ],
)
def test_broken_metadata_is_named_with_its_line(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "metadata.jsonl").write_text(line)
    with pytest.raises(BenchError, match=says):
        load_bench("kontextbench", tmp_path, partial=True)


def test_an_empty_folder_says_how_to_get_the_data(tmp_path: Path) -> None:
    for name, module in known_benches().items():
        with pytest.raises(BenchError) as error:
            load_bench(name, tmp_path)
        assert module.BENCH.get in str(error.value)
    with pytest.raises(BenchError, match="no folder"):
        load_bench("kontextbench", tmp_path / "none")
    with pytest.raises(BenchError, match="did you mean 'kontextbench'"):
        load_bench("kontext-bench", tmp_path)


def test_gedit_takes_the_english_half(tmp_path: Path) -> None:
    tasks = tuple(known_benches()["gedit"].BENCH.counts)
    made.gedit(tmp_path, 606, tasks)
    found = load_bench("gedit", tmp_path)
    assert [item.id for item in found.items] == [f"en{n:04d}" for n in range(606)]
    assert {item.category for item in found.items} == set(tasks) and len(tasks) == 11
    assert len({item.base for item in found.items}) == 303  # equal pictures are one
    last = found.items[-1].context
    assert last and last.read() == made.png(made.picture(302))
    (tmp_path / "data" / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(BenchError, match="303 items where 606"):
        load_bench("gedit", tmp_path)


def test_gedit_v2_takes_its_tasks_as_they_come_and_counts_them(tmp_path: Path) -> None:
    made.gedit_v2(tmp_path / "whole", 1200, 23)
    found = load_bench("gedit-v2", tmp_path / "whole")
    assert len(found.items) == 1200 and len(found.bench.counts) == 23 and not found.problems
    assert len({item.base for item in found.items}) == 600
    assert found.items[0].category == "text_editing"
    assert (found.items[0].written, found.items[0].wanted) == ("OLD", "NEW 0")
    context = found.items[3].context
    assert context and context.read() == made.png(made.picture(1))
    made.gedit_v2(tmp_path / "less", 44, 22)
    with pytest.raises(BenchError, match="22 categories where 23 were published; 44 items where"):
        load_bench("gedit-v2", tmp_path / "less")


@pytest.mark.parametrize("name", ["singleturn.json", "basic_edit.json"])
def test_imgedit_has_a_rubric_for_every_type(tmp_path: Path, name: str) -> None:
    made.imgedit(tmp_path, imgedit.BENCH.counts, name)
    found = load_bench("imgedit", tmp_path)
    assert len(found.items) == 737 and len({item.base for item in found.items}) == 9
    assert found.items[0].rubric == "Grade add.\nInstruction: <edit_prompt>"
    rubrics = tmp_path / "Benchmark" / "singleturn" / "judge_prompt.json"
    rubrics.write_text(json.dumps({"add": "Grade."}))
    with pytest.raises(BenchError, match="no rubric for 'adjust'"):
        load_bench("imgedit", tmp_path)


def test_magicbrush_has_targets_and_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made.magicbrush(tmp_path, (3, 1, 2))
    with pytest.raises(BenchError, match="turn 1: 3 items where 535"):
        load_bench("magicbrush", tmp_path)
    changed(monkeypatch, "magicbrush", counts=dict.fromkeys(("turn 1", "turn 2", "turn 3"), 0))
    changed(monkeypatch, "magicbrush", total=6, pictures=3)
    found = load_bench("magicbrush", tmp_path)
    assert [item.id for item in found.items] == [
        "100_1",
        "100_2",
        "100_3",
        "101_1",
        "102_1",
        "102_2",
    ]
    second = found.items[1]
    assert second.context and second.context.path.name == "100-output1.png"
    assert second.target and second.target.path.name == "100-output2.png"
    assert second.mask and second.mask.path.name == "100-mask2.png" and second.base == "100"
    captions = second.caption, second.context_caption
    assert captions == ("a picture, 100-output2.png", "a picture, 100-output1.png")
    second.mask.path.unlink()
    with pytest.raises(BenchError, match="item 100_2: no picture"):
        load_bench("magicbrush", tmp_path)


def test_edival_is_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made.edival(tmp_path, 572)
    with pytest.raises(BenchError, match="SHA-256"):
        load_bench("edival", tmp_path)
    changed(monkeypatch, "edival", checksums={})
    found = load_bench("edival", tmp_path)
    assert len(found.items) == 3 * 572
    assert [(i.id, i.after) for i in found.items[:4]] == [
        ("0_1", ""),
        ("0_2", "0_1"),
        ("0_3", "0_2"),
        ("1_1", ""),
    ]
    assert found.items[4].instruction == "make it green, 1"
    assert [item.id for item in found.first(1).items] == ["0_1", "0_2", "0_3"]
    table = tmp_path / "oai_instruction_generation_output.csv"
    table.write_text("image_index,turns,instructions\n0,3,__import__('os')\n")
    with pytest.raises(BenchError, match="no list of texts"):
        edival.load(tmp_path)


def test_paintbench_leaves_preservation_out(tmp_path: Path) -> None:
    made.paintbench(tmp_path, tuple(paintbench.BENCH.counts), 96)
    found = load_bench("paintbench", tmp_path)
    assert len(found.items) == 1920 and found.items[0].id == "translation-000"
    assert all(picture.exists() for picture in found.items[-1].pictures())


def _parti(folder: Path, count: int) -> None:
    counts: Mapping[str, int] = known_benches()["partiprompts"].BENCH.counts
    names = [name for name, own in counts.items() for _ in range(own)][:count]
    rows = [f'a "quoted" cat {n}\t{name}\tBasic\t' for n, name in enumerate(names)]
    (folder / "PartiPrompts.tsv").write_text(
        "\n".join(["Prompt\tCategory\tChallenge\tNote", *rows])
    )


def _draw(folder: Path, count: int) -> None:
    counts: Mapping[str, int] = known_benches()["drawbench"].BENCH.counts
    names = [name for name, own in counts.items() for _ in range(own)][:count]
    rows = [f'"a ""quoted"" cat, {n}",{name} ' for n, name in enumerate(names)]
    (folder / "DrawBench.csv").write_text("\n".join(["Prompts,Category", *rows]))


def _genai(folder: Path, count: int) -> None:
    rows = {
        f"{n:05d}": {"id": f"{n:05d}", "prompt": f"a cat {n}", "models": {}} for n in range(count)
    }
    (folder / "genai_image.json").write_text(json.dumps(rows))


@pytest.mark.parametrize(
    ("name", "write", "count", "first"),
    [
        ("partiprompts", _parti, 1632, 'a "quoted" cat 0'),
        ("drawbench", _draw, 200, 'a "quoted" cat, 0'),
        ("genaibench", _genai, 527, "a cat 0"),
    ],
)
def test_texts_to_draw_from(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    write: Callable[[Path, int], None],
    count: int,
    first: str,
) -> None:
    write(tmp_path, count)
    if known_benches()[name].BENCH.checksums:
        with pytest.raises(BenchError, match="has the SHA-256"):
            load_bench(name, tmp_path)
    changed(monkeypatch, name, checksums={})
    found = load_bench(name, tmp_path)
    assert len(found.items) == count and found.items[0].instruction == first
    assert found.items[0].context is None and found.bench.judge == "drawn"
    write(tmp_path, count - 1)
    with pytest.raises(BenchError, match=f"{count - 1} items where {count}"):
        load_bench(name, tmp_path)


def test_the_first_of_equal_ids_is_kept() -> None:
    items = [BenchItem("a", "x", "one", "p"), BenchItem("a", "x", "two", "p")]
    bench = public.PublicBench("T", "MIT", "get", {"x": 0}, 0)
    (problem,) = list(public._of_items(bench, items))
    assert problem.kind == "duplicate_id" and problem.item == "a"
