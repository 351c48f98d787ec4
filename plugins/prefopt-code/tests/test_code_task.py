"""The code task in small: what becomes of a reference's answers, and what is measured of a policy."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from prefopt_code import CodeTask, Sandbox, SandboxError, Verdict, pairs, sandbox
from prefopt_code.pairs import Answer
from prefopt_code.problems import Problem
from prefopt_code.task import COUNTS, VERDICTS
from transformers import AutoTokenizer

from prefopt.data import EncodingConfig, prepare, read_rows
from prefopt.data.quiet import quiet
from prefopt.tasks import Evaluation, Material, TaskError, resolve_task
from prefopt.tasks.conformance import check_task


def problem(number: int, answer: str = "film") -> Problem:
    """A problem that a word of the tiny model's solves, by chance."""
    return Problem(
        name=f"MBPP/{number}",
        form="MBPP",
        prompt=f"the {answer} was",
        solution=f"{answer}\n",
        start="film = 1; plot = actor = scene = 2\nresult = ",
        tests=f"assert result == {answer}",
        within=True,
        names=("result", answer),
    )


@pytest.fixture(scope="module")
def isolated(allowed: None) -> Sandbox:
    return Sandbox()


def test_answers_are_paired_by_their_verdicts(isolated: Sandbox) -> None:
    passed, failed, late = Verdict.PASSED, Verdict.FAILED, Verdict.TIMED_OUT
    answers = [
        [Answer("a", passed), Answer("b", failed), Answer("a", passed), Answer("c", late), Answer("d", passed)],
        [Answer("a", passed), Answer("b", passed)],
        [Answer("b", failed), Answer("", failed), Answer("c", failed)],
        [Answer(" ", failed)],
    ]
    problems = [problem(number) for number in range(4)]
    rows = pairs.make_pairs(problems, answers, isolated, most=2, end="</s>", seed=0)
    assert [row["problem"] for row in rows] == ["MBPP/0", "MBPP/0", "MBPP/2"]
    assert {row["chosen"] for row in rows[:2]} == {"a", "d"}
    assert {row["rejected"] for row in rows[:2]} == {"b", "c"}
    assert rows[2]["chosen"] == "film\n</s>"
    assert rows[2]["rejected"] in ("b", "c")
    assert [row["own_solution"] for row in rows] == [False, False, True]
    assert pairs.make_pairs(problems, answers, isolated, most=2, end="</s>", seed=0) == rows
    assert len(pairs.make_pairs(problems, answers, isolated, most=1, end="", seed=0)) == 2
    assert len(pairs.make_pairs(problems, answers, None, most=2, end="", seed=0)) == 2
    wrong = [problem(0, "unknown")]
    assert pairs.make_pairs(wrong, [[Answer("b", failed)]], isolated, most=2, end="", seed=0) == []
    counted = pairs.count_answers(answers, rows)
    assert counted["answers"]["passed"] == 5
    assert sum(counted["answers"].values()) == 11
    assert (counted["problems"], counted["problems_with_pairs"], counted["pairs"]) == (4, 2, 3)
    assert counted["pairs_with_own_solution"] == 1


def test_an_answer_that_was_cut_has_no_end(isolated: Sandbox) -> None:
    texts = [["film</s>", "film", "film\n# and so on</s>", "plot</s>"]]
    answers = pairs.run_answers([problem(0)], texts, ("\n#",), isolated, end="</s>")
    passed = Verdict.PASSED
    assert answers == [[("film</s>", passed), ("film", passed), ("film", passed), ("plot</s>", Verdict.FAILED)]]


