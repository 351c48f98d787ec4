"""The registry, with real little distributions as plugins: a package and its dist-info on sys.path."""

from __future__ import annotations

import importlib
import logging
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import yaml

from prefopt import Objective, ObjectiveConfig, available, registry, resolve
from prefopt.component import Divergence, PreferenceLoss, Regularizer, RewardShaping, TokenWeighting
from prefopt.hookspecs import HOOKS, INTERFACE
from prefopt.losses import LogisticLoss
from prefopt.plugins import WITHOUT
from prefopt.registry import ComponentError, Owner, PluginError, brought_by, excluded_plugins, installed, owner
from prefopt.shapings import SumShaping
from prefopt.training import RunFile, RunFileError
from prefopt.weightings import SparseWeighting, UniformWeighting
from tests.batches import random_case
from tests.cli.test_cli import run as typed

Install = Callable[..., None]

HALVING = """
from typing import Literal
from prefopt.component import TokenWeighting
from prefopt.hookspecs import hookimpl

class Halving(TokenWeighting):
    name: Literal["{name}"] = "{name}"
    power: int = 1

    def __call__(self, tokens):
        return tokens.mask * tokens.logps.new_tensor(0.5 ** self.power)

@hookimpl
def prefopt_token_weightings():
    return [Halving]
"""

HOOK = """
from prefopt.hookspecs import hookimpl

@hookimpl
def {signature}:
    return {value}
"""


def clear() -> None:
    registry._manager.cache_clear()
    registry._components.cache_clear()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a distribution whose one entry point names a module of that source."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def write(distribution: str, source: str, *, entry_point: str = "components", module: str | None = None) -> None:
        module = module or distribution.replace("-", "_")
        (tmp_path / module).mkdir(exist_ok=True)
        (tmp_path / module / "__init__.py").write_text(source)
        info = tmp_path / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[prefopt]\n{entry_point} = {module}\n")
        importlib.invalidate_caches()
        clear()

    yield write
    for module in set(sys.modules) - before:
        del sys.modules[module]
    clear()


def test_built_ins_are_found_by_name() -> None:
    names = {kind: set(available(kind)) for kind in HOOKS}
    assert names[TokenWeighting] >= {"uniform", "activation", "sparse"}
    assert names[Divergence] >= {"forward_kl", "reverse_kl", "jensen_shannon", "alpha"}
    assert names[RewardShaping] >= {"sum", "mean", "positive"}
    assert names[PreferenceLoss] >= {"logistic", "hinge", "squared"}
    assert names[Regularizer] >= {"mask_l1"}
    with pytest.raises(TypeError, match="does not support item assignment"):
        available(TokenWeighting)["mine"] = UniformWeighting


def test_every_installed_component_is_found_under_its_name_and_has_an_owner() -> None:
    everything = list(installed())
    assert [component for component, _ in everything] == [
        available(kind)[name] for kind in HOOKS for name in sorted(available(kind))
    ]
    for component, bringer in everything:
        assert component.model_fields["name"].default in component.__annotations__["name"]
        assert owner(component) == bringer
    assert owner(SparseWeighting) == Owner("prefopt", version("prefopt"), "prefopt:weightings")


def test_only_installed_components_have_an_owner() -> None:
    class Uniform(UniformWeighting):
        """Not installed, though its name is."""

    with pytest.raises(ComponentError, match="Uniform is not installed"):
        owner(Uniform)


def test_resolve_takes_a_name_a_mapping_or_a_component() -> None:
    assert resolve(TokenWeighting, "uniform") == UniformWeighting()
    assert resolve(TokenWeighting, {"name": "uniform", "value": 0.5}) == UniformWeighting(value=0.5)
    mine = UniformWeighting(value=0.25)
    assert resolve(TokenWeighting, mine) is mine


@pytest.mark.parametrize("value", [3, None, {}, {"name": 3}, {"value": 1.0}, ["uniform"], SumShaping()])
def test_resolve_says_what_it_takes(value: object) -> None:
    with pytest.raises(ComponentError, match=r"^a token weighting is given by name, by a mapping .* got "):
        resolve(TokenWeighting, value)


