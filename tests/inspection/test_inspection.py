"""An inspection shows what the objective computed, whatever the objective."""

from __future__ import annotations

import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefopt import Objective, PreferenceBatch
from prefopt.data import DataError, EncodingConfig, PreferenceCollator, prepare, read_rows
from prefopt.inspection import Inspection, inspect_run
from prefopt.inspection.layers import layer_named, layers, scale
from prefopt.inspection.pipeline import html_page
from prefopt.inspection.statistics import LayerStatistics
from prefopt.inspection.terminal import pair_views, ranking_table, summary_table
from prefopt.pages.token_view import PairTokens, ResponseTokens, visible
from prefopt.scoring import PreferenceModel
from prefopt.training import SavedRun
from prefopt.zoo import ZOO, build
from tests.inspection.conftest import SPARSE, Trained

COLUMNS = ("w", "v", "log_ratio", "divergence")


class Page(HTMLParser):
    """The tags of a page with their attributes, and the data of its token view."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.view: dict[str, Any] = {}
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == ("script", {"type": "application/json", "id": "token-data"}):
            self.view = self.view or json.loads(data)


@pytest.fixture(scope="module")
def inspected(trained: Trained, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Inspection]:
    """The SparsePO run, inspected in small batches of which the last is not full."""
    out = tmp_path_factory.mktemp("inspected") / "out"
    run = SavedRun.load(trained(SPARSE))
    return out, inspect_run(run, data, out=out, shown=4, minimum=2, batch_size=5)


def by_hand(folder: Path, reference: str, data: Path) -> list[dict[str, object]]:
    """A row a token, from the models and the objective in the folder, all pairs in one batch."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pairs, _ = prepare(read_rows(data), tokenizer, EncodingConfig(max_length=1024), description="data")
    batch = PreferenceBatch.from_mapping(PreferenceCollator(tokenizer.pad_token_id)(pairs.to_list()))
    policy, ref_model = (AutoModelForCausalLM.from_pretrained(name) for name in (folder, reference))
    with torch.no_grad():
        output = PreferenceModel(policy, ref_model, Objective.load(folder)).eval()(batch)
    tokens = output.tokens
    numbers = (output.weights, output.divergence_weights, tokens.logps - tokens.ref_logps, tokens.divergence)
    rows = []
    for pair in range(len(pairs)):
        for side, row in (("chosen", pair), ("rejected", pair + len(pairs))):
            for position in range(int(tokens.mask[row].sum())):
                values = (float(number[row, position]) for number in numbers)
                token_id = int(tokens.token_ids[row, position])
                ours = {"pair": pair, "side": side, "position": position, "token_id": token_id}
                rows.append({**ours, **dict(zip(COLUMNS, values, strict=True))})
    return rows


def test_the_parquet_file_is_what_the_objective_computed(
    inspected: tuple[Path, Inspection], trained: Trained, model_folder: str, data: Path
) -> None:
    table = pq.read_table(inspected[0] / "tokens.parquet")
    expected = by_hand(trained(SPARSE), model_folder, data)
    rows = table.to_pylist()
    assert len(rows) == len(expected) == inspected[1].tokens
    for row, hand in zip(rows, expected, strict=True):
        assert {name: row[name] for name in ("pair", "side", "position", "token_id")} == {
            name: hand[name] for name in ("pair", "side", "position", "token_id")
        }
        assert [row[name] for name in COLUMNS] == pytest.approx([hand[name] for name in COLUMNS], rel=1e-4, abs=1e-6)
    assert len({row["w"] for row in rows}) > 20, "the mask has learned to tell tokens apart"
    assert rows[0]["where"].endswith("pairs.jsonl:1")
    about = json.loads(table.schema.metadata[b"prefopt"])
    assert build(about["objective"]) == build(SPARSE)
    assert about["run"] == str(trained(SPARSE))
    assert datasets.Dataset.from_parquet(str(inspected[0] / "tokens.parquet"), cache_dir=str(inspected[0])).num_rows


def test_pieces_join_to_the_response(inspected: tuple[Path, Inspection], rows: list[dict[str, str]]) -> None:
    for pair, row in zip(inspected[1].shown, rows, strict=False):
        assert pair.prompt == row["prompt"]
        assert "".join(pair.chosen.tokens) == row["chosen"] + " <eos>"