def rows(count: int) -> list[dict[str, Any]]:
    """Problems that are solved by whatever Python can read: words of the tiny model's, one a line or none."""
    return [
        {"task_id": f"HumanEval/{n}", "prompt": f"the story {n} was\n", "canonical_solution": " \n", "entry_point": "f"}
        | {"test": ""}
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory, model_folder: str, isolated: Sandbox) -> CodeTask:
    folder = tmp_path_factory.mktemp("problems")
    mbpp = [
        {"task_id": n, "text": f"it was {n}", "code": "good = 1", "test_list": ["assert 1"], "test_setup_code": ""}
        for n in range(9)
    ]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in mbpp))
    return CodeTask(
        model=model_folder,
        data=str(folder / "problems.jsonl"),
        held_out=2,
        problems=3,
        examples=1,
        samples=3,
        pairs=2,
        generation={"samples": 3, "max_new_tokens": 2, "temperature": 0.6},
        ks=(1, 2, 10),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("code")


@pytest.fixture(scope="module")
def evaluation(task: CodeTask, folder: Path) -> Evaluation:
    """An evaluation of a policy, after all checks that every task has to pass."""
    return check_task(task, folder)


@pytest.fixture(scope="module")
def material(task: CodeTask, folder: Path, evaluation: Evaluation) -> Material:
    return task.prepare(folder / "first", 0)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_material(task: CodeTask, material: Material) -> None:
    verdicts = lines(material.folder / VERDICTS)
    assert Counter(row["part"] for row in verdicts) == {"train.jsonl": 9, "held-out.jsonl": 6}
    counted = json.loads((material.folder / COUNTS).read_text())
    for name, path, problems in (("train.jsonl", material.train, 3), ("held-out.jsonl", material.held_out, 2)):
        pairs_made = lines(path)
        assert counted[name]["problems"] == problems
        assert counted[name]["pairs"] == len(pairs_made) > 0
        told = {(row["problem"], row["response"]): row["verdict"] for row in verdicts if row["part"] == name}
        assert sum(counted[name]["answers"].values()) == 3 * problems
        for row in pairs_made:
            assert told[row["problem"], row["rejected"]] != "passed"
            if row["own_solution"]:
                assert row["chosen"] == "good = 1\n<eos>"
            else:
                assert told[row["problem"], row["chosen"]] == "passed"
    prompts = material.read_prompts()
    assert len(prompts) == 2
    beginning = '"""\nit was 0\nassert 1\n"""\ngood = 1\n\n"""\nit was '
    assert all(prompt.text.startswith(beginning) for prompt in prompts)
    trained = {row["problem"] for row in verdicts if row["part"] == "train.jsonl"}
    assert not trained & {prompt.row["name"] for prompt in prompts}
    assert "MBPP/0" not in trained | {prompt.row["name"] for prompt in prompts}


def test_the_material_is_its_seed(task: CodeTask, material: Material, folder: Path, tmp_path: Path) -> None:
    again = task.prepare(folder / "second", 0)
    for name in (VERDICTS, COUNTS):
        assert (again.folder / name).read_bytes() == (material.folder / name).read_bytes()
    assert task._parts(0) != task._parts(1)


def test_a_policy_is_measured(task: CodeTask, material: Material, evaluation: Evaluation) -> None:
    assert evaluation.values.keys() == {metric.name for metric in task.metrics}
    assert task.headline == "pass@1" in evaluation.values
    assert "pass@10" not in evaluation.values
    names = [prompt.row["name"] for prompt in material.read_prompts()]
    assert all(list(items) == names for items in evaluation.values.values())
    assert list(evaluation.samples) == [prompt.text for prompt in material.read_prompts()]
    for name in names:
        once, twice, parses = (evaluation.values[metric][name] for metric in ("pass@1", "pass@2", "parses"))
        assert once in (0, 1 / 3, 2 / 3, 1)
        assert once <= twice
        assert once <= parses
        assert evaluation.values["timed_out"][name] == 0
        assert evaluation.values["sequence_kl"][name] > 0


def test_responses_keep_the_end_they_have(material: Material) -> None:
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(material.model)
        data, _ = prepare(read_rows(material.train), tokenizer, EncodingConfig(), description="pairs")
    assert tokenizer.eos_token is None
    end = tokenizer.convert_tokens_to_ids("<eos>")
    for row, ids in zip(lines(material.train), data.to_list(), strict=True):
        for side in ("chosen", "rejected"):
            assert (ids[f"{side}_ids"][-1] == end) == row[side].endswith("<eos>")


def test_other_problems_can_be_held_out(task: CodeTask, isolated: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "others.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(5)))
    other = task.model_copy(
        update={"held_out": resolve_task(task.model_dump() | {"held_out": str(tmp_path / "others.jsonl")}).held_out}
    )
    train, held_out = other.model_copy(update={"held_out_problems": 2})._parts(0)
    assert len(train) == 3
    assert len(held_out) == 2
    assert all(problem.name.startswith("HumanEval/") and not problem.prompt.startswith('"""') for problem in held_out)
    with pytest.raises(ValueError, match="of 9 problems, 0 are left by `examples` and `longest`"):
        other.model_copy(update={"longest": 1})._parts(0)


def test_nothing_is_sampled_where_nothing_can_be_run(
    task: CodeTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "_START", 'print(\'{"missing": "a user namespace"}\')')
    with pytest.raises(SandboxError, match="refuses a user namespace"):
        task.prepare(tmp_path, 0)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_no_pairs_is_an_error_with_a_remedy(task: CodeTask, tmp_path: Path) -> None:
    source = tmp_path / "impossible.jsonl"
    shutil.copy(task.data.name, source)
    source.write_text(source.read_text().replace("assert 1", "assert 0"))
    impossible = resolve_task(task.model_dump() | {"data": str(source)})
    with pytest.raises(ValueError, match=r"3 problems for train.jsonl gave no pair.*`own_solutions: true`"):
        impossible.prepare(tmp_path / "material", 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ks": [10]}, "1 has to be there"),
        ({"held_out": 0}, "held_out"),
        ({"limits": {"memory": 1}}, "limits.memory: no such field"),
        ({"isolation": "none"}, "isolation"),
    ],
)
def test_fields_that_cannot_be(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        resolve_task({"name": "code", "model": "m", "data": "d", "held_out": 3} | fields)