def test_resolve_names_the_nearest() -> None:
    with pytest.raises(ComponentError) as error:
        resolve(PreferenceLoss, "logistik")
    names = ", ".join(sorted(available(PreferenceLoss)))
    assert str(error.value) == f"no PreferenceLoss named 'logistik'. Did you mean 'logistic'? Installed: {names}."
    with pytest.raises(ComponentError) as error:
        resolve(PreferenceLoss, "zzz")
    assert str(error.value) == f"no PreferenceLoss named 'zzz'. Installed: {names}."


def test_resolve_names_the_field() -> None:
    with pytest.raises(ComponentError) as error:
        resolve(PreferenceLoss, {"name": "logistic", "margni": 1})
    assert str(error.value) == (
        "logistic: margni: no such field in LogisticLoss. Did you mean 'margin'? Fields: label_smoothing, margin, name."
    )
    with pytest.raises(ComponentError, match=r"^logistic: label_smoothing: Input should be less than 0\.5, got 0\.7$"):
        resolve(PreferenceLoss, {"name": "logistic", "label_smoothing": 0.7})
    assert resolve(PreferenceLoss, {"name": "logistic", "margin": 1}) == LogisticLoss(margin=1)


def test_a_plugin_is_used_by_name_and_listed_with_its_owner(install: Install) -> None:
    install("halving-plugin", HALVING.format(name="halving"))
    config = ObjectiveConfig.model_validate({"weighting": {"name": "halving", "power": 2}})
    assert ObjectiveConfig.model_validate_json(config.model_dump_json()) == config
    tokens = random_case().tokens()
    weights = Objective(config, num_layers=3, hidden_size=5)(tokens).weights
    assert torch.equal(weights, 0.25 * tokens.mask)
    assert (type(config.weighting), Owner("halving-plugin", "1.0", "halving-plugin:components")) in set(installed())


def test_without_the_plugin_its_name_is_unknown() -> None:
    with pytest.raises(ComponentError, match="no TokenWeighting named 'halving'"):
        resolve(TokenWeighting, "halving")


def test_equal_entry_point_names_do_not_hide_one_another(install: Install) -> None:
    for name in ("one", "two"):
        install(f"plugin-{name}", HALVING.format(name=name), entry_point="components")
    assert {"one", "two"} <= set(available(TokenWeighting))
    assert owner(available(TokenWeighting)["two"]).plugin == "plugin-two:components"


