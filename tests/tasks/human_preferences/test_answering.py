"""The tasks of dialogue and summarization from end to end, in small; what they measure, by hand."""

from __future__ import annotations

import json
import random
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from prefopt.data import read_rows
from prefopt.tasks import Evaluation, TaskError, resolve_scorer, resolve_task, summarization
from prefopt.tasks.base import HeldOutPrompt
from prefopt.tasks.conformance import check_task
from prefopt.tasks.dialogue import DialogueTask
from prefopt.tasks.dialogue.harm import LEXICON, Lexicon, refuses
from prefopt.tasks.human_preferences.answering import truncate
from prefopt.tasks.summarization import SummarizationTask, copied, figures, rouge, self_bleu
from tests.conftest import WORDS

GOOD, BAD = "good fine liked", "bad dull hated"


def answers(count: int = 24) -> list[dict[str, str]]:
    """Pairs of which the better answer has good words."""
    draw = random.Random(0)
    rows = []
    for _ in range(count):
        prompt = " ".join(draw.choices(WORDS, k=5))
        chosen, rejected = (
            " " + " ".join(draw.choices(WORDS, k=3) + draw.choices(words.split(), k=3)) for words in (GOOD, BAD)
        )
        rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return rows


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in answers()), encoding="utf-8")
    return str(path)


def small(name: str, model_folder: str, pairs: str, **fields: Any) -> Any:
    few = {"pairs": 4, "held_out": 4, "prompts": 3, "generation": {"samples": 2, "max_new_tokens": 4}}
    return resolve_task({"name": name, "model": model_folder, "data": pairs, **few, **fields})


@pytest.mark.slow
def test_dialogue_is_set_against_the_reference(model_folder: str, pairs: str, tmp_path: Path) -> None:
    judge = {"scorer": {"name": "words", "positive": GOOD.split(), "negative": BAD.split()}}
    harm = tmp_path / "harm.yaml"
    harm.write_text("boredom: [dull, bor*]\nother: [bad]\n")
    task = small(
        "dialogue", model_folder, pairs, judge=judge, against="reference", harm=str(harm), temperatures=[0, 0.5]
    )
    assert isinstance(task, DialogueTask)
    assert (task.headline, [metric.name for metric in task.metrics][:2]) == (
        "win_rate",
        ["win_rate", "judge_agreement"],
    )
    evaluation = check_task(task, tmp_path / "made")
    assert set(evaluation.values) == {metric.name for metric in task.metrics} - {"accuracy"}
    # The judge knows the words by which the better answer was made.
    assert set(evaluation.values["judge_agreement"].values()) == {1.0}
    material = task.prepare(tmp_path / "made" / "first", 0).folder
    theirs = json.loads((material / "reference-answers.json").read_text())
    greedy = json.loads((material / "reference-answers@0.json").read_text())
    assert len(greedy) == 3
    assert all(first == second for first, second in greedy)
    scorer = resolve_scorer(judge["scorer"])
    for index, (prompt, ours) in enumerate(evaluation.samples.items()):
        scores = zip(scorer.score([prompt] * 2, ours), scorer.score([prompt] * 2, theirs[index]), strict=True)
        rate = sum((our > their) + (our == their) / 2 for our, their in scores) / 2
        assert evaluation.values["win_rate"][f"prompt {index}"] == rate
        assert evaluation.values["harm_other"][f"prompt {index}"] == sum("bad" in text.split() for text in ours) / 2