def test_sums_and_ranks_are_those_of_the_tokens(inspected: tuple[Path, Inspection]) -> None:
    out, inspection = inspected
    rows = pq.read_table(out / "tokens.parquet").to_pylist()
    for name in COLUMNS:
        values = [row[name] for row in rows]
        summary = inspection.summaries[name]
        assert summary.mean == pytest.approx(sum(values) / len(values))
        assert (summary.smallest, summary.largest) == pytest.approx((min(values), max(values)))
        assert summary.zeros == pytest.approx(sum(value == 0 for value in values) / len(values))
        by_token: dict[int, list[float]] = {}
        for row in rows:
            by_token.setdefault(row["token_id"], []).append(row[name])
        means = {token: sum(values) / len(values) for token, values in by_token.items() if len(values) >= 2}
        ranking = inspection.rankings[name]
        assert ranking.among == len(means)
        heaviest = sorted(means.values(), reverse=True)[: len(ranking.heaviest)]
        assert [token.mean for token in ranking.heaviest] == pytest.approx(heaviest)
        lightest = sorted(means.values())[: len(ranking.lightest)]
        assert [token.mean for token in ranking.lightest] == pytest.approx(lightest)
        assert all(token.count == len(by_token[token.id]) for token in (*ranking.heaviest, *ranking.lightest))
        assert not {token.id for token in ranking.heaviest} & {token.id for token in ranking.lightest}


def test_the_json_file_holds_the_sums(inspected: tuple[Path, Inspection]) -> None:
    out, inspection = inspected
    read = json.loads((out / "inspection.json").read_text())
    assert (read["pairs"], read["tokens"]) == (32, inspection.tokens)
    assert read["layers"]["w"]["mean"] == inspection.summaries["w"].mean
    assert [token["text"] for token in read["rankings"]["v"]["heaviest"]]


def test_the_page_shows_the_numbers_and_needs_nothing_but_itself(inspected: tuple[Path, Inspection]) -> None:
    out, inspection = inspected
    source = (out / "index.html").read_text()
    assert not re.search(r"https?:|@import|url\(", source)
    page = Page(source)
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "img")
        assert not {"src", "href", "srcset"} & attributes.keys()
    assert [layer["name"] for layer in page.view["layers"]] == list(COLUMNS)
    for pair, written in zip(inspection.shown, page.view["pairs"], strict=True):
        assert (written["row"], written["where"], written["prompt"]) == (pair.row, pair.where, pair.prompt)
        for side, response in pair.responses.items():
            assert written[side]["tokens"] == list(response.tokens)
            assert written[side]["ids"] == response.ids
            assert written[side]["note"] == f", reward {response.reward:+.4g}"
            for name in COLUMNS:
                assert written[side]["values"][name] == pytest.approx(response.values[name], rel=1e-3)
    assert [a["value"] for tag, a in page.tags if tag == "input" and "checked" in a] == ["w"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "distinct", "default"),
    [
        ("dpo", ["w", "log_ratio"], "log_ratio"),
        ("simpo", ["w", "log_ratio"], "log_ratio"),
        ("tdpo2", ["w", "log_ratio", "divergence"], "log_ratio"),
        ("mapo", ["w", "log_ratio", "divergence"], "w"),
    ],
)
def test_any_objective(
    trained: Trained, data: Path, tmp_path: Path, name: str, distinct: list[str], default: str
) -> None:
    run = SavedRun.load(trained(name))
    inspection = inspect_run(run, data, out=tmp_path, shown=1)
    assert [layer.name for layer in inspection.distinct] == distinct
    assert inspection.default.name == default
    page = Page((tmp_path / "index.html").read_text())
    assert [a["value"] for _, a in page.tags if a.get("name") == "token-layer"] == distinct
    table = pq.read_table(tmp_path / "tokens.parquet")
    has_divergence = "divergence" in distinct
    assert (table["v"].null_count == 0) == (table["divergence"].null_count == 0) == has_divergence
    if has_divergence:
        assert table["v"].equals(table["w"]), "one mask for both"
    if "w" not in inspection.rankings:
        assert set(table["w"].to_pylist()) == {1.0}
        assert "The weight w is 1 for every token." in (tmp_path / "index.html").read_text()
    if run.reference is None:
        assert all(value < 0 for value in table["log_ratio"].to_pylist())


@pytest.mark.parametrize("name", ZOO)
def test_every_row_of_the_zoo_has_layers(name: str) -> None:
    config = ZOO[name]()
    names = {layer.name for layer in layers(config)}
    assert {"w", "log_ratio"} <= names
    assert ("divergence" in names) == ("v" in names) == (config.divergence is not None)
    with pytest.raises(ValueError, match=r"no layer 'weights' in this run.*It has w, (v, )?log_ratio"):
        layer_named(layers(config), "weights")


def test_the_scale_leaves_outliers_out() -> None:
    assert scale([]) == scale([0.0, 0.0]) == 1.0
    assert scale([0.1] * 99 + [1000.0]) == pytest.approx(0.1)
    assert scale([0.0] * 99 + [-3.0]) == 3.0
    assert scale([-2.0, 1.0]) == pytest.approx(2.0, rel=0.02)


HOSTILE = "<script>alert(1)</script>\"'&\n\t\x1b[31m"


