"""Scorers: what they say of texts, where they read it from, and how they fail."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from prefopt.data import DataError
from prefopt.tasks import Scorer, ScorerError, available_scorers, resolve_scorer
from prefopt.tasks.scorers import ReviewsScorer, VaderScorer, WordsScorer, linear, sequence_classification, words
from prefopt.tasks.scorers.words import WORDS
from prefopt.testing import temporary_plugin

GOOD, BAD = " a wonderful, lovely film", " a terrible, boring film"


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    caches = (linear._classifier, words._analyzer, sequence_classification.load)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def score(spec: object, *responses: str) -> list[float]:
    return resolve_scorer(spec).score(["It was"] * len(responses), responses)


def test_scorers_are_found_by_name_and_are_values() -> None:
    assert set(available_scorers()) == {"vader", "words", "classifier", "preferences", "reward_model", "reviews"}
    assert resolve_scorer("words") == WordsScorer() == resolve_scorer(WordsScorer())
    assert resolve_scorer({"name": "reviews", "reviews": "x"}) == ReviewsScorer(reviews="x")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("vadar", "no Scorer named 'vadar'. Did you mean 'vader'\\? Installed: classifier"),
        ({"name": "reviews"}, "reviews: reviews: it is needed"),
        (
            {"name": "classifier", "model": "x", "labels": "y"},
            "no such field in ClassifierScorer. Did you mean 'label'",
        ),
        ({"name": "words", "file": "a.yaml", "positive": ["good"]}, "leave one of them out"),
        ({"name": "words", "positive": ["good"]}, "the list is empty"),
        ({"name": "words", "positive": ["good"], "negative": ["Good"]}, "'good' is both"),
        (3, "a scorer is given by name"),
    ],
)
def test_a_scorer_that_cannot_be_had_is_named(value: object, message: str) -> None:
    with pytest.raises(ScorerError, match=message):
        resolve_scorer(value)


class LengthScorer(Scorer):
    name: Literal["length"] = "length"

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        return [float(len(response)) for response in responses]


def test_plugins_bring_scorers() -> None:
    with temporary_plugin(LengthScorer):
        assert score("length", "a", "abc") == [1, 3]


def test_words(tmp_path: Path) -> None:
    assert score("words", GOOD, BAD, " a film", " terrible but lovely, wonderful") == pytest.approx([1, -1, 0, 1 / 3])
    assert WordsScorer().lexicon == WORDS
    assert score({"name": "words", "positive": ["Film"], "negative": ["dull"]}, GOOD) == [1]
    (tmp_path / "words.yaml").write_text("{positive: [terrible], negative: [lovely]}")
    assert score({"name": "words", "file": str(tmp_path / "words.yaml")}, GOOD, BAD) == [-1, 1]


def test_vader() -> None:
    pytest.importorskip("vaderSentiment")
    good, bad, neither, negated = score("vader", GOOD, BAD, " a film", " not a wonderful film")
    assert 1 >= good > 0 == neither > bad >= -1
    assert negated < 0


def test_a_library_that_is_not_there_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    with pytest.raises(ImportError, match=r"scorer vader needs vaderSentiment.*pip install 'prefopt\[scorers\]'"):
        VaderScorer().score([""], ["good"])
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(ImportError, match=r"scorer reviews needs scikit-learn.*pip install 'prefopt\[scorers\]'"):
        ReviewsScorer(reviews="x").score([""], ["good"])


def _archive(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("films/README.txt", "a lovely collection")
        for number, thing in enumerate(("film", "plot", "cast", "end")):
            archive.writestr(f"films/pos/{number}.txt", f"a wonderful and lovely {thing}")
            archive.writestr(f"films/neg/{number}.txt", f"a terrible and boring {thing}")
    return path


def test_reviews_from_a_zip_a_folder_and_rows_are_the_same(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    archive = _archive(tmp_path / "films.zip")
    with zipfile.ZipFile(archive) as read:
        read.extractall(tmp_path / "folder")
    rows = tmp_path / "rows.jsonl"
    with rows.open("w") as file:
        # In the archive's own order, as the regression is solved step by step.
        for side, (number, label) in (
            (s, numbered) for s in ("neg", "pos") for numbered in enumerate((0, 0, False, "negative"))
        ):
            content = (tmp_path / "folder" / "films" / side / f"{number}.txt").read_text()
            file.write(json.dumps({"text": content, "label": label if side == "neg" else 1}) + "\n")
    scores = [score({"name": "reviews", "reviews": str(p)}, GOOD, BAD) for p in (archive, tmp_path / "folder", rows)]
    assert scores[0][0] > 0.6 > 0.4 > scores[0][1]
    assert scores[1] == scores[0]
    assert scores[2] == pytest.approx(scores[0], abs=1e-6)
    assert score({"name": "reviews", "reviews": str(archive)}) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", '{"text": "good", "label": "fine"}\n', "found the label 'fine'"),
        ("rows.jsonl", '{"text": "good", "mark": 1}\n', "rows.jsonl:1: found no field 'label', only mark, text"),
        ("rows.jsonl", '{"text": "good", "label": 1}\n', "texts of one label only"),
        ("notes/all.txt", "good", "none under pos/ or neg/"),
    ],
)
def test_reviews_that_cannot_be_used(tmp_path: Path, name: str, content: str, message: str) -> None:
    pytest.importorskip("sklearn")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content)
    source = tmp_path / name
    with pytest.raises((DataError, ValueError), match=message):
        score({"name": "reviews", "reviews": str(source if source.suffix == ".jsonl" else source.parent)}, GOOD)


def classifier(
    folder: Path, model_folder: str, *, labels: int, template: str | None = None
) -> tuple[str, torch.nn.Module]:
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.chat_template = template
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=labels,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.5,
    )
    if labels > 1:
        config.id2label = {0: "bad", 1: "good", 2: "neither"}
    model = LlamaForSequenceClassification(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder), model


@torch.no_grad()
def alone(model: torch.nn.Module, folder: str, text: str) -> torch.Tensor:
    return model(**AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")).logits[0]


def test_a_classifier_gives_the_probability_of_its_label(model_folder: str, tmp_path: Path) -> None:
    folder, model = classifier(tmp_path, model_folder, labels=3)
    texts = [" the film", " a dull and very bad plot", " good"]
    spec = {"name": "classifier", "model": folder, "label": "good", "batch_size": 2}
    for extra, before in (({}, ""), ({"with_prompt": True}, "It was")):
        expected = [float(alone(model, folder, before + text).softmax(-1)[1]) for text in texts]
        assert score(spec | extra, *texts) == pytest.approx(expected, abs=1e-6)
    cut = float(alone(model, folder, " a dull").softmax(-1)[1])
    assert score(spec | {"max_length": 2}, texts[1]) == pytest.approx([cut], abs=1e-6)
    assert score(spec) == []
    with pytest.raises(ValueError, match=r"has no label 'goods'. Did you mean 'good'\? Labels: bad, good, neither"):
        score(spec | {"label": "goods"}, " good")
    with pytest.raises(ValueError, match="has 3 labels, and a reward model has one"):
        score({"name": "reward_model", "model": folder}, " good")


def test_a_reward_model_reads_the_conversation(model_folder: str, tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m['content'] }} end {% endfor %}"
    plain, model = classifier(tmp_path / "plain", model_folder, labels=1)
    chat, _ = classifier(tmp_path / "chat", model_folder, labels=1, template=template)
    texts = [" the film was good", " bad"]
    for folder, shown in ((plain, "It was{}"), (chat, "It was end {} end ")):
        expected = [float(alone(model, folder, shown.format(text))) for text in texts]
        assert score({"name": "reward_model", "model": folder}, *texts) == pytest.approx(expected, abs=1e-5)
    last = float(alone(model, plain, "was good"))
    assert score({"name": "reward_model", "model": plain, "max_length": 2}, texts[0]) == pytest.approx([last], abs=1e-5)
    with pytest.raises(ValueError, match="has one label only; is it a reward_model"):
        score({"name": "classifier", "model": plain, "label": "good"}, " good")


def test_a_model_that_does_not_classify_is_refused(model_folder: str) -> None:
    with pytest.raises(ValueError, match=r"no model of sequence classification, as it has no weights for score"):
        score({"name": "reward_model", "model": model_folder}, " good")
