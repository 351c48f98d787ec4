from __future__ import annotations

import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console
from transformers import AutoModelForCausalLM

from prefopt.demo import DemoConfig, DemoResults, run_demo
from prefopt.objective import Objective

from .conftest import SMALL


def test_results_are_whole(done: tuple[Path, DemoResults]) -> None:
    out, results = done
    assert DemoResults.model_validate_json((out / "results.json").read_text()) == results
    reference, *trained = results.models
    assert [model.name for model in results.models] == ["reference", "DPO", "SparsePO"]
    assert reference.sequence_kl is None
    for model in trained:
        assert model.sequence_kl is not None
        assert model.sequence_kl.mean > 0
        assert model.reward.low <= model.reward.mean <= model.reward.high
        assert [step for step, _ in model.curves["loss"]] == [1, 2, 3, 4]
        assert all(math.isfinite(value) for curve in model.curves.values() for _, value in curve)
        assert len(model.completions) == len(results.prompts) == 4


def test_the_loss_starts_where_theory_has_it(done: tuple[Path, DemoResults]) -> None:
    _, (_, dpo, sparsepo) = done[0], done[1].models
    assert dpo.curves["loss"][0][1] == pytest.approx(math.log(2), abs=1e-4)
    assert sparsepo.curves["loss"][0][1] > math.log(2)  # its weights start at 1, and L1 charges for them


def test_uniform_weights_know_nothing_and_learned_ones_are_shown(done: tuple[Path, DemoResults]) -> None:
    _, dpo, sparsepo = done[1].models
    assert (dpo.weight_mean, dpo.weight_sparsity, dpo.auroc) == (1, 0, 0.5)
    assert dpo.pairs == []
    assert sparsepo.weight_mean != 1
    assert sparsepo.divergence_weight_mean is not None
    assert sparsepo.pairs
    for pair in sparsepo.pairs:
        for response in (pair.chosen, pair.rejected):
            assert len(response.pieces) == len(response.weights) == len(response.sentiment)


def test_the_models_can_be_used_again(done: tuple[Path, DemoResults]) -> None:
    out, results = done
    for model in results.models:
        AutoModelForCausalLM.from_pretrained(out / model.name.lower())
    assert Objective.load(out / "sparsepo").config.weighting.init == "near_one"


def test_held_out_prompts_were_not_trained_on(done: tuple[Path, DemoResults]) -> None:
    out, results = done

    def prompts(name: str) -> set[str]:
        return {json.loads(line)["prompt"] for line in (out / name).read_text().splitlines()}

    assert not prompts("pairs.jsonl") & (prompts("held-out-pairs.jsonl") | set(results.prompts))


class Page(HTMLParser):
    """The tags of a page, with their attributes, and its text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_needs_nothing_but_itself(done: tuple[Path, DemoResults]) -> None:
    source = (done[0] / "index.html").read_text()
    assert not re.search(r"https?:|@import|url\(", source)
    for tag, attributes in Page(source).tags:
        assert tag not in ("script", "link", "iframe", "img")
        assert not {"src", "href", "srcset"} & attributes.keys()


def test_the_page_shows_curves_weights_and_completions(done: tuple[Path, DemoResults]) -> None:
    out, results = done
    page = Page((out / "index.html").read_text())
    series = [attributes["data-series"] for tag, attributes in page.tags if tag == "polyline"]
    assert series == ["DPO", "SparsePO"] * 4
    assert all(len((a["points"] or "").split()) == 4 for tag, a in page.tags if tag == "polyline")
    titled = [attributes["title"] for _, attributes in page.tags if {"class", "title"} <= attributes.keys()]
    weights = [
        weight for pair in results.models[2].pairs for side in (pair.chosen, pair.rejected) for weight in side.weights
    ]
    assert [title.split(",")[0] for title in titled if title] == [f"w = {weight:.3f}" for weight in weights]
    assert results.command in page.text
    for model in results.models:
        for completion in model.completions:
            assert completion.text.strip() in page.text


def test_off_a_terminal_the_console_reads_as_plain_lines(done: tuple[Path, DemoResults], printed: io.StringIO) -> None:
    text = printed.getvalue()
    assert text.index("1/7 training the reference") < text.index("7/7 measuring SparsePO") < text.index("AUROC")
    assert "\x1b" not in text
    assert "\r" not in text
    assert str(done[0] / "index.html") in text


def test_a_model_with_prompts_and_words_of_ones_own(done: tuple[Path, DemoResults], tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("The film was\nThe plot was\n\nThe lamp was\nThe phone was\nThe case was\n")
    (tmp_path / "words.yaml").write_text("positive: [the, was]\nnegative: [and, My, so, We, I, It]\n")
    results = run_demo(
        DemoConfig(
            out=tmp_path / "out",
            model=str(done[0] / "reference"),
            prompts=tmp_path / "prompts.txt",
            words=tmp_path / "words.yaml",
            **{**SMALL, "steps": 1},
        ),
        console=Console(file=io.StringIO()),
    )
    assert not (tmp_path / "out/reference").exists()
    assert len(results.prompts) == 1
    assert results.models[1].auroc == 0.5


def test_a_model_with_pairs_of_ones_own(done: tuple[Path, DemoResults], tmp_path: Path) -> None:
    out, first = done
    results = run_demo(
        DemoConfig(out=tmp_path, model=str(out / "reference"), pairs=str(out / "pairs.jsonl"), **{**SMALL, "steps": 1}),
        console=Console(file=io.StringIO()),
    )
    assert results.train_pairs + results.held_out_pairs == first.train_pairs
    assert not (tmp_path / "pairs.jsonl").exists()
    held_out = {pair.prompt for pair in results.models[2].pairs}
    assert held_out <= set(results.prompts)


def test_words_that_never_occur_are_refused(done: tuple[Path, DemoResults], tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("The film was\nThe plot was\n")
    (tmp_path / "words.json").write_text('{"positive": ["zebra"], "negative": ["gnu"]}')
    config = DemoConfig(
        out=tmp_path / "out",
        model=str(done[0] / "reference"),
        prompts=tmp_path / "prompts.txt",
        words=tmp_path / "words.json",
        **SMALL,
    )
    with pytest.raises(ValueError, match=r"scored the same.*`words`"):
        run_demo(config, console=Console(file=io.StringIO()))
