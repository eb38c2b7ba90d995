from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kontext.errors import NumericsError
from kontext.models.autoencoder.network import Autoencoder
from kontext.models.flux.transformer import FluxTransformer
from kontext.parallel import attention
from kontext.train.loop.checkpoint import Checkpoints
from kontext.train.loop.fit import fit
from kontext.train.methods.flow import FlowMethod
from kontext.train.record import transformer_ledger as module
from kontext.train.record.ledger import (
    ARITHMETIC,
    Ledger,
    codec_ledger,
    compare,
    differences,
    optimizer_ledger,
    without_arithmetic,
)
from kontext.train.record.transformer_ledger import transformer_ledger
from schemas.sections.models import AutoencoderShape
from tests.train.toy import SHAPE, toy_config, toy_model, toy_pairs

CPU = torch.device("cpu")


def lines(shape: object = SHAPE, tokens: int = 4, products: torch.dtype = torch.float32) -> Ledger:
    model = FluxTransformer(SHAPE.model_copy(update=shape if isinstance(shape, dict) else {}))
    return transformer_ledger(model, [tokens], products, CPU)


def resumed(path: Path, ledger: Ledger) -> FlowMethod:
    method = FlowMethod(toy_config(), toy_pairs(), toy_model())
    method.state.ledger = ledger
    fit(method, checkpoints=Checkpoints(path, every=2))
    return method


def measured(method: FlowMethod) -> Ledger:
    return {
        **transformer_ledger(method.model, [4], torch.float32, CPU),
        **codec_ledger(Autoencoder(AutoencoderShape(ch=16, norm_groups=4)), torch.float32, CPU),
        **optimizer_ledger(method.state.optimizers),
        "text: length": "5",
        "codec: sha256": "c0dec",
    }


def test_every_entry_stops_a_resume_and_is_named(tmp_path: Path) -> None:
    method = FlowMethod(toy_config(), toy_pairs(), toy_model())
    ledger = measured(method)
    path = tmp_path / "checkpoints"
    resumed(path, ledger)
    newest = Checkpoints(path)._newest()
    assert newest is not None and newest["record"]["ledger"] == ledger
    for name, value in ledger.items():
        for changed in ({**ledger, name: "other"}, {k: v for k, v in ledger.items() if k != name}):
            with pytest.raises(NumericsError) as stopped:
                resumed(path, changed)
            now = changed.get(name, "absent")
            assert stopped.value.lines == (f"{name}: {value} -> {now}",)
            assert str(stopped.value).splitlines()[1:] == [f"  {name}: {value} -> {now}"]
    assert resumed(path, ledger).state.step == 6


def test_nothing_is_loaded_from_a_checkpoint_with_other_numerics(tmp_path: Path) -> None:
    resumed(tmp_path / "checkpoints", {"a": "1"})
    method = FlowMethod(toy_config(), toy_pairs(), toy_model())
    before = {k: v.clone() for k, v in method.model.state_dict().items()}
    with pytest.raises(NumericsError, match="the numerics of the checkpoint are not those"):
        fit(method, checkpoints=Checkpoints(tmp_path / "checkpoints"))
    assert method.state.step == 0 and not method.state.history
    assert all(torch.equal(before[k], v) for k, v in method.model.state_dict().items())


Change = Callable[[pytest.MonkeyPatch], Ledger]
CHANGES: dict[str, Change] = {
    "shift: mu at 256 target tokens": lambda patch: lines({"timestep_shift": (0.6, 1.15)}),
    "shift: mu at 4096 target tokens": lambda patch: lines({"timestep_shift": (0.5, 1.2)}),
    "shift: mu at 4 target tokens": lambda patch: lines(tokens=9),
    "eps: transformer norms": lambda patch: (patch.setattr(module, "EPS", 1e-5), lines())[1],
    "guidance: mode": lambda patch: lines({"guidance_embed": True}),
    "context: mode": lambda patch: lines({"cached_context": True}),
    "dtype: products": lambda patch: lines(products=torch.bfloat16),
    "kernel: attention": lambda patch: (
        patch.setattr(attention._choice, "name", "math"),
        lines(),
    )[1],
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_lines_follow_what_they_tell(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = lines()
    after = CHANGES[name](monkeypatch)
    assert any(line.startswith(f"{name}: ") for line in differences(before, after))


def test_weights_dtype_and_optimiser_eps_are_measured() -> None:
    model = FluxTransformer(SHAPE)
    assert transformer_ledger(model, [4], torch.float32, CPU)["dtype: weights"] == "float32"
    half = transformer_ledger(model.bfloat16(), [4], torch.float32, CPU)
    assert half["dtype: weights"] == "bfloat16"
    adam = torch.optim.AdamW(model.parameters(), eps=1e-6)
    assert optimizer_ledger({"adamw": adam}) == {"eps: optimiser adamw": "1e-06"}


def test_stages_compare_what_both_have_and_may_leave_out_the_device() -> None:
    one = {"shift": "1", "device": "cuda", "only one": "x"}
    compare(one, {"shift": "1", "other": "y"}, "a", "b", shared=True)
    with pytest.raises(NumericsError) as stopped:
        compare(one, {"shift": "2", "device": "cpu"}, "a", "b", shared=True)
    assert stopped.value.lines == ("device: cuda -> cpu", "shift: 1 -> 2")
    compare(without_arithmetic(one), {"shift": "1", "device": "cpu"}, "a", "b", shared=True)
    with pytest.raises(NumericsError):
        compare(one, {"shift": "1"}, "a", "b")


def test_arithmetic_lines_are_real_lines() -> None:
    method = FlowMethod(toy_config(), toy_pairs(), toy_model())
    assert set(ARITHMETIC) <= set(measured(method))
