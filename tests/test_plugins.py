"""Plugins that are excluded, that are for another interface, or that are gone: what is logged, and what is saved."""

from __future__ import annotations

import logging
import re
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from prefopt import Objective, ObjectiveConfig, available, registry, resolve
from prefopt.component import TokenWeighting
from prefopt.hookspecs import INTERFACE
from prefopt.plugins import WITHOUT, reload_plugins
from prefopt.registry import ComponentError, PluginError, excluded_plugins, installed, provenance
from prefopt.training import RunFile, RunFileError
from prefopt.weightings import UniformWeighting
from tests.cli.test_cli import run as typed
from tests.little_plugins import HALVING, HOOK, Install


@pytest.mark.parametrize("name", ["broken-plugin", "broken-plugin:components", " , broken-plugin,other-plugin "])
def test_an_excluded_plugin_is_not_imported_and_said_once(
    install: Install, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install("broken-plugin", "import a_module_that_is_not_there")
    install("other-plugin", HALVING.format(name="halving"))
    monkeypatch.setenv(WITHOUT, name)
    with caplog.at_level(logging.WARNING, logger="prefopt"):
        assert ("halving" in available(TokenWeighting)) == ("other-plugin" not in name)
        assert ObjectiveConfig(weighting="uniform") == ObjectiveConfig()
    assert "broken_plugin" not in sys.modules
    assert "broken-plugin:components" in excluded_plugins()
    warnings = [message for message in caplog.messages if "broken-plugin" in message]
    assert warnings == [f"plugin broken-plugin:components is excluded by {WITHOUT}: its components are not there"]
    with pytest.raises(ComponentError, match=rf"Excluded by {WITHOUT}: broken-plugin:components"):
        resolve(TokenWeighting, "of_the_broken_one")


def test_the_command_line_excludes_plugins(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("broken-plugin", "import a_module_that_is_not_there")
    install("halving-plugin", HALVING.format(name="halving"))
    monkeypatch.setenv(WITHOUT, "halving-plugin")  # and so that what the option adds is taken back
    options = ("--without-plugin", "broken-plugin:components")
    assert "Excluded plugins: broken-plugin:components, halving-plugin:components" in typed(
        *options, "components", "token-weighting"
    )
    assert registry.excluded_plugins() == ("broken-plugin:components", "halving-plugin:components")
    monkeypatch.setenv(WITHOUT, "")
    reload_plugins()
    assert "error: plugin broken-plugin:components cannot be imported" in typed("components", exit_code=2)
    output = typed(*options, "components", "token-weighting")
    assert "halving-plugin" in output
    assert "Excluded plugins: broken-plugin:components\n" in output
    monkeypatch.setenv(WITHOUT, "")
    misspelt = typed("--without-plugin", "borken-plugin", "zoo", exit_code=2)
    assert "Did you mean 'broken-plugin'?" in misspelt
    monkeypatch.setenv(WITHOUT, "")
    reload_plugins()
    assert "Excluded" not in typed(*options, "zoo", "dpo")


def test_of_two_plugins_in_a_distribution_one_can_be_excluded(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("two-plugins", HALVING.format(name="halving"))
    with (tmp_path / "two_plugins-1.0.dist-info" / "entry_points.txt").open("a") as file:
        file.write("broken = a_module_that_is_not_there\n")
    monkeypatch.setenv(WITHOUT, "two-plugins:broken")
    reload_plugins()
    assert excluded_plugins() == ("two-plugins:broken",)
    assert "halving" in available(TokenWeighting)
    monkeypatch.setenv(WITHOUT, "two-plugins")
    reload_plugins()
    assert excluded_plugins() == ("two-plugins:broken", "two-plugins:components")


def test_only_what_is_installed_can_be_excluded(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("halving-plugin", HALVING.format(name="halving"))
    monkeypatch.setenv(WITHOUT, "halving-plugins")
    with pytest.raises(PluginError) as error:
        available(TokenWeighting)
    text = str(error.value)
    assert text.startswith(
        f"{WITHOUT} excludes 'halving-plugins', but no such plugin is installed. Did you mean 'halving-plugin'?"
    )
    assert "halving-plugin, halving-plugin:components" in text
    monkeypatch.setenv(WITHOUT, "prefopt:losses")  # a built-in is no plugin
    with pytest.raises(PluginError, match="excludes 'prefopt:losses', but no such plugin"):
        available(TokenWeighting)


def test_every_complaint_of_a_plugin_says_how_to_do_without_it(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what it says helps."""
    sources = [
        "import a_module_that_is_not_there",
        HALVING.format(name="uniform"),
        HALVING.format(name="x").replace('    name: Literal["x"] = "x"\n', ""),
        HOOK.format(signature="prefopt_token_weighting()", value="[]"),
        HOOK.format(signature="prefopt_divergences(config)", value="[]"),
        HOOK.format(signature="prefopt_token_weightings()", value="[print]"),
        HOOK.format(signature="prefopt_token_weightings()", value="None"),
        f"PREFOPT_INTERFACE = {INTERFACE + 1}",
        "PREFOPT_INTERFACE = 'one'",
    ]
    names = [f"plugin-{number}" for number in range(len(sources))]
    for name, source in zip(names, sources, strict=True):
        install(name, source)
    for name in names:
        monkeypatch.setenv(WITHOUT, ",".join(other for other in names if other != name))
        reload_plugins()
        with pytest.raises(PluginError) as error:
            list(installed())
        remedies = re.findall(
            r"prefopt --without-plugin (\S+), or set PREFOPT_WITHOUT_PLUGINS=(\S+)\.", str(error.value)
        )
        assert remedies == [(f"{name}:components",) * 2], str(error.value)
    monkeypatch.setenv(WITHOUT, ",".join(f"{name}:components" for name in names))
    reload_plugins()
    assert {bringer.distribution for _, bringer in installed()}.isdisjoint(names)


@pytest.mark.parametrize("stated", [f"{INTERFACE}", f"({INTERFACE},)", f"[{INTERFACE}, {INTERFACE + 1}]"])
def test_a_plugin_that_supports_this_interface_is_taken(install: Install, stated: str) -> None:
    install("halving-plugin", f"{HALVING.format(name='halving')}\nPREFOPT_INTERFACE = {stated}\n")
    assert "halving" in available(TokenWeighting)


@pytest.mark.parametrize(
    ("stated", "versions", "remedy"),
    [
        (f"({INTERFACE + 1}, {INTERFACE + 2})", f"{INTERFACE + 1}, {INTERFACE + 2}", "prefopt"),
        (f"{INTERFACE - 1}", f"{INTERFACE - 1}", "other-plugin"),
    ],
)
def test_a_plugin_for_another_interface_is_named_with_what_to_install(
    install: Install, stated: str, versions: str, remedy: str
) -> None:
    install("other-plugin", f"{HALVING.format(name='halving')}\nPREFOPT_INTERFACE = {stated}\n")
    with pytest.raises(PluginError) as error:
        available(TokenWeighting)
    assert str(error.value).startswith(
        f"plugin other-plugin:components (other-plugin 1.0) supports the plugin interface in version {versions}, but "
        f"that of prefopt {version('prefopt')} is {INTERFACE}. "
        f"Install a {remedy} that fits: pip install --upgrade {remedy}."
    )


@pytest.mark.parametrize("stated", ["'1'", "()", "None", "(1.0,)"])
def test_an_interface_that_is_no_version_is_an_error(install: Install, stated: str) -> None:
    install("odd-plugin", f"PREFOPT_INTERFACE = {stated}")
    with pytest.raises(PluginError, match=r"^plugin odd-plugin:components: PREFOPT_INTERFACE is the versions"):
        available(TokenWeighting)


def without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As another environment would be, without what was installed."""
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(tmp_path)])
    reload_plugins()


RUN = {"model": "a-model", "data": {"train": "a.jsonl", "eval": "b.jsonl"}, "objective": {"weighting": "halving"}}
BROUGHT = "no TokenWeighting named 'halving'. halving-plugin 1.0 brought it when this was saved"


def test_what_is_saved_says_who_brought_its_components(install: Install) -> None:
    install("halving-plugin", HALVING.format(name="halving"))
    config = ObjectiveConfig(weighting="halving", loss={"name": "mixture", "losses": ["hinge"], "weights": [1]})
    ours = f"prefopt {version('prefopt')}"
    expected = {"token weighting halving": "halving-plugin 1.0", "reward shaping sum": ours}
    expected |= {"preference loss mixture": ours, "preference loss hinge": ours}
    assert provenance(config.components) == expected


def test_an_objective_says_what_to_install_where_its_component_is_not(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("halving-plugin", HALVING.format(name="halving"))
    objective = Objective(ObjectiveConfig(weighting="halving"), num_layers=3, hidden_size=5)
    objective.save(tmp_path / "saved")
    assert Objective.load(tmp_path / "saved").config == objective.config
    monkeypatch.setenv(WITHOUT, "halving-plugin")
    reload_plugins()
    with pytest.raises(ComponentError, match=f"{BROUGHT}; it is excluded by {WITHOUT}"):
        Objective.load(tmp_path / "saved")
    monkeypatch.delenv(WITHOUT)
    without(monkeypatch, tmp_path)
    with pytest.raises(ComponentError) as error:
        Objective.load(tmp_path / "saved")
    file = tmp_path / "saved" / "objective.yaml"
    assert str(error.value).startswith(f"{file}: weighting: {BROUGHT}: pip install halving-plugin==1.0. Installed: ")
    with pytest.raises(ComponentError, match=r"named 'halving'\. Installed: "):  # of what was saved, nothing is kept
        resolve(TokenWeighting, "halving")


def test_an_objective_saved_without_owners_is_loaded(tmp_path: Path) -> None:
    objective = Objective(ObjectiveConfig(), num_layers=3, hidden_size=5)
    objective.save(tmp_path)
    file = tmp_path / "objective.yaml"
    fields = yaml.safe_load(file.read_text())
    assert fields.pop("components")["token weighting uniform"] == f"prefopt {version('prefopt')}"
    file.write_text(yaml.safe_dump(fields))
    assert Objective.load(tmp_path).config == objective.config
    fields["objective"]["weighting"] = "unifrom"
    file.write_text(yaml.safe_dump(fields | {"components": {"token weighting other": "other 1"}}))
    with pytest.raises(ComponentError, match=r"Did you mean 'uniform'\? Installed: "):
        Objective.load(tmp_path)


def test_a_component_of_no_plugin_is_saved_without_an_owner(tmp_path: Path) -> None:
    class Uniform(UniformWeighting):
        """Not installed."""

    Objective(ObjectiveConfig(weighting=Uniform()), num_layers=3, hidden_size=5).save(tmp_path)
    assert set(yaml.safe_load((tmp_path / "objective.yaml").read_text())["components"]) == {
        "reward shaping sum",
        "preference loss logistic",
    }


def test_a_run_file_says_what_to_install_where_its_component_is_not(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("halving-plugin", HALVING.format(name="halving"))
    file = tmp_path / "run.yaml"
    run = RunFile.model_validate(RUN)
    file.write_text(run.to_yaml())
    assert RunFile.load(file) == run
    without(monkeypatch, tmp_path)
    with pytest.raises(RunFileError) as error:
        RunFile.load(file)
    assert f"{BROUGHT}: pip install halving-plugin==1.0." in str(error.value)
    fields = yaml.safe_load(file.read_text())
    fields["objective"]["weighting"] = "uniform"
    assert RunFile.model_validate(fields).objective == ObjectiveConfig()  # it is no longer read, so it is not missed
    file.write_text(yaml.safe_dump(fields | {"components": "halving"}))
    with pytest.raises(
        RunFileError, match="components: a mapping of `kind name` to `distribution version`, got 'halving'"
    ):
        RunFile.load(file)