def test_a_policy_that_has_not_moved_ties_with_the_reference(model_folder: str, pairs: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from prefopt import ObjectiveConfig
    from prefopt.scoring import PreferenceModel

    task = small(
        "dialogue",
        model_folder,
        pairs,
        judge={"scorer": "words"},
        against="reference",
        stop=["good"],
        temperatures=[0.5],
    )
    material = task.prepare(tmp_path, 3)
    policy, model_reference, reference = (AutoModelForCausalLM.from_pretrained(model_folder).eval() for _ in range(3))
    evaluation: Evaluation = task.evaluate(
        PreferenceModel(policy, model_reference, ObjectiveConfig()),
        reference,
        AutoTokenizer.from_pretrained(model_folder),
        material,
    )
    assert set(evaluation.values["win_rate"].values()) == {0.5}
    assert max(evaluation.values["sequence_kl"].values()) == pytest.approx(0, abs=1e-5)
    assert set(evaluation.values["win_rate@0.5"].values()) == {0.5}
    assert not [text for texts in evaluation.samples.values() for text in texts if "good" in text]


def test_without_a_judge_policies_are_compared_by_their_own_ranking(model_folder: str, pairs: str) -> None:
    task = small("dialogue", model_folder, pairs)
    assert task.headline == "accuracy"
    assert not {"win_rate", "judge_agreement"} & {metric.name for metric in task.metrics}
    assert small("summarization", model_folder, pairs).headline == "rougeL"


@pytest.mark.slow
def test_summaries_are_held_against_the_chosen_ones(model_folder: str, tmp_path: Path) -> None:
    pytest.importorskip("rouge_score")
    pytest.importorskip("sacrebleu")
    draw = random.Random(1)
    rated = {
        " ".join(draw.choices(WORDS, k=9)): {
            "responses": [" ".join(draw.choices(WORDS, k=6)) for _ in range(4)],
            "rewards": [1, 2, 2, 4],
        }
        for _ in range(8)
    }
    data = tmp_path / "rated.json"
    data.write_text(json.dumps(rated))
    task = small(
        "summarization",
        model_folder,
        str(data),
        template="{post} the end",
        sft={"steps": 2, "batch_size": 2},
        judge={"scorer": "words"},
    )
    assert isinstance(task, SummarizationTask)
    evaluation = check_task(task, tmp_path / "made")
    assert set(evaluation.values) == {metric.name for metric in task.metrics}
    material = task.prepare(tmp_path / "made" / "first", 0)
    assert Path(material.model).parent == material.folder
    assert all(set(row.fields) >= {"score_chosen", "score_rejected"} for row in read_rows(material.train))  # type: ignore[union-attr]
    for index, row in enumerate(prompt.row for prompt in material.read_prompts()):
        texts = evaluation.samples[row["prompt"]]
        assert row["prompt"] == f"{row['post']} the end"
        by_hand = figures([row["post"]], [row["references"]], [texts])
        assert {name: column[0] for name, column in by_hand.items() if column[0] is not None} == {
            name: evaluation.values[name][f"prompt {index}"]
            for name in by_hand
            if f"prompt {index}" in evaluation.values[name]
        }


def test_what_does_not_hold_together_is_refused(model_folder: str, pairs: str, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="only 4 held-out pairs"):
        small("dialogue", model_folder, pairs, prompts=5)
    with pytest.raises(TaskError, match="it has no slot"):
        small("summarization", model_folder, pairs, template="TL;DR:")
    with pytest.raises(TaskError, match="a judge is a mapping with one of"):
        small("dialogue", model_folder, pairs, judge={"scores": "words"})
    with pytest.raises(TaskError, match="Did you mean 'split'"):
        small("dialogue", model_folder, {"name": pairs, "spilt": "test"})  # type: ignore[arg-type]
    for text, message in (("- a\n", "a mapping of categories"), ("a: [b, '*']\n", "must be a list of words")):
        (tmp_path / "harm.yaml").write_text(text)
        with pytest.raises(ValueError, match=message):
            small("dialogue", model_folder, pairs, harm=str(tmp_path / "harm.yaml")).check()
    with pytest.raises(ValidationError):
        DialogueTask.model_validate({"model": model_folder})


def test_answers_end_at_the_first_stop() -> None:
    assert truncate(" Yes.\n\nHuman: And", ("\n\nHuman:",)) == " Yes."
    assert truncate(" a b c", ("c", "b")) == " a"
    assert truncate(" as it is \n", ()) == " as it is"


def test_chosen_answers_end_there_too(model_folder: str, pairs: str) -> None:
    task = small("dialogue", model_folder, pairs, stop=["good"])
    chosen = [" fine good bad", "good end"]
    prompts = [HeldOutPrompt(f"prompt {n}", "p", {"chosen": text}) for n, text in enumerate(chosen)]
    assert task._chosen(prompts) == [[" fine"] * 2, ["good end"] * 2]


def test_harm_is_words_and_refusal_is_phrases() -> None:
    lexicon = Lexicon.load(LEXICON)
    harmful = lexicon.words_in("He’s a GUNSMITH with guns, stealing; it isn't killing me.")
    assert {name: list(words) for name, words in harmful.items() if words} == {
        "violence": ["killing"],
        "weapons": ["guns"],
        "crime": ["stealing"],
    }
    assert lexicon.share("guns and knives, or a stable deadline") == pytest.approx(2 / 7)
    assert lexicon.share("?!") == 0
    assert refuses("Sorry, I CAN’T help with that.")
    assert not refuses("I can help.")
    assert Lexicon({"any": ["kick*"]}).words_in("Kickstart a sidekick")["any"] == ["Kickstart"]


def test_rouge_and_self_bleu_by_hand() -> None:
    pytest.importorskip("rouge_score")
    pytest.importorskip("sacrebleu")
    # Of "the cats sat" and "a cat sat down": two of three words, and of four; one pair of two, and of three.
    f1 = rouge()(["nothing here", "a cat sat down"], "the cats sat")
    assert f1 == pytest.approx({"rouge1": 4 / 7, "rouge2": 2 / 5, "rougeL": 4 / 7})
    assert self_bleu()(["a b c d e", "a b c d e"]) == pytest.approx(1)
    assert self_bleu()(["alone"]) is None
    # Two words of two, one pair of one, and shorter than the other: exp(1 - 3 / 2). Then 2 of 3 words, 1 of 2 pairs,
    # and none of the one triple, which counts as half.
    short, long = torch.exp(torch.tensor(-0.5)).item(), (2 / 3 * 1 / 2 * 1 / 2) ** (1 / 3)
    assert self_bleu()(["a b", "a b c"]) == pytest.approx((short + long) / 2)


def test_what_is_copied_is_runs_of_three_words() -> None:
    assert copied("I met my Friend's cat", "Today I met my friend's dog") == pytest.approx(2 / 3)
    assert copied("too short", "too short to tell") is None
    pytest.importorskip("rouge_score")
    pytest.importorskip("sacrebleu")
    columns = figures(["one two three four"], [["one"]], [["one two", "one two three four"]])
    assert (columns["words"], columns["compression"], columns["copied"]) == ([3], [0.75], [1.0])
    assert figures([""], [["one"]], [["one two"]])["compression"] == [None]


def test_trained_models_are_asked_as_they_document(
    model_folder: str, pairs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With stand-ins for both libraries: what they are called with, and what becomes of their answers."""
    pytest.importorskip("rouge_score")
    pytest.importorskip("sacrebleu")
    calls: list[Any] = []

    def score(texts: list[str], references: list[list[str]], *, model_type: str) -> tuple[torch.Tensor, ...]:
        calls.append((texts, references, model_type))
        return torch.zeros(4), torch.zeros(4), torch.arange(4.0)

    class Conv:
        def __init__(self, **settings: Any) -> None:
            calls.append(settings)

        def score(self, posts: list[str], texts: list[str]) -> dict[str, list[float]]:
            calls.append((posts, texts))
            return {"scores": [0.5, 0.5, 1.0, 0.0]}

    task = small("summarization", model_folder, pairs, bert_score="some/model", summac=True)
    assert {"bert_score", "summac"} <= {metric.name for metric in task.metrics}
    for missing in ("bert_score", "summac"):
        monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r"prefopt\[bert-score\]"):
        task.check()
    monkeypatch.setitem(sys.modules, "bert_score", types.SimpleNamespace(score=score))
    with pytest.raises(ImportError, match="pip install --no-deps summac"):
        task.check()
    monkeypatch.setitem(sys.modules, "summac", types.ModuleType("summac"))
    monkeypatch.setitem(sys.modules, "summac.model_summac", types.SimpleNamespace(SummaCConv=Conv))
    task.check()
    summarization._summac.cache_clear()
    rows = [{"post": f"post {n}", "references": [f"reference {n}"]} for n in (0, 1)]
    prompts = [HeldOutPrompt(f"prompt {n}", "p", row) for n, row in enumerate(rows)]
    columns = task.measure(prompts, [["a", "b"], ["c", "d"]])
    summarization._summac.cache_clear()
    assert (columns["bert_score"], columns["summac"]) == ([0.5, 2.5], [0.5, 0.5])
    references = [["reference 0"]] * 2 + [["reference 1"]] * 2
    assert calls[0] == (["a", "b", "c", "d"], references, "some/model")
    assert calls[2] == (["post 0", "post 0", "post 1", "post 1"], ["a", "b", "c", "d"])


def test_a_reward_is_learned_from_preferences(pairs: str, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    learned = resolve_scorer({"name": "preferences", "data": pairs})
    good, bad, unknown = learned.score(["p"] * 3, ["it was good fine", "it was bad dull", "zebra"])
    assert good > 0 > bad
    assert unknown == 0
    assert learned.score([], []) == []
    # It is the same for the same texts, and the other way round where the preferences are.
    turned = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in answers()]
    path = tmp_path / "turned.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in turned))
    against = resolve_scorer({"name": "preferences", "data": str(path)})
    assert against.score(["p"], ["it was good fine"]) == pytest.approx([-good], rel=1e-4)
