from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM

from prefopt.data.token_texts import token_texts
from prefopt.demo import DemoConfig
from prefopt.demo.evaluation import sentiment_tokens
from prefopt.demo.progress import Stages
from prefopt.demo.sampling import Prompt, Sample, preference_pairs, sample
from prefopt.pages.charts import line_chart
from prefopt.tasks.models.language_model import word_tokenizer
from prefopt.tasks.scorers.corpus import WORDS, corpus_prompts, corpus_reviews
from prefopt.tasks.scorers.word_lists import Lexicon

FEW = Lexicon(positive={"good", "Fine"}, negative={"bad", "so-so"})


def test_the_corpus_is_its_seeds() -> None:
    assert corpus_reviews(50, seed=3) == corpus_reviews(50, seed=3) != corpus_reviews(50, seed=4)
    assert corpus_prompts(3) == corpus_prompts(3) != corpus_prompts(4)
    assert sorted(corpus_prompts(3)) == sorted(set(corpus_prompts(4)))


def test_reviews_take_both_sides_about_equally() -> None:
    scores = [WORDS.score(review) for review in corpus_reviews(2000, seed=0)]
    assert abs(sum(scores) / len(scores)) < 0.06
    assert sum(score > 0.5 for score in scores) > 500
    assert sum(score < -0.5 for score in scores) > 500


def test_prompts_take_no_side_and_begin_sentences_of_the_corpus() -> None:
    prompts = corpus_prompts(0)
    text = " ".join(corpus_reviews(5000, seed=0))
    assert all(WORDS.score(prompt) == 0 and not prompt.endswith((" ", ".")) for prompt in prompts)
    assert sum(prompt + " " in text for prompt in prompts) > 0.95 * len(prompts)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("", 0),
        ("Neither here nor there.", 0),
        ("GOOD, fine!", 1),
        ("goodness, badly", 0),
        ("good good bad", 1 / 3),
        ("so-so but good", 0),
        ("bad.", -1),
    ],
)
def test_the_score_is_the_net_share_of_sentiment_words(text: str, score: float) -> None:
    assert FEW.score(text) == pytest.approx(score)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("positive: [good", "neither YAML nor JSON"),
        ("[good, bad]", "valid dictionary"),
        ("positive: [good]", "negative: Field required"),
        ("{positive: [good], negative: [Good]}", "'good' is both"),
        ("{positive: [good], negative: []}", "negative: the list is empty"),
        ("{positive: [very good], negative: [bad]}", "'very good' is not"),
        ("{positive: [good], negative: [bad], neutral: [x]}", "neutral: no such field"),
    ],
)
def test_a_word_list_that_cannot_be_used_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "words.yaml").write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        Lexicon.load(tmp_path / "words.yaml")
    assert "words.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompts": __file__}, "Set `model` as well"),
        ({"pairs": "pairs.jsonl"}, "Set `model` as well"),
        ({"model": "gpt2"}, "set `prompts`"),
        ({"model": "gpt2", "prompts": "nowhere.txt"}, "there is no file nowhere.txt"),
        ({"words": "nowhere.yaml"}, "there is no file nowhere.yaml"),
        ({"samples_per_prompt": 3}, "multiple of 2"),
        ({"step": 3}, "Extra inputs"),
    ],
)
def test_settings_that_cannot_work_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DemoConfig(**fields)


def test_the_tokenizer_gives_every_review_back() -> None:
    reviews = corpus_reviews(300, seed=0)
    tokenizer = word_tokenizer(reviews, positions=256)
    for review in reviews[:50]:
        ids = tokenizer(review)["input_ids"]
        assert tokenizer.decode(ids) == review
        assert "".join(token_texts(ids[:3], ids[3:], tokenizer)) == review[len(tokenizer.decode(ids[:3])) :]
    ids = tokenizer("The film was dull.")["input_ids"]
    assert token_texts(ids[:2], ids[2:], tokenizer) == [" was", " dull", "."]


def test_pairs_are_best_against_worst_while_the_scores_differ() -> None:
    def samples(name: str, **scores: float) -> list[Sample]:
        return [Sample(Prompt(name, (1,)), text, (2,), score) for text, score in scores.items()]

    rows = preference_pairs(
        [
            *samples("p", a=0, b=1, c=-1, d=0),
            *samples("q", e=0.5, f=0.5, g=0.5, h=0.5),
            *samples("r", **{" ": -1}, i=0.1, j=0.2, k=0.1),
        ],
        per_prompt=4,
    )
    assert [tuple(row.values()) for row in rows] == [("p", "b", "c"), ("r", "j", "k")]


def tiny(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    shape = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    special = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=11, initializer_range=0.5, **shape, **special)).eval()


def test_samples_do_not_depend_on_the_global_seed_and_end_at_the_end_of_text() -> None:
    tokenizer = word_tokenizer(["a b c d e f g h"], positions=256)
    model = tiny(0)
    model.config.vocab_size = len(tokenizer)
    settings = {"per_prompt": 4, "max_new_tokens": 6, "seed": 5}
    prompts = [Prompt.of(text, tokenizer) for text in ("a b c", "d")]
    with Stages(Console(quiet=True), 1).stage("sampling", 2) as stage:
        torch.manual_seed(1)
        first = sample(model, tokenizer, prompts, FEW, **settings, stage=stage)
        torch.manual_seed(2)
        assert sample(model, tokenizer, prompts, FEW, **settings, stage=stage) == first
    assert [one.prompt for one in first] == [prompts[0]] * 4 + [prompts[1]] * 4
    for one in first:
        assert 1 <= len(one.ids) <= 6
        assert tokenizer.eos_token_id not in one.ids[:-1]


def test_a_word_of_several_tokens_is_marked_whole() -> None:
    assert sentiment_tokens([" so", " go", "od", ",", " good", "ness", "</s>"], FEW) == [0, 1, 1, 0, 0, 0, 0]


def test_a_chart_spans_its_plot() -> None:
    chart = line_chart("loss", {"a": [(1, 0.7), (10, 0.2)], "b": [(1, float("nan")), (10, -0.1)]}, takes_in=(0.0, 1.0))
    first, second = chart.lines
    (_, _), (x, _) = [tuple(map(float, point.split(","))) for point in first.points.split()]
    assert x == chart.right
    assert first.last == "0.2"
    assert len(second.points.split()) == 1
    labels = [float(tick.label) for tick in chart.y_ticks]
    assert labels[0] <= -0.1
    assert labels[-1] == 1.0
    assert all(chart.top <= tick.at <= chart.bottom for tick in chart.y_ticks)