def test_a_distribution_seen_twice_on_the_path_counts_once(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("halving-plugin", HALVING.format(name="halving"))
    again = shutil.copytree(tmp_path, tmp_path / "again")
    monkeypatch.syspath_prepend(again)
    clear()
    assert owner(available(TokenWeighting)["halving"]).distribution == "halving-plugin"


def test_a_plugin_that_does_not_import_is_named(install: Install) -> None:
    install("broken-plugin", "import a_module_that_is_not_there", entry_point="weights")
    with pytest.raises(PluginError) as error:
        available(TokenWeighting)
    assert str(error.value) == (
        "plugin broken-plugin:weights cannot be imported (ModuleNotFoundError: No module named "
        "'a_module_that_is_not_there'). Mend broken_plugin, or uninstall broken-plugin. To run without "
        "broken-plugin:weights: prefopt --without-plugin broken-plugin:weights, or set "
        "PREFOPT_WITHOUT_PLUGINS=broken-plugin:weights."
    )
    with pytest.raises(PluginError, match="broken-plugin"):  # nor is it passed over the second time
        ObjectiveConfig(weighting="uniform")


@pytest.mark.parametrize(
    ("hook", "nearest"),
    [("prefopt_token_weighting", "prefopt_token_weightings"), ("divergences", "prefopt_divergences")],
)
def test_a_misspelt_hook_is_named(install: Install, hook: str, nearest: str) -> None:
    install("good-plugin", HALVING.format(name="halving"))
    install("misspelt-plugin", HOOK.format(signature=f"{hook}()", value="[]"))
    with pytest.raises(PluginError) as error:
        available(RewardShaping)
    assert str(error.value).startswith(
        f"plugin misspelt-plugin:components implements {hook!r}, which is no hook of prefopt. Did you mean {nearest!r}?"
    )


def test_a_hook_that_asks_for_arguments_is_named(install: Install) -> None:
    install("greedy-plugin", HOOK.format(signature="prefopt_divergences(config)", value="[]"))
    with pytest.raises(PluginError, match=r"(?s)^plugin greedy-plugin:components cannot be registered: .*config"):
        available(Divergence)


def test_a_module_named_by_two_distributions_is_an_error_that_names_the_second(install: Install) -> None:
    install("first-plugin", HALVING.format(name="halving"), module="same_module")
    install("second-plugin", HALVING.format(name="halving"), module="same_module")
    with pytest.raises(PluginError, match=r"^plugin (first|second)-plugin:components cannot be registered"):
        available(TokenWeighting)


@pytest.mark.parametrize("name", ["uniform", "theirs"])
def test_a_duplicate_name_names_both_owners(install: Install, name: str) -> None:
    """Whether it is a built-in's name or another plugin's."""
    install("one-plugin", HALVING.format(name=name))
    if name != "uniform":
        install("two-plugin", HALVING.format(name=name))
    with pytest.raises(PluginError, match=f"two components of kind token weighting are named '{name}'") as error:
        available(TokenWeighting)
    assert "one-plugin:components" in str(error.value)
    assert ("prefopt:weightings" if name == "uniform" else "two-plugin:components") in str(error.value)


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("[print]", "returned <built-in function print>, which is not a subclass of TokenWeighting"),
        ("['sparse']", "returned 'sparse', which is not a subclass of TokenWeighting"),
        ("[__import__('prefopt.losses').losses.HingeLoss]", "which is not a subclass of TokenWeighting"),
        ("None", "must return a list of subclasses of TokenWeighting"),
        ("__import__('prefopt.losses').losses.HingeLoss", "must return a list of subclasses of TokenWeighting"),
        ("1 / 0", "must return a list of subclasses of TokenWeighting, but it failed (ZeroDivisionError"),
    ],
)
def test_a_hook_that_returns_something_else_is_named(install: Install, value: str, complaint: str) -> None:
    install("odd-plugin", HOOK.format(signature="prefopt_token_weightings()", value=value))
    with pytest.raises(PluginError, match=r"^plugin odd-plugin:components: prefopt_token_weightings ") as error:
        available(TokenWeighting)
    assert complaint in str(error.value)


def test_a_component_without_a_name_is_named(install: Install) -> None:
    source = HALVING.format(name="x").replace('    name: Literal["x"] = "x"\n', "")
    install("nameless-plugin", source)
    with pytest.raises(PluginError, match=r"^nameless_plugin\.Halving has no name; give it"):
        available(TokenWeighting)


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
    said = [message for message in caplog.messages if "broken-plugin" in message]
    assert said == [f"plugin broken-plugin:components is excluded by {WITHOUT}: its components are not there"]
    with pytest.raises(ComponentError, match=rf"Excluded by {WITHOUT}: broken-plugin:components"):
        resolve(TokenWeighting, "of_the_broken_one")


