"""The registry, with real little distributions as plugins: a package and its dist-info on sys.path."""

from __future__ import annotations

import re
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from prefopt import Objective, ObjectiveConfig, TokenBatch, available, resolve
from prefopt.component import Divergence, PreferenceLoss, Regularizer, RewardShaping, Signal, TokenWeighting
from prefopt.hookspecs import KINDS
from prefopt.losses import LogisticLoss
from prefopt.plugins import reload_plugins
from prefopt.registry import ComponentError, Owner, PluginError, installed, owner
from prefopt.shapings import SumShaping
from prefopt.weightings import ShuffledWeighting, SparseWeighting, UniformWeighting
from tests.batches import random_case
from tests.little_plugins import HALVING, HOOK, Install


def test_built_ins_are_found_by_name() -> None:
    names = {kind: set(available(kind)) for kind in KINDS}
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
        available(kind)[name] for kind in KINDS for name in sorted(available(kind))
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
    with pytest.raises(ComponentError, match=r"^logistic: label_smoothing: less than 0\.5 is needed, got 0\.7$"):
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
    reload_plugins()
    assert owner(available(TokenWeighting)["halving"]).distribution == "halving-plugin"


def test_a_plugin_that_does_not_import_is_named(install: Install, tmp_path: Path) -> None:
    install("broken-plugin", "import a_module_that_is_not_there", entry_point="weights")
    with pytest.raises(PluginError) as error:
        available(TokenWeighting)
    assert str(error.value) == (
        "plugin broken-plugin:weights cannot be imported (ModuleNotFoundError: No module named "
        f"'a_module_that_is_not_there'; {tmp_path}/broken_plugin/__init__.py:1, in <module>). "
        "Mend broken_plugin, or uninstall broken-plugin. To run without "
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


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        (HALVING.format(name="halving").replace("@hookimpl", ""), "prefopt_token_weightings is not marked as a hook"),
        ("", "brings nothing, as it implements no hook"),
    ],
)
def test_a_plugin_without_a_marked_hook_is_named(install: Install, source: str, fault: str) -> None:
    install("plain-plugin", source)
    with pytest.raises(PluginError) as error:
        available(Divergence)
    assert fault in str(error.value)
    assert "plugin plain-plugin:components" in str(error.value)
    assert "write @hookimpl, from prefopt, over the function" in str(error.value)


def test_an_unknown_name_tells_of_distributions_without_an_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "plain_plugin-1.0.dist-info"
    info.mkdir()
    metadata = "Metadata-Version: 2.1\nName: plain-plugin\nVersion: 1.0\nRequires-Dist: "
    (info / "METADATA").write_text(f"{metadata}prefopt>=0.1\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ComponentError, match=r"plain-plugin requires prefopt and names no module as a plugin"):
        resolve(TokenWeighting, "plain")
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: plain-plugin\nVersion: 1.0\nRequires-Dist: prefopt-x\n"
    )
    with pytest.raises(ComponentError) as error:
        resolve(TokenWeighting, "plain")
    assert "plain-plugin" not in str(error.value)


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


class Reading(TokenWeighting):
    name: Literal["reading"] = "reading"
    signals: Any = ()

    @property
    def requires(self) -> Any:
        return self.signals

    def __call__(self, tokens: TokenBatch) -> Tensor:
        return torch.where(tokens.mask, tokens.ref_logps.exp(), 0)


@pytest.mark.parametrize(
    ("signals", "fault"),
    [
        (lambda: frozenset(), "`requires` is a method and no property"),
        ((Signal.REF_LOGPS,), "`requires` is of type tuple"),
        (frozenset({"ref_logp"}), "`requires` holds 'ref_logp', which is no Signal; write it as"),
    ],
)
def test_signals_in_another_form_are_told_with_the_right_one(signals: object, fault: str) -> None:
    with pytest.raises(ValidationError) as error:
        Reading(signals=signals)
    assert fault in str(error.value)
    assert "return frozenset({Signal.REF_LOGPS})" in str(error.value)
    assert Reading(signals=frozenset({Signal.REF_LOGPS})).requires == {Signal.REF_LOGPS}


class Unbuilt(TokenWeighting):
    name: Literal["unbuilt"] = "unbuilt"
    result: Any = None

    def build(self, *, num_layers: int, hidden_size: int) -> Any:
        return self.result


@pytest.mark.parametrize(("result", "given"), [(None, "None"), (nn.Linear, "the class Linear")])
def test_a_build_without_a_function_is_told(result: object, given: str) -> None:
    fault = re.escape(f"build() of token weighting 'unbuilt' returns {given}; return a function or module")
    unbuilt = Unbuilt(result=result)
    for weighting in (unbuilt, ShuffledWeighting(weighting=unbuilt)):
        with pytest.raises(TypeError, match=fault):
            Objective(ObjectiveConfig(weighting=weighting), num_layers=1, hidden_size=2)


class Uncalled(PreferenceLoss):
    name: Literal["uncalled"] = "uncalled"


@pytest.mark.parametrize("holder", ["mixture", "weighted", "token_reward"])
def test_a_loss_that_cannot_be_called_is_told_before_a_step_wherever_it_lies(holder: str) -> None:
    inner = {"losses": [Uncalled()], "weights": [1.0]} if holder == "mixture" else {"loss": Uncalled()}
    with pytest.raises(
        TypeError, match=r"^Uncalled neither is callable nor overrides build\(\); write one of the two$"
    ):
        Objective(ObjectiveConfig(loss={"name": holder} | inner), num_layers=1, hidden_size=2)
