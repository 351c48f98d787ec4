"""The sentiment task in small: what it samples, which pairs it makes of that, and what it measures."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefopt import zoo
from prefopt.data import EncodingConfig, prepare, read_rows
from prefopt.data.pairs import SIDES
from prefopt.data.quiet import quiet
from prefopt.data.token_texts import response_token_texts
from prefopt.objective_config import ObjectiveConfig
from prefopt.sampling import end_token_ids
from prefopt.scoring import PreferenceModel
from prefopt.tasks import Material, TaskError, resolve_task
from prefopt.tasks.conformance import check_task
from prefopt.tasks.models import save_without_eos
from prefopt.tasks.scorers import VaderScorer, WordsScorer
from prefopt.tasks.scorers.corpus import corpus_prompts
from prefopt.tasks.scorers.words import WORDS
from prefopt.tasks.sentiment import SentimentTask
from prefopt.tasks.sentiment.pairs import Pairing, Scored, split

# A second scorer that needs no library: it counts other words than the first.
SECOND = {"name": "words", "positive": ["very", "really"], "negative": ["rather", "fairly"]}
SMALL: dict[str, Any] = {
    "name": "sentiment",
    "reviews": 300,
    "reference_steps": 25,
    "second": SECOND,
    "train_prompts": 12,
    "held_out": 4,
    "samples": 4,
    "pairing": {"most": 2},
    "generation": {"samples": 2, "max_new_tokens": 12},
}


@pytest.fixture(scope="module")
def task() -> SentimentTask:
    resolved = resolve_task(SMALL)
    assert isinstance(resolved, SentimentTask)
    return resolved


@pytest.fixture(scope="module")
def material(task: SentimentTask, tmp_path_factory: pytest.TempPathFactory) -> Material:
    return task.prepare(tmp_path_factory.mktemp("sentiment"), 3)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_pairs_are_samples_of_which_the_scorer_prefers_the_chosen(material: Material) -> None:
    train, held_out = rows(material.train), rows(material.held_out)
    assert train
    assert held_out
    prompts = [{row["prompt"] for row in part} for part in (train, held_out)]
    assert not prompts[0] & prompts[1]
    assert prompts[1] <= {prompt.text for prompt in material.read_prompts()}
    assert prompts[0] | prompts[1] <= set(corpus_prompts(0))
    for row in train + held_out:
        scores = [WORDS.score(row[side].removesuffix("</s>")) for side in ("chosen", "rejected")]
        assert scores == [row["score_chosen"], row["score_rejected"]]
        assert scores[0] > scores[1]
        assert row["chosen"][0] in " .<"  # a word with its space, or what ends a sentence


@pytest.mark.slow
def test_odpo_reads_the_scores_and_an_oracle_the_words(material: Material) -> None:
    """Oracle: the token column `weights` is 1 on the tokens that the task marks, and nowhere else."""
    tokenizer = AutoTokenizer.from_pretrained(material.model)
    oracle = ObjectiveConfig.model_validate({"weighting": {"name": "column", "default": 0.0}})
    source, extra = read_rows(material.train), [*zoo.odpo().columns, *oracle.columns]
    data, report = prepare(source, tokenizer, EncodingConfig(), description="pairs", extra=extra)
    gaps = [row["pair:score_chosen"] - row["pair:score_rejected"] for row in data]
    assert min(gaps) > 0
    assert report.left_out == {}
    marks = SentimentTask().marks
    assert marks is not None
    for row, side in itertools.product(data, SIDES):
        assert row[f"{side}:weights"] == marks(response_token_texts(row, side, tokenizer))


def test_a_sample_that_was_cut_is_given_no_ending(material: Material) -> None:
    tokenizer = AutoTokenizer.from_pretrained(material.model)
    model = AutoModelForCausalLM.from_pretrained(material.model)
    (end,) = end_token_ids(model, tokenizer)
    assert tokenizer.eos_token_id is None
    assert end == tokenizer.convert_tokens_to_ids("</s>")
    data, _ = prepare(read_rows(material.train), tokenizer, EncodingConfig(), description="pairs")
    seen = set()
    for row, ids in zip(rows(material.train), data.to_list(), strict=True):
        for side in ("chosen", "rejected"):
            ended = row[side].endswith("</s>")
            seen.add(ended)
            assert (ids[f"{side}_ids"][-1] == end) == ended
            # Tokens are those that were sampled: so many, but for one that ended.
            assert ended or len(ids[f"{side}_ids"]) == 12
    assert seen == {True, False}


@pytest.mark.slow
def test_it_keeps_to_what_a_task_has_to(material: Material, task: SentimentTask, tmp_path: Path) -> None:
    with quiet():
        evaluation = check_task(
            task.model_copy(update={"reference_steps": 3, "samples": 8, "train_prompts": 4}), tmp_path
        )
    assert set(evaluation.values) == {"reward", "proxy_reward", "sequence_kl", "tokens", "ended", "distinct_words"}
    for number, (prompt, texts) in enumerate(evaluation.samples.items()):
        assert len(texts) == 2
        for name, scorer in (("reward", task.judging), ("proxy_reward", WordsScorer())):
            assert evaluation.values[name][f"prompt {number}"] == pytest.approx(
                sum(scorer.score([prompt] * 2, texts)) / 2
            )


def test_the_reference_has_not_moved(material: Material, task: SentimentTask) -> None:
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(material.model)
        models = [AutoModelForCausalLM.from_pretrained(material.model).eval() for _ in range(3)]
        evaluation = task.evaluate(PreferenceModel(*models[:2], ObjectiveConfig()), models[2], tokenizer, material)
    assert max(evaluation.values["sequence_kl"].values()) == pytest.approx(0, abs=1e-4)
    assert list(evaluation.samples) == [prompt.text for prompt in material.read_prompts()]


def test_rated_responses_take_the_place_of_samples(model_folder: str, tmp_path: Path) -> None:
    draw = random.Random(0)
    with (tmp_path / "rated.jsonl").open("w") as file:
        for prompt in ("the film was", "the plot was", "they saw"):
            for text in ("good and very fine", "dull<br />and bad and bad", ", it was"):
                file.write(json.dumps({"prompt": prompt, "text": text, "reward": draw.random()}) + "\n")
    task = SentimentTask(
        model=model_folder,
        rated={"source": str(tmp_path / "rated.jsonl"), "words": 3},
        lexicon={"name": "words", "positive": ["good"], "negative": ["dull"]},
        second="words",
        held_out=1,
        train_prompts=2,
        generation={"samples": 2, "max_new_tokens": 4},
    )
    material = task.prepare(tmp_path / "material", 0)
    for path, count in ((material.train, 2), (material.held_out, 1)):
        assert len(rows(path)) == count
        for row in rows(path):
            assert {row["chosen"], row["rejected"]} <= {" good and very", " dull and bad", ", it was"}
            assert row["score_chosen"] > row["score_rejected"]
            for side in SIDES:
                start = max(row[side].find("good"), row[side].find("dull"))
                marks = [{"start": start, "end": start + 4, "value": 1.0}] if start >= 0 else []
                assert row[f"{side}_weights"] == marks
    assert [metric.name for metric in task.metrics][:2] == ["reward", "sequence_kl"]


@pytest.mark.slow
def test_the_supervised_step_comes_first(model_folder: str, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("the film was good\nthe plot was good\n")
    task = SentimentTask(
        model=model_folder,
        prompts={"templates": ["the {what} was"], "fill": {"what": ["film", "plot", "scene"]}},
        scorer={"name": "words", "positive": ["good"], "negative": ["bad"]},
        second="words",
        sft={"steps": 20, "batch_size": 2, "learning_rate": 1e-2},
        sft_texts=str(tmp_path / "texts.txt"),
        held_out=1,
        samples=12,
        generation={"samples": 2, "max_new_tokens": 2},
        pairing={"min_gap": 0.1},
    )
    reference = task.prepare(tmp_path / "material", 0)
    assert {path.name for path in reference.folder.iterdir()} > {"reference", "train.jsonl"}
    assert "steps" not in {path.name for path in reference.folder.iterdir()}
    tokenizer = AutoTokenizer.from_pretrained(reference.model)
    model = AutoModelForCausalLM.from_pretrained(reference.model).eval()
    written = model.generate(**tokenizer("the film was", return_tensors="pt"), max_new_tokens=2, do_sample=False)
    assert written[0, -2:].tolist() == [tokenizer.convert_tokens_to_ids("good"), *end_token_ids(model, tokenizer)]


def test_a_scorer_that_tells_nothing_apart_is_said(model_folder: str, tmp_path: Path) -> None:
    task = SentimentTask(
        model=model_folder,
        prompts={"templates": ["a film", "a plot"]},
        scorer={"name": "words", "positive": ["sunny"], "negative": ["rainy"]},
        second="words",
        held_out=1,
        generation={"samples": 2, "max_new_tokens": 2},
    )
    with pytest.raises(ValueError, match=r"1 training prompts gave no pair.*ask for more `samples`"):
        task.prepare(tmp_path, 0)


def test_best_is_set_against_worst() -> None:
    responses = [Scored(*fields) for fields in (("a", 0), ("b", 1, "."), ("c", -1), (" ", 5), ("d", 0.5), ("e", 0.5))]
    pairs = [(row["chosen"], row["rejected"]) for row in Pairing(most=4).rows("p", responses)]
    assert pairs == [("b.", "c"), ("d", "a")]
    assert [row["chosen"] for row in Pairing(most=1).rows("p", responses)] == ["b."]
    assert [row["chosen"] for row in Pairing(min_gap=0.6).rows("p", responses)] == ["b."]
    assert list(Pairing().rows("p", [Scored("a", 1), Scored("b", 1)])) == []


def test_the_seed_decides_which_prompts_are_held_out() -> None:
    prompts = [f"p{number}" for number in range(20)]
    train, held_out = split(prompts, held_out=4, train=10, seed=0)
    assert (len(train), len(held_out)) == (10, 4)
    assert not set(train) & set(held_out)
    assert split(prompts, held_out=4, train=10, seed=0) == (train, held_out)
    assert split(prompts, held_out=4, train=10, seed=1)[1] != held_out
    with pytest.raises(ValueError, match="20 prompts are to be held out, but there are 20"):
        split(prompts, held_out=20, train=1, seed=0)


def test_the_defaults() -> None:
    task = SentimentTask()
    assert (task.ranking, task.judging) == (WordsScorer(), VaderScorer())
    given = SentimentTask(model="m", prompts="p", second="words")
    assert (given.ranking, given.judging) == (VaderScorer(), WordsScorer())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompts": "x.txt"}, "`prompts` is set, but `model` is not"),
        ({"end_token": "<s>"}, "`end_token` is set, but `model` is not"),
        ({"model": "m", "second": "vader"}, "set one of `prompts`, `pairs` and `rated`"),
        (
            {"model": "m", "second": "vader", "prompts": "x", "rated": {"source": "y"}},
            "set one of `prompts`, `pairs` and `rated`",
        ),
        ({"model": "m", "prompts": "x"}, "set `second`"),
        ({"model": "m", "prompts": "x", "second": "vader"}, "`second` is what ranks the pairs, vader"),
        ({"second": "words"}, "`second` is what ranks the pairs, words"),
        ({"second": "vader", "model": "m", "prompts": "x", "scorer": "words", "sft": {"steps": 1}}, "both, or neither"),
        ({"model": "m", "pairs": "y", "scorer_judges": True}, "`scorer_judges` is set: set `scorer`"),
        ({"scorer_judges": True, "second": "vader"}, "`scorer_judges` is set: set `scorer`, and leave `second` out"),
        ({"pairs": "y"}, "`pairs` is set, but `model` is not"),
        ({"second": "vadr"}, "second: no Scorer named 'vadr'. Did you mean 'vader'"),
    ],
)
def test_settings_that_do_not_go_together(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        resolve_task({"name": "sentiment", **fields})


def test_what_ends_a_text_has_to_be_one_token(model_folder: str, tmp_path: Path) -> None:
    assert save_without_eos(model_folder, tmp_path / "a") == "<eos>"
    assert save_without_eos(model_folder, tmp_path / "b", end_token="<pad>") == "<pad>"
    for word in ("<s>", "the end"):
        with pytest.raises(ValueError, match=r"does not read .* as one token"):
            save_without_eos(model_folder, tmp_path / "c", end_token=word)
    with pytest.raises(ValueError, match="the tokenizer has no end-of-text token; name what ends a text"):
        save_without_eos(str(tmp_path / "a"), tmp_path / "d")


def test_pairs_of_ones_own_are_split_by_prompt(model_folder: str, tmp_path: Path) -> None:
    with (tmp_path / "pairs.jsonl").open("w") as file:
        for prompt in ("the film", "the plot", "they saw", "it was"):
            for good in ("good", "fine"):
                file.write(json.dumps({"prompt": prompt, "chosen": f" {good}", "rejected": " bad"}) + "\n")
    fields = {"model": model_folder, "pairs": str(tmp_path / "pairs.jsonl"), "held_out": 2, "scorer_judges": True}
    words = {"name": "words", "positive": ["good"], "negative": ["bad"]}
    task = SentimentTask(**fields, scorer=words, generation={"samples": 2, "max_new_tokens": 4})
    material = task.prepare(tmp_path / "material", 0)
    train, held_out = rows(material.train), rows(material.held_out)
    assert (len(train), len(held_out), material.model) == (4, 2, model_folder)
    assert [row["prompt"] for row in held_out] == [row["prompt"] for row in rows(material.prompts)]
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in held_out}
    assert task.judging == task.ranking
    assert [metric.name for metric in task.metrics] == [
        "reward", "sequence_kl", "tokens", "ended", "distinct_words", "auroc_w", "auroc_v"
    ]  # fmt: skip


def test_fields_that_are_not_set_are_not_written_down() -> None:
    """Runs that were finished before there were such fields are found again by their digest."""
    written = SentimentTask().model_dump(mode="json")
    assert not {"pairs", "scorer_judges"} & set(written)
    assert "scorer_judges" in SentimentTask(scorer_judges=True).model_dump(mode="json")


def test_the_scorers_words_are_marked() -> None:
    assert SentimentTask().marks([" The", " film", " was", " dull", "."]) == [False, False, False, True, False]
    rated_by_classifier = SentimentTask(
        model="m", prompts="p", scorer={"name": "reviews", "reviews": "r"}, second="words"
    )
    assert rated_by_classifier.marks is None


def test_a_lexicon_of_its_own_marks_the_pairs() -> None:
    lexicon = {"name": "words", "positive": ["fine"], "negative": ["sad"]}
    task = SentimentTask(model="m", prompts="p", lexicon=lexicon, second="words")
    responses = [Scored(" so fine", 1.0), Scored(" sad, fine", 0.0)]
    (row,) = task.pairing.rows("It was", responses, task.lexicon)
    assert row["chosen_weights"] == [{"start": 4, "end": 8, "value": 1.0}]
    assert [span["start"] for span in row["rejected_weights"]] == [1, 6]
    with pytest.raises(ValidationError, match="a scorer with words, `words` or `vader`"):
        SentimentTask(model="m", prompts="p", lexicon={"name": "reviews", "reviews": "r"}, second="words")
    with pytest.raises(ValidationError, match="your own `pairs` have their marks in a column"):
        SentimentTask(model="m", pairs="p", lexicon=lexicon, second="words")


def test_vader_marks_the_words_of_its_lexicon() -> None:
    task = SentimentTask(model="m", prompts="p", second="words")
    assert task.marks is not None
    assert task.marks([" A", " very", " sad", " d", "og", "."]) == [False, False, True, False, False, False]
    assert [span.value for span in VaderScorer().spans(" a sad, happy dog")] == [-2.1, 2.7]
