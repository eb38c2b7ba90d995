import json

import numpy as np
import pytest

from kontext.errors import GateError
from kontext.safety.classifiers.npm_files import KEPT, package_folder, read_model, unpacked

MANIFEST = [
    {
        "weights": [
            {"name": "whole", "shape": [2], "dtype": "float32"},
            {
                "name": "packed",
                "shape": [2, 1],
                "dtype": "float32",
                "quantization": {"dtype": "uint8", "scale": 0.5, "min": -1.0},
            },
        ]
    }
]
DATA = np.array([1.5, -2], np.float32).tobytes() + bytes([0, 4])


def test_weights_are_unpacked_by_their_manifest():
    found = unpacked(MANIFEST, DATA)
    assert found["whole"].tolist() == [1.5, -2]
    assert found["packed"].tolist() == [[-1], [1]]


@pytest.mark.parametrize("data", [DATA[:-1], DATA + b"\0", b""])
def test_data_of_another_length_are_no_weights(data):
    with pytest.raises(ValueError, match=r"the weights end|behind the last"):
        unpacked(MANIFEST, data)


def test_another_number_format_is_refused():
    one = {"name": "x", "shape": [1], "dtype": "int64"}
    with pytest.raises(ValueError, match="int64"):
        unpacked([{"weights": [one]}], bytes(8))


@pytest.mark.parametrize("inner", ["", KEPT])
def test_a_package_is_found_beside_the_others_and_where_make_puts_it(tmp_path, monkeypatch, inner):
    monkeypatch.setenv("KONTEXT_NODE_MODULES", str(tmp_path))
    folder = tmp_path / inner / "@some" / "model"
    folder.mkdir(parents=True)
    with pytest.raises(GateError, match="make safety-models"):  # a folder alone is no package
        package_folder("@some/model", "it")
    (folder / "package.json").write_text(json.dumps({"name": "@some/model", "version": "1.2"}))
    (folder / "a.bin").write_bytes(b"a")
    assert package_folder("@some/model", "it") == folder
    version, (data,) = read_model(folder, ["a.bin"], "it")
    assert version.startswith("@some/model@1.2+") and data == b"a"
    (folder / "a.bin").write_bytes(b"b")
    assert read_model(folder, ["a.bin"], "it")[0] != version  # other weights are another version
    with pytest.raises(GateError, match="classifier it cannot be read"):
        read_model(folder, ["missing.bin"], "it")