def hostile_inspection() -> Inspection:
    """One pair whose texts are what a page and a terminal must not obey."""
    config = build("dpo")
    values = {"w": [1.0, 0.5], "log_ratio": [0.25, -0.5]}
    response = ResponseTokens([HOSTILE, "[bold]"], values, ids=[1, 2], reward=0.1, truncated=True)
    pair = PairTokens(HOSTILE, response, response, where=HOSTILE)
    statistics = LayerStatistics(layers(config), 3)
    statistics.add(pair)
    return Inspection(
        about={"run": HOSTILE, "data": HOSTILE, "reference": HOSTILE},
        layers=layers(config),
        summaries=statistics.summaries(),
        rankings={},
        pairs=1,
        tokens=4,
        accuracy=0.0,
        mask_health=None,
        mask_faults={"dead": HOSTILE},
        shown=[pair],
        files=[],
    )


def test_text_is_inert_on_the_page() -> None:
    parsed = Page(html_page(hostile_inspection(), minimum=1))
    assert [tag for tag, _ in parsed.tags].count("script") == 2
    assert parsed.view["pairs"][0]["chosen"]["tokens"] == ["<script>alert(1)</script>\"'&⏎\n⇥\\x1b[31m", "[bold]"]
    assert parsed.view["pairs"][0]["chosen"]["note"] == ", reward +0.1, cut at its end"


@pytest.mark.parametrize("coloured", [True, False])
def test_the_terminal_shades_or_tells_levels(coloured: bool) -> None:
    inspection = hostile_inspection()
    file = io.StringIO()
    system = "truecolor" if coloured else None
    console = Console(file=file, width=200, color_system=system, force_terminal=coloured)
    for view in pair_views(inspection, inspection.layers[1], number=3, coloured=coloured):
        console.print(view, highlight=False)
    text = file.getvalue()
    assert "\x1b[31m" not in text, "the token's own escape sequence"
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert "<script>alert(1)</script>\"'&⏎⇥\\x1b[31m" in plain
    assert "chosen, reward +0.1  (cut)" in plain
    if coloured:
        assert "48;2;180;70;0m[bold]" in text, "the token with the largest magnitude, which is negative, is darkest"
    else:
        assert "\\x1b[31m[+4]" in plain
        assert "[bold][-9]" in plain
        assert "+ or - and a level from 0 to 9, which is 0.5 or more" in plain


def test_tables_for_the_terminal(inspected: tuple[Path, Inspection]) -> None:
    _, inspection = inspected
    console = Console(file=io.StringIO(), width=200, color_system=None)
    console.print(summary_table(inspection))
    console.print(ranking_table(inspection.rankings["w"], inspection.layers[0], minimum=2))
    text = console.file.getvalue()
    assert f"32 pairs, {inspection.tokens} response tokens" in text
    assert f"{inspection.summaries['divergence'].mean:.4g}" in text
    heaviest = inspection.rankings["w"].heaviest[0]
    assert re.search(rf"'{heaviest.text}' .*{re.escape(f'{heaviest.mean:.4g}')} .* {heaviest.count} ", text)


def test_visible_text() -> None:
    assert visible(" good") == " good"
    assert visible("") == "▫"
    assert visible("a\r\n\tb\x00") == "a⏎⇥b\\x00"
    assert visible("a\nb", line_break="\n") == "a⏎\nb"


def test_a_tokenizer_of_another_model_is_an_error(trained: Trained, data: Path) -> None:
    run = SavedRun.load(trained("simpo"))
    run.tokenizer.add_tokens(["hitherto"])
    strange = data.with_name("strange.jsonl")
    strange.write_text(json.dumps({"prompt": "the", "chosen": " hitherto good", "rejected": " bad"}) + "\n")
    with pytest.raises(DataError, match=r"strange\.jsonl:1: the tokenizer in .* makes it token 23, but the policy has"):
        inspect_run(run, strange)


def test_columns_of_the_data_reach_the_objective(
    trained: Trained, data: Path, rows: list[dict[str, str]], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained("dpo"), folder)
    Objective(build({"weighting": "column"}), num_layers=2, hidden_size=32).save(folder)
    run = SavedRun.load(folder)
    with pytest.raises(DataError, match=r"pairs\.jsonl:1: field 'chosen_weights': found no such field.*columns: {"):
        inspect_run(run, data)
    weighed = tmp_path / "weighed.jsonl"
    spans = [{"start": 0, "end": len(rows[0]["chosen"]), "value": 0.25}]
    weighed.write_text(json.dumps({**rows[0], "good": spans, "bad": []}))
    columns = {"chosen_weights": "good", "rejected_weights": "bad"}
    (pair,) = inspect_run(run, weighed, columns=columns).shown
    assert pair.chosen.values["w"] == [0.25] * (len(pair.chosen.ids) - 1) + [1.0]
    assert set(pair.rejected.values["w"]) == {1.0}
