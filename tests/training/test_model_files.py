"""Model files that are cut short, or of another architecture than their configuration: named, and never trained on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from prefopt.training.model_files import ModelFileError, load_causal_lm


@pytest.fixture
def folder(model_folder: str, tmp_path: Path) -> Path:
    return shutil.copytree(model_folder, tmp_path / "model")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"model_type": "bert", "architectures": ["BertLMHeadModel"]}, r"would be random \(bert.* and \d+ more\)"),
        ({"num_hidden_layers": 3}, r"would be random \(model.layers.2.* and 8 more\)"),
        ({"num_hidden_layers": 1}, r"in its files, but not in the model .*\(model.layers.1.* and 8 more\)"),
        ({"num_hidden_layers": 0}, r"in its files, but not in the model .*\(model.layers.0.* and 17 more\)"),
        ({"hidden_size": 64}, r"cannot be loaded \(RuntimeError"),
    ],
)
def test_weights_of_another_configuration(folder: Path, change: dict[str, Any], problem: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelFileError, match=f"model: .*{problem}") as caught:
        load_causal_lm(str(folder), {})
    assert len(str(caught.value).splitlines()) == 1
    if "hidden_size" in change:
        with pytest.raises(ModelFileError, match="have another shape in its files"):
            load_causal_lm(str(folder), {"ignore_mismatched_sizes": True})


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_weights_that_are_cut_short(folder: Path, share: float) -> None:
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ModelFileError, match="its files are damaged"):
        load_causal_lm(str(folder), {})


def test_weights_of_a_part_that_the_architecture_lacks_are_left_out(folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["vision_tower.layers.0.weight"] = tensors["model.norm.weight"].clone()
    save_file(tensors, file, metadata={"format": "pt"})
    load_causal_lm(str(folder), {})
    del tensors["model.norm.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ModelFileError, match=r"tensors are missing .*\(model\.norm\.weight\)"):
        load_causal_lm(str(folder), {})


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (
            {"num_layer": 1},
            r"'num_layer'\); num_layer of model_init_kwargs \(model.init in a run file\) is wrong: mend or drop it",
        ),
        ({"dtype": "bfloat17"}, r"'bfloat17'\); dtype of model_init_kwargs"),
        ({"config": "other.json"}, "from_pretrained ignores the text config='other.json'"),
    ],
)
def test_an_argument_that_from_pretrained_does_not_take(folder: Path, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=f"^{folder}: .*{problem}") as caught:
        load_causal_lm(str(folder), options)
    assert not isinstance(caught.value, ModelFileError)


def test_an_argument_that_the_weights_do_not_fit(folder: Path) -> None:
    with pytest.raises(ModelFileError, match="get them anew, or hidden_size of model_init_kwargs does not fit"):
        load_causal_lm(str(folder), {"hidden_size": 64})
