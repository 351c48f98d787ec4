"""Errors name the line of the plugin that they come from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from prefopt.comparison import execute as execution
from prefopt.component import TokenWeighting
from prefopt.origins import origin_in, origin_in_plugins
from prefopt.registry import PluginError, available
from tests.cli.test_cli import run
from tests.little_plugins import HALVING, Install

RAISING = HALVING.format(name="raising").replace("tokens.logps.new_tensor", "tokens.logps.no_such")
WHERE = "raising_plugin/__init__.py:10, in __call__"


def fail() -> None:
    raise ValueError


def fail_further_out() -> None:
    try:
        fail()
    except ValueError as cause:
        raise RuntimeError from cause


def test_the_innermost_line_of_a_package_is_the_origin() -> None:
    with pytest.raises(RuntimeError) as error:
        fail_further_out()
    assert origin_in(error.value, ("tests",)).endswith(f"test_origins.py:{fail.__code__.co_firstlineno + 1}, in fail")
    assert origin_in(error.value, ("tests.test_origins",)) == origin_in(error.value, ("tests",))
    assert origin_in(error.value, ("test", "tests.test_orig")) == ""
    assert origin_in_plugins(error.value) == ""


def test_a_component_that_raises_in_training_is_one_line_with_its_own(
    install: Install, tmp_path: Path, rows: list[dict[str, str]], model_folder: str
) -> None:
    install("raising-plugin", RAISING)
    data, file = tmp_path / "pairs.jsonl", tmp_path / "run.yaml"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    training = {"max_steps": 1, "report_to": "none", "use_cpu": True, "output_dir": str(tmp_path / "out")}
    fields = {"model": model_folder, "data": {"train": str(data)}, "objective": {"weighting": "raising"}}
    file.write_text(yaml.safe_dump(fields | {"training": training}))
    output = run("train", str(file), exit_code=2)
    assert output.count("AttributeError") == 1
    (line,) = output.partition("error: ")[2].splitlines()
    assert line.startswith("AttributeError: 'Tensor' object has no attribute 'no_such' (plugin raising-plugin:comp")
    assert f", {tmp_path}/{WHERE}; `prefopt --debug` and the command show the traceback)" in line


def test_a_run_of_a_comparison_that_fails_names_the_line(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("raising-plugin", RAISING)
    weighting = available(TokenWeighting)["raising"]()
    monkeypatch.setattr(execution, "train_and_measure", lambda *_: weighting(None))
    monkeypatch.setattr(execution, "_empty_record", lambda _: {})
    record = execution.execute(None, Path())  # type: ignore[arg-type]
    assert record["error"].endswith(f"{WHERE})")
    assert record["error"].startswith(
        "AttributeError: 'NoneType' object has no attribute 'mask' (plugin raising-plugin:"
    )


def test_a_plugin_that_does_not_import_or_whose_hook_fails_names_the_line(install: Install) -> None:
    install("absent-plugin", "\nimport no_such_module")
    with pytest.raises(PluginError, match=r"No module named 'no_such_module'; .*absent_plugin/__init__.py:2, in <mod"):
        available(TokenWeighting)
