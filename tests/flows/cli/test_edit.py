import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from flows import cli
from kontext.edit.edit_file import load_edit_model
from kontext.edit.edit_model import EditModel
from kontext.edit.turns import Turns
from kontext.edit.weights.folder import ModelSettings, save_model_folder
from kontext.models.autoencoder.network import Autoencoder
from kontext.models.flux.transformer import FluxTransformer
from kontext.safety.canaries import canary_png
from kontext.safety.edits import EditScreening
from kontext.safety.ledger import EDITS, Ledger
from kontext.safety.policy import load_policy
from kontext.store.objects import open_store
from schemas.sections.models import AutoencoderShape, TransformerShape
from tests.edit.tiny_flux import networks, write_text_encoders

_SHAPE = TransformerShape(
    in_channels=64,
    vec_in_dim=384,
    context_in_dim=384,
    hidden_size=32,
    num_heads=2,
    depth=1,
    depth_single_blocks=1,
    axes_dim=(4, 6, 6),
    guidance_embed=False,
)

CANARY = (
    f"error: refused by policy {load_policy('default').version}: "
    "the image is a test canary of the hash gate"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained model and files to edit."""
    found = tmp_path_factory.mktemp("edit")
    torch.manual_seed(0)
    autoencoder = Autoencoder(AutoencoderShape(ch=8, norm_groups=4), 0.36, 0.11)
    save_model_folder(
        found / "model", FluxTransformer(_SHAPE), autoencoder, ModelSettings(name="tiny", steps=1)
    )
    image = Image.new("RGB", (120, 90), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((10, 10, 80, 80), fill="orange")
    draw.rectangle((50, 30, 110, 85), fill="navy")
    image.save(found / "photo.png")
    image.convert("CMYK").save(found / "cmyk.jpg")
    image.save(found / "moving.gif", save_all=True, append_images=[image.rotate(90)])
    image.convert("L").save(found / "grey.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    image.save(found / "turned.jpg", exif=exif)
    see_through = image.convert("RGBA")
    see_through.putalpha(image.convert("L").point(lambda grey: 255 - grey))
    see_through.save(found / "clear.png")
    Image.new("RGB", (400, 90)).save(found / "long.png")
    whole = (found / "photo.png").read_bytes()
    (found / "half.png").write_bytes(whole[: len(whole) // 2])
    (found / "text.png").write_text("not an image")
    (found / "canary.png").write_bytes(canary_png(0))
    Image.new("1", (20_000, 20_000)).save(found / "huge.png")
    Image.new("RGB", (1, 1)).save(found / "dot.png")
    mask = Image.new("L", image.size)
    mask.paste(255, (60, 20, 100, 70))
    mask.save(found / "mask.png")
    return found


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KONTEXT_HOME", str(tmp_path / "home"))
    for name in ("KONTEXT_STORE", "KONTEXT_CATALOG"):
        monkeypatch.delenv(name, raising=False)


def _arguments(folder: Path, image: str, output: Path, *more: str) -> list[str]:
    weights = ["--weights", str(folder / "model")]
    source = str(folder / image)
    return ["edit", source, "make it night", "-o", str(output), *weights, *more]


def test_an_edit_carries_its_provenance_and_repeats_exactly(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KONTEXT_C2PA", "off")  # a manifest has a number of its own
    runner = CliRunner()
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    result = runner.invoke(cli.app, _arguments(folder, "photo.png", one, "--json", "--seed", "7"))
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    with Image.open(one) as edited:
        written = json.loads(edited.text["kontext"])
        assert edited.size == (120, 90)
    assert (said["size"], said["edited_at"]) == ("120 x 90", "64 x 48")
    assert said["notes"] == ["no hash list is configured: only the canary bank is matched"]
    assert written["policy"] == load_policy("strict").id and written["hash_lists"].startswith(
        "canary-bank@"
    )
    assert result.stderr == ""  # no progress bar: not a terminal
    assert said["c2pa"] == {"signed": False, "why": "KONTEXT_C2PA=off"}
    assert written["seed"] == said["seed"] == 7
    assert written["instruction"] == "make it night"
    assert written["digest"] == said["digest"]
    runner.invoke(cli.app, _arguments(folder, "photo.png", two, "--seed", "7"))
    assert one.read_bytes() == two.read_bytes()


def test_where_c2pa_is_installed_edits_are_signed(folder: Path, tmp_path: Path) -> None:
    c2pa = pytest.importorskip("c2pa", reason="needs kontext[c2pa]")
    made = [tmp_path / name for name in ("one.png", "two.webp")]
    for source, output in zip((folder / "photo.png", made[0]), made, strict=True):
        result = CliRunner().invoke(cli.app, _arguments(folder, str(source), output, "--json"))
        assert json.loads(result.stdout)["c2pa"]["on_no_trust_list"] is True
    with c2pa.Reader(str(made[1])) as reader:
        assert reader.get_validation_state() == "Valid"
        store = json.loads(reader.json())
    assert len(store["manifests"]) == 2  # that of the first edit and of the second
    (assertion,) = [
        a["data"]
        for a in store["manifests"][store["active_manifest"]]["assertions"]
        if a["label"] == "kontext.provenance"
    ]
    assert assertion["instruction"] == "make it night" and assertion["model"] == "tiny"


def test_further_turns_are_one_session_and_each_is_screened(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    looked = EditScreening.check_result

    def check_result(self: EditScreening, image: Any, turn: int = 0) -> None:
        seen.append("result")
        looked(self, image, turn)

    monkeypatch.setattr(EditScreening, "check_result", check_result)
    output, more = tmp_path / "out.png", ["--then", "add snow", "--json"]
    made = CliRunner().invoke(cli.app, _arguments(folder, "photo.png", output, *more))
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["then"] == ["add snow"] and seen == ["result"] * 2
    picture = np.asarray(Image.open(folder / "photo.png").convert("RGB"))
    session = Turns(load_edit_model(folder / "model", folder), picture)
    for instruction in ("make it night", "add snow"):
        session.turn(instruction)
    assert np.array_equal(np.asarray(Image.open(output)), session.image)


def test_edits_and_refusals_are_rows_and_a_second_call_is_judged_against_the_first(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exposure rises from 0 to 0.3 to 0.55, in two calls, and in two turns of one."""
    coming: list[float] = []

    def fake(classifier: Any, images: Any) -> Any:
        known = {"FACE_FEMALE": 0.9}
        if classifier.name == "nudenet" and coming:
            known["FEMALE_BREAST_EXPOSED"] = coming.pop(0)
        return {n: np.array([known.get(n, 0.0)], np.float32) for n in classifier.labels}

    monkeypatch.setattr("kontext.safety.edits.score_images", fake)
    one, two, runner = tmp_path / "one.jpg", tmp_path / "two.png", CliRunner()
    coming[:] = [0.0, 0.3]
    assert runner.invoke(cli.app, _arguments(folder, "photo.png", one)).exit_code == 0
    plain = tmp_path / "plain.png"
    Image.open(one).convert("RGB").save(plain)  # without its record
    for source, forget in ((plain, False), (one, True)):
        if forget:  # then the file still says it
            (tmp_path / "home" / "edits.sqlite").unlink()
        coming[:] = [0.3, 0.55]
        found = runner.invoke(cli.app, _arguments(folder, str(source), two))
        assert getattr(found.exception, "reason", "") == "ncii_chain"
    coming[:] = [0.0, 0.3, 0.55]
    found = runner.invoke(cli.app, _arguments(folder, "photo.png", two, "--then", "add snow"))
    assert getattr(found.exception, "reason", "") == "ncii_chain" and not two.exists()
    rows = Ledger(open_store(f"file://{tmp_path}/home/store"), tmp_path / "home", EDITS).table()
    stops = [row["reason"] for row in rows.to_pylist() if row["reason"]]
    assert stops == ["ncii_chain"] * 3
    assert rows["check"].to_pylist().count("edit") == 2  # the first call, and a first turn
    assert json.loads(runner.invoke(cli.app, ["safety", "verify", "--json"]).stdout)["edits"] == 4


@pytest.mark.parametrize("turns", [[], ["--then", "add snow"]])
def test_keep_detail_changes_the_picture_as_the_file_says(
    folder: Path, tmp_path: Path, turns: list[str]
) -> None:
    made: dict[str, np.ndarray] = {}
    for option in ("--keep-detail", "--no-keep-detail"):
        output = tmp_path / f"out{option}.png"
        arguments = _arguments(folder, "photo.png", output, option, "--json", *turns)
        said = CliRunner().invoke(cli.app, arguments)
        assert json.loads(said.stdout)["keep_detail"] == (option == "--keep-detail")
        made[option] = np.asarray(Image.open(output))
    assert not np.array_equal(*made.values())


def test_a_later_turn_is_refused_before_the_first_is_made(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "home" / "store").mkdir(parents=True)  # in which the refusal is written down
    for words, code in (("undress them", 3), (" ", 1)):
        arguments = _arguments(folder, "photo.png", tmp_path / "out.png", "--then", words)
        arguments[arguments.index("--weights") + 1] = "none"  # it never comes to a model
        assert _refusal(arguments, monkeypatch, capsys)[0] == code


@pytest.mark.parametrize("scheme", ["int8", "fp8"])
def test_quantised_weights_edit_and_say_so(folder: Path, tmp_path: Path, scheme: str) -> None:
    more = ["--quantize", scheme, "--json"]
    result = CliRunner().invoke(
        cli.app, _arguments(folder, "photo.png", tmp_path / "out.png", *more)
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["quantize"] == scheme
    with Image.open(tmp_path / "out.png") as edited:
        assert json.loads(edited.text["kontext"])["quantize"] == scheme


def test_quantising_without_torchao_is_one_line_before_any_work(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == "torchao"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchao", None)
    arguments = _arguments(folder, "photo.png", tmp_path / "out.png", "--quantize", "int8")
    wanted = "error: quantised inference needs: pip install 'kontext[quantize]'\n"
    assert _refusal(arguments, monkeypatch, capsys) == (1, wanted)


def test_a_result_of_another_shape_can_be_asked_for(folder: Path, tmp_path: Path) -> None:
    out, runner = tmp_path / "out.png", CliRunner()
    asked = _arguments(folder, "photo.png", out, "--size", "48x80")
    result = runner.invoke(cli.app, asked)
    assert result.exit_code == 0, result.output
    with Image.open(out) as edited:
        assert edited.size == (48, 80)
        assert json.loads(edited.text["kontext"])["edited_at"] == "48 x 80"
    assert "edited at 48 x 80)" in result.stdout
    for more, code, told in (
        (["--size", "50x80"], 1, "multiples of 16"),
        (["--size", "large"], 2, "WIDTHxHEIGHT"),
        (["--size", "48x80", "--then", "again"], 1, "in one turn"),
    ):
        result = runner.invoke(cli.app, _arguments(folder, "photo.png", out, *more))
        assert result.exit_code == code and told in f"{result.output} {result.exception}", more


@pytest.mark.parametrize("image", ["cmyk.jpg", "moving.gif", "grey.png", "turned.jpg", "clear.png"])
def test_odd_formats_are_edited(folder: Path, tmp_path: Path, image: str) -> None:
    result = CliRunner().invoke(cli.app, _arguments(folder, image, tmp_path / "out.png"))
    assert result.exit_code == 0, result.output
    size, at = ((90, 120), "48 x 64") if image == "turned.jpg" else ((120, 90), "64 x 48")
    with Image.open(tmp_path / "out.png") as edited:
        assert edited.size == size
    assert f"edited at {at}, brought back to {size[0]} x {size[1]}" in result.stdout
    clear = "clear.png: its transparent parts are white\n" if image == "clear.png" else ""
    assert result.stderr == clear + "no hash list is configured: only the canary bank is matched\n"


@pytest.mark.parametrize(
    ("image", "code", "line"),
    [
        ("half.png", 1, "error: half.png: png: it ends inside a chunk"),
        ("text.png", 1, "error: text.png: not an image format we read"),
        ("huge.png", 1, "error: huge.png: 20000x20000, at most 64,000,000 pixels"),
        ("dot.png", 1, "error: dot.png: 1x1, at least 8 a side"),
        ("long.png", 1, "error: a picture of 400 x 90 is longer than 4 to 1"),
        ("none.png", 1, "error: cannot read"),
        ("canary.png", 3, CANARY),
    ],
)
def test_what_cannot_be_edited_is_refused_in_one_line(
    folder: Path,
    tmp_path: Path,
    image: str,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out.png"
    monkeypatch.setattr(sys, "argv", ["kontext", *_arguments(folder, image, output)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    assert ended.value.code == code
    assert said.startswith(line)
    assert said.count("\n") == 1
    assert not output.exists()


def test_the_pictures_behind_the_first_of_a_file_meet_the_gate(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, second = Image.open(folder / "photo.png"), Image.open(folder / "canary.png")
    for name in ("two.gif", "two.webp", "two.tiff"):
        frames = [second.resize(first.size)]
        first.save(tmp_path / name, save_all=True, append_images=frames)
        arguments = _arguments(tmp_path, name, tmp_path / "out.png")
        arguments[arguments.index("--weights") + 1] = str(folder / "model")
        assert _refusal(arguments, monkeypatch, capsys) == (3, f"{CANARY}\n"), name


def _refusal(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[object, str]:
    monkeypatch.setattr(sys, "argv", ["kontext", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("instruction", "line"),
    [
        ("  ", "error: the instruction is empty\n"),
        (
            "a " * 600,
            "error: the instruction has 602 tokens and model 'tiny' reads 20: make it shorter, "
            "or edit in several turns\n",
        ),
        (
            "blue " * 600,
            "error: the instruction has 3,000 characters, at most 2,000 are read\n",
        ),
    ],
    ids=["empty", "600 tokens", "3000 characters"],
)
def test_instructions_no_model_can_read_are_one_line(
    folder: Path,
    tmp_path: Path,
    instruction: str,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = _arguments(folder, "photo.png", tmp_path / "out.png")
    arguments[2] = instruction
    assert _refusal(arguments, monkeypatch, capsys) == (1, line)
    assert not list(tmp_path.glob("out*"))


def test_references_and_masks_are_checked_like_the_image(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for option in ("--reference", "--mask"):
        for name, code, line in (
            ("canary.png", 3, f"{CANARY}\n"),
            ("dot.png", 1, "error: dot.png: 1x1, at least 8 a side\n"),
        ):
            more = [option, str(folder / name)]
            arguments = _arguments(folder, "photo.png", tmp_path / "out.png", *more)
            assert _refusal(arguments, monkeypatch, capsys) == (code, line)
    assert not list(tmp_path.glob("out*"))


def test_no_result_is_saved_when_the_policy_refuses_one_of_them(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The second seed's result is made a canary: the first one's is not saved either."""
    canary = np.asarray(Image.open(folder / "canary.png").convert("RGB"))
    made = EditModel.edit_many

    def edit_many(*args: Any, **kwargs: Any) -> list[Any]:
        return [made(*args, **kwargs)[0], canary]

    monkeypatch.setattr(EditModel, "edit_many", edit_many)
    seeds = ["--seed", "1", "--seed", "2"]
    arguments = _arguments(folder, "photo.png", tmp_path / "out.png", *seeds)
    code, said = _refusal(arguments, monkeypatch, capsys)
    assert code == 3
    assert said.startswith("error: refused by policy")
    assert not list(tmp_path.glob("out*"))


def test_several_seeds_a_reference_and_a_mask(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kontext.edit.codec.TILE", 32)
    more = ["--seed", "1", "--seed", "2", "--mask", str(folder / "mask.png")]
    more += ["--reference", str(folder / "cmyk.jpg"), "--json", "--tile-above", "4095"]
    output = tmp_path / "out.png"
    result = CliRunner().invoke(cli.app, _arguments(folder, "photo.png", output, *more))
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert [row["output"] for row in said] == [str(tmp_path / f"out-{n}.png") for n in (1, 2)]
    assert [(row["references"], row["masked"], row["tile"]) for row in said] == [(1, True, 32)] * 2
    before = np.asarray(Image.open(folder / "photo.png").convert("RGB"))
    inside = np.asarray(Image.open(folder / "mask.png")) > 127
    after = [np.asarray(Image.open(row["output"])) for row in said]
    for picture in after:
        assert np.array_equal(picture[~inside], before[~inside])
        assert not np.array_equal(picture[inside], before[inside])
    assert not np.array_equal(*after)


def test_the_kernel_is_checked_recorded_and_never_replaced(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output, runner = tmp_path / "out.png", CliRunner()
    for kernel, recorded in (("math", "math"), ("sdpa", "sdpa:"), ("auto", "sdpa:")):
        arguments = _arguments(folder, "photo.png", output, "--kernel", kernel, "--json")
        said = json.loads(runner.invoke(cli.app, arguments).stdout)
        assert recorded in said["attention"]
        with Image.open(output) as edited:
            assert json.loads(edited.text["kontext"])["attention"] == said["attention"]
    if not torch.cuda.is_available():
        arguments = _arguments(folder, "photo.png", tmp_path / "no.png", "--kernel", "fa3")
        wanted = "error: attention kernel 'fa3' needs a CUDA device, not cpu\n"
        assert _refusal(arguments, monkeypatch, capsys) == (1, wanted)
    assert not (tmp_path / "no.png").exists()


def test_a_kernel_without_masks_is_refused_for_a_model_that_masks(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(folder / "model", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["settings"]["text_mask"] = True
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("kontext.parallel.attention.use_kernel", lambda *_, **__: "fa3")
    arguments = _arguments(folder, "photo.png", tmp_path / "out.png", "--kernel", "fa3")
    arguments[arguments.index("--weights") + 1] = str(tmp_path / "model")
    wanted = "error: model 'tiny' masks its text, which 'fa3' cannot: use auto\n"
    assert _refusal(arguments, monkeypatch, capsys) == (1, wanted)


def test_true_cfg_is_for_models_with_a_guidance_embedding(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = _arguments(folder, "photo.png", tmp_path / "out.png", "--true-cfg", "2")
    wanted = "error: true_cfg is for models with a guidance embedding: use guidance\n"
    assert _refusal(arguments, monkeypatch, capsys) == (1, wanted)


def test_a_result_that_cannot_be_written_is_refused_before_any_work(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = _arguments(folder, "none.png", tmp_path / "no" / "out.png")
    wanted = f"error: cannot write {tmp_path}/no/out.png: there is no folder {tmp_path}/no\n"
    assert _refusal(arguments, monkeypatch, capsys) == (1, wanted)


_SHELL = """
import json, sys
from flows import cli
for sys.argv in json.loads(sys.argv[1]):
    try:
        cli.main()
    except SystemExit as ended:
        print("exit", ended.code or 0, file=sys.stderr, flush=True)
"""  # one after the other: a start takes longer than an edit


def test_flux_weights_edit_from_the_shell_and_say_one_line(folder: Path, tmp_path: Path) -> None:
    """In a process of its own, with FLUX.1's text encoders: what libraries print counts too."""
    write_text_encoders(tmp_path / "text")
    text = f"flux:{tmp_path / 'text'}"
    settings = ModelSettings(name="small", text_encoder=text, text_length=512, steps=1, guidance=2)
    save_model_folder(tmp_path / "model", *networks(), settings)
    big = tmp_path / "big.png"
    Image.new("1", (10_000, 10_000)).save(big)  # where Pillow warns, and does not refuse
    more = ["-o", str(tmp_path / "out.png"), "--weights", str(tmp_path / "model"), "--json"]
    photo = str(folder / "photo.png")
    edits = ([photo, "a " * 600], [str(big), "make it night"], [photo, "make it night"])
    commands = [["kontext", "edit", *words, *more, "--true-cfg", "1.5"] for words in edits]
    done = subprocess.run(
        [sys.executable, "-c", _SHELL, json.dumps(commands)], capture_output=True, text=True
    )
    assert done.stderr == (
        "error: the instruction has 1201 tokens and model 'small' reads 512: make it shorter, "
        "or edit in several turns\nexit 1\n"
        "error: big.png: 10000x10000, at most 64,000,000 pixels\nexit 1\n"
        "exit 0\n"
    )
    assert json.loads(done.stdout)["true_cfg"] == 1.5


def test_without_a_model_it_says_what_to_do(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["edit", str(folder / "photo.png"), "make it night", "-o", str(tmp_path / "o.png")]
    code, said = _refusal(arguments, monkeypatch, capsys)
    assert code == 1 and said.startswith(f"error: there is no kontext home at {tmp_path}/home")
    assert not (tmp_path / "home").exists()  # a command that only reads makes none
    (tmp_path / "home").mkdir()
    line = "error: no model yet: `kontext run` makes one\n"
    assert _refusal(arguments, monkeypatch, capsys) == (1, line)