def test_the_command_line_excludes_plugins(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("broken-plugin", "import a_module_that_is_not_there")
    install("halving-plugin", HALVING.format(name="halving"))
    monkeypatch.setenv(WITHOUT, "halving-plugin")  # and so that what the option adds is taken back
    options = ("--without-plugin", "broken-plugin:components")
    assert "Plugins that are excluded: broken-plugin:components, halving-plugin:components" in typed(
        *options, "components", "token-weighting"
    )
    assert registry.excluded_plugins() == ("broken-plugin:components", "halving-plugin:components")
    monkeypatch.setenv(WITHOUT, "")
    clear()
    assert "error: plugin broken-plugin:components cannot be imported" in typed("components", exit_code=2)
    output = typed(*options, "components", "token-weighting")
    assert "halving-plugin" in output
    assert "excluded: broken-plugin:components\n" in output
    monkeypatch.setenv(WITHOUT, "")
    misspelt = typed("--without-plugin", "borken-plugin", "zoo", exit_code=2)
    assert "Did you mean 'broken-plugin'?" in misspelt
    monkeypatch.setenv(WITHOUT, "")
    clear()
    assert "excluded" not in typed(*options, "zoo", "dpo")


def test_of_two_plugins_in_a_distribution_one_can_be_excluded(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("two-plugins", HALVING.format(name="halving"))
    with (tmp_path / "two_plugins-1.0.dist-info" / "entry_points.txt").open("a") as file:
        file.write("broken = a_module_that_is_not_there\n")
    monkeypatch.setenv(WITHOUT, "two-plugins:broken")
    clear()
    assert excluded_plugins() == ("two-plugins:broken",)
    assert "halving" in available(TokenWeighting)
    monkeypatch.setenv(WITHOUT, "two-plugins")
    clear()
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
        clear()
        with pytest.raises(PluginError) as error:
            list(installed())
        remedies = re.findall(
            r"prefopt --without-plugin (\S+), or set PREFOPT_WITHOUT_PLUGINS=(\S+)\.", str(error.value)
        )
        assert remedies == [(f"{name}:components",) * 2], str(error.value)
    monkeypatch.setenv(WITHOUT, ",".join(f"{name}:components" for name in names))
    clear()
    assert {bringer.distribution for _, bringer in installed()}.isdisjoint(names)


@pytest.mark.parametrize("stated", [f"{INTERFACE}", f"({INTERFACE},)", f"[{INTERFACE}, {INTERFACE + 1}]"])
def test_a_plugin_that_supports_this_interface_is_taken(install: Install, stated: str) -> None:
    install("halving-plugin", f"{HALVING.format(name='halving')}\nPREFOPT_INTERFACE = {stated}\n")
    assert "halving" in available(TokenWeighting)


@pytest.mark.parametrize(
    ("stated", "said", "remedy"),
    [
        (f"({INTERFACE + 1}, {INTERFACE + 2})", f"{INTERFACE + 1}, {INTERFACE + 2}", "prefopt"),
        (f"{INTERFACE - 1}", f"{INTERFACE - 1}", "other-plugin"),
    ],
)
def test_a_plugin_for_another_interface_is_named_with_what_to_install(
    install: Install, stated: str, said: str, remedy: str
) -> None:
    install("other-plugin", f"{HALVING.format(name='halving')}\nPREFOPT_INTERFACE = {stated}\n")
    with pytest.raises(PluginError) as error:
        available(TokenWeighting)
    assert str(error.value).startswith(
        f"plugin other-plugin:components (other-plugin 1.0) supports the plugin interface in version {said}, but that "
        f"of prefopt {version('prefopt')} is {INTERFACE}. Install a {remedy} that fits: pip install --upgrade {remedy}."
    )


@pytest.mark.parametrize("stated", ["'1'", "()", "None", "(1.0,)"])
def test_an_interface_that_is_no_version_is_an_error(install: Install, stated: str) -> None:
    install("odd-plugin", f"PREFOPT_INTERFACE = {stated}")
    with pytest.raises(PluginError, match=r"^plugin odd-plugin:components: PREFOPT_INTERFACE is the versions"):
        available(TokenWeighting)


def without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As another environment would be, without what was installed."""
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(tmp_path)])
    clear()


RUN = {"model": "a-model", "data": {"train": "a.jsonl", "eval": "b.jsonl"}, "objective": {"weighting": "halving"}}
BROUGHT = "no TokenWeighting named 'halving'. halving-plugin 1.0 brought it when this was saved"


def test_what_is_saved_says_who_brought_its_components(install: Install) -> None:
    install("halving-plugin", HALVING.format(name="halving"))
    config = ObjectiveConfig(weighting="halving", loss={"name": "mixture", "losses": ["hinge"], "weights": [1]})
    ours = f"prefopt {version('prefopt')}"
    expected = {"token weighting halving": "halving-plugin 1.0", "reward shaping sum": ours}
    expected |= {"preference loss mixture": ours, "preference loss hinge": ours}
    assert brought_by(config.components) == expected


def test_an_objective_says_what_to_install_where_its_component_is_not(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("halving-plugin", HALVING.format(name="halving"))
    objective = Objective(ObjectiveConfig(weighting="halving"), num_layers=3, hidden_size=5)
    objective.save(tmp_path / "saved")
    assert Objective.load(tmp_path / "saved").config == objective.config
    monkeypatch.setenv(WITHOUT, "halving-plugin")
    clear()
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
