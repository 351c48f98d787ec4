"""The equation that readers move in a browser says what the library says, in value and gradient."""

from __future__ import annotations

import json
import random
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import torch

from prefopt import Objective, ObjectiveConfig, TokenBatch
from tests.chromium import browser, opened

__all__ = ["browser"]  # a fixture

pytestmark = pytest.mark.outside

SCRIPT = Path(__file__).parents[1] / "docs" / "scripts" / "equation.js"
SIDES = ("chosen", "rejected")
PAGE = """<!doctype html><meta charset="utf-8"><div class="playground"></div><script>{script}</script>
<script>
const results = {draws}.map(prefoptEquation);
const summary = () => document.querySelector("[role=status]").textContent;
const before = summary();
document.querySelectorAll("button")[2].click();
const preset = summary();
const slider = document.querySelector("fieldset input");
slider.value = -3;
slider.dispatchEvent(new Event("input"));
const names = [...document.querySelectorAll("input[type=range]")].map(input => input.ariaLabel);
const text = JSON.stringify({{ results, before, preset, moved: summary(), names }});
document.body.append(Object.assign(document.createElement("pre"), {{ textContent: text }}));
</script>"""


def drawn(draw: random.Random) -> dict[str, Any]:
    """A setting, with responses of unequal lengths."""
    tokens = {
        side: [
            {
                "ratio": draw.uniform(-3, 3),
                "weight": draw.choice([0, draw.uniform(0, 3)]),
                "divergence": draw.uniform(0, 3),
            }
            for _ in range(draw.randint(1, 5))
        ]
        for side in SIDES
    }
    choices = {"shaping": ("sum", "mean"), "units": ("response", "token"), "reduction": ("mean", "sum")}
    choices |= {"link": ("logistic", "hinge", "squared"), "shared": (True, False), "detached": (True, False)}
    numbers = {"beta": draw.uniform(0.05, 2), "alpha": draw.uniform(0, 2), "target": draw.uniform(0.5, 2)}
    return tokens | numbers | {name: draw.choice(values) for name, values in choices.items()}


def library(setting: dict[str, Any]) -> dict[str, Any]:
    """The same in the library, by autograd, in float64."""
    longest = max(len(setting[side]) for side in SIDES)

    def padded(name: str) -> torch.Tensor:
        rows = [[token[name] for token in setting[side]] for side in SIDES]
        return torch.tensor([row + [0.0] * (longest - len(row)) for row in rows], dtype=torch.float64)

    mask = torch.tensor([[t < len(setting[side]) for t in range(longest)] for side in SIDES])
    ratios, divergence = padded("ratio").requires_grad_(), padded("divergence").requires_grad_()
    tokens = TokenBatch(
        logps=ratios,
        ref_logps=torch.zeros_like(ratios),
        mask=mask,
        token_ids=mask.long(),
        divergence=divergence,
        columns={"weights": padded("weight")},
    )
    term = {"measure": "forward_kl", "alpha": setting["alpha"], "detach_chosen": setting["detached"]}
    config = ObjectiveConfig.model_validate(
        {
            "beta": setting["beta"],
            "weighting": "column",
            "divergence": term if setting["shared"] else term | {"weighting": "uniform"},
            "shaping": setting["shaping"],
            "units": {"name": "token", "reduction": setting["reduction"]} if setting["units"] == "token" else None,
            "loss": {"name": setting["link"]}
            | ({} if setting["link"] == "logistic" else {"margin": setting["target"]}),
        }
    )
    output = Objective(config, num_layers=1, hidden_size=1)(tokens)
    gradients = torch.autograd.grad(output.loss, [ratios, divergence])
    return {
        "loss": output.loss.item(),
        "rewards": dict(zip(SIDES, output.rewards.tolist(), strict=True)),
        "gradient": {
            side: [
                {
                    name: gradient[row, t].item()
                    for name, gradient in zip(("ratio", "divergence"), gradients, strict=True)
                }
                for t in range(len(setting[side]))
            ]
            for row, side in enumerate(SIDES)
        },
    }


@pytest.fixture(scope="module")
def draws() -> list[dict[str, Any]]:
    draw = random.Random(0)
    return [drawn(draw) for _ in range(120)]


@pytest.fixture(scope="module")
def shown(browser: str, draws: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    page = tmp_path_factory.mktemp("equation") / "page.html"
    page.write_text(PAGE.format(script=SCRIPT.read_text(encoding="utf-8"), draws=json.dumps(draws)), encoding="utf-8")
    document, console = opened(browser, page)
    assert console == []
    (text,) = re.findall(r"<pre>(.*?)</pre>", document)
    result: dict[str, Any] = json.loads(unescape(text))
    return result


def flat(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for key in sorted(value) for number in flat(value[key])]
    return [number for item in value for number in flat(item)] if isinstance(value, list) else [value]


def test_values_and_gradients_are_the_librarys(draws: list[dict[str, Any]], shown: dict[str, Any]) -> None:
    assert len({(setting["units"], setting["link"], setting["shaping"], setting["shared"]) for setting in draws}) == 24
    for setting, result in zip(draws, shown["results"], strict=True):
        expected = library(setting)
        assert flat({name: result[name] for name in expected}) == pytest.approx(flat(expected), rel=1e-9, abs=1e-12), (
            setting
        )
        assert result["margin"] == pytest.approx(expected["rewards"]["chosen"] - expected["rewards"]["rejected"])


def test_the_page_redraws(shown: dict[str, Any]) -> None:
    assert shown["before"] == "margin 1.400, loss 0.2204"
    assert len({shown["before"], shown["preset"], shown["moved"]}) == 3
    assert "\u2212" in shown["moved"]
    assert len(shown["names"]) == len(set(shown["names"])) == 2 + 6 * 3  # a name of its own for every slider
