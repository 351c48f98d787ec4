"""The evaluation harness as a task: what it measures is known before its data is read, and its figures are ours."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import datasets
import pytest

from prefopt.tasks import TaskError, resolve_task
from prefopt.tasks.conformance import check_task
from prefopt.tasks.lm_eval import harness

FILMS = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/films.jsonl}}}}
test_split: test
doc_to_text: "{{{{question}}}}"
"""
CHOICE = """
output_type: multiple_choice
doc_to_target: "{{answer}}"
doc_to_choice: "{{choices}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: mcc}
"""
ROLLING = """
output_type: loglikelihood_rolling
doc_to_target: "{{question}}"
"""
GENERATED = """
output_type: generate_until
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: ["."], max_gen_toks: 2}
filter_list:
  - {name: word, filter: [{function: regex, regex_pattern: "([a-z]+)"}, {function: take_first}]}
  - {name: all, filter: [{function: take_first}]}
metric_list: [{metric: exact_match, higher_is_better: true, aggregation: mean}]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """YAML files of three tasks, a group and a tag, and pairs to train on."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    documents = [{"question": f"film {n}", "choices": ["good", "bad"], "answer": n % 2} for n in range(6)]
    (folder / "films.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents))
    for name, rest in {"choice": f"{CHOICE}tag: marked", "rolling": ROLLING, "generated": GENERATED}.items():
        (folder / f"{name}.yaml").write_text(FILMS.format(name=name, folder=folder) + rest)
    (folder / "films.yaml").write_text("group: films\ntask: [rolling, inner]\n")
    (folder / "inner.yaml").write_text("group: inner\ntask: [generated]\n")
    (folder / "changed.yaml").write_text("group: changed\ntask: [{task: generated, num_fewshot: 1}]\n")
    (folder / "unsafe.yaml").write_text("task: unsafe\nunsafe_code: true\n")
    (folder / "python.yaml").write_text("task: python\nclass: !function some.Class\n")
    pairs = [{"prompt": f"film {n}", "chosen": " good", "rejected": " bad"} for n in range(12)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    for cached in (harness.manager, harness.figures):
        cached.cache_clear()
    return folder


def fields(folder: Path, *tasks: str, **others: Any) -> dict[str, Any]:
    data = str(folder.parent / "pairs.jsonl")
    base = {"name": "lm_eval", "tasks": tasks, "include_path": str(folder), "model": "m", "data": data}
    return base | {"held_out": 4, "prompts": 2, "generation": {"max_new_tokens": 4}} | others


def test_without_the_harness_the_error_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(TaskError, match=r"the task lm_eval needs lm-eval, .*pip install 'prefopt\[lm-eval\]'"):
        resolve_task(fields(folder, "choice"))


needs_harness = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None,
    reason="lm-eval is not installed, and brings many others; install prefopt[lm-eval] to run this",
)


@needs_harness
def test_metrics_are_known_without_data(folder: Path) -> None:
    task = resolve_task(fields(folder, "choice", "films", "choice"))
    assert [(metric.name, metric.better) for metric in task.metrics[:-3]] == [
        ("choice/acc", "higher"),
        ("choice/mcc", "higher"),
        ("rolling/word_perplexity", "lower"),
        ("rolling/byte_perplexity", "lower"),
        ("rolling/bits_per_byte", "lower"),
        ("generated/exact_match/word", "higher"),
        ("generated/exact_match/all", "higher"),
    ]
    assert task.headline == "choice/acc"
    marked = resolve_task(fields(folder, "marked"))
    assert [metric.name for metric in marked.metrics[:2]] == ["choice/acc", "choice/mcc"]


@needs_harness
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ["changed"]}, "the group 'changed' changes the tasks in it; name the tasks themselves"),
        ({"tasks": ["unsafe"]}, "'unsafe' runs code that the model writes"),
        ({"tasks": ["python"]}, "'python' is written in Python"),
        ({"include_path": "nowhere"}, "include_path: nowhere is no folder"),
        ({"limit": 0}, "limit: "),
        ({"prompts": 5}, "`prompts` is 5, but there are only 4 held-out pairs"),
        ({"tasks": ["generatd"]}, "no YAML file of one that can be read. Did you mean 'generated'"),
    ],
)
def test_what_cannot_be_had_is_named(
    changes: dict[str, Any], message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = harness.manager
    monkeypatch.setattr(harness, "manager", lambda path, defaults: manager(path, False))  # the defaults take long
    with pytest.raises(TaskError, match=message):
        resolve_task(fields(folder, "choice") | changes)


@needs_harness
def test_its_figures_are_ours_item_by_item(folder: Path, model_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import lm_eval

    evaluate, reports = lm_eval.evaluate, []
    monkeypatch.setattr(lm_eval, "evaluate", lambda *a, **k: reports.append(evaluate(*a, **k)) or reports[-1])
    task = resolve_task(fields(folder, "choice", "films", model=model_folder, num_fewshot=1))
    evaluation = check_task(task, folder.parent / "checked")
    assert list(evaluation.values["choice/acc"]) == [f"choice {n}" for n in range(6)]
    assert list(evaluation.values["choice/mcc"]) == ["choice"]  # not a mean over items
    assert list(evaluation.values["rolling/bits_per_byte"]) == ["rolling"]
    assert list(evaluation.values["generated/exact_match/all"]) == [f"generated {n}" for n in range(6)]
    assert list(evaluation.values["sequence_kl"]) == ["prompt 0", "prompt 1"]
    theirs = reports[-1]
    for figure in task.figures():
        ours = evaluation.values[figure.described.name].values()
        assert math.isclose(fmean(ours), theirs["results"][figure.task][f"{figure.metric},{figure.filter}"]), figure
    assert theirs["n-shot"]["choice"] == 1
