"""The code task: answers of the reference that pass their tests against those that do not, and pass@k."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, final

import torch
from pydantic import BeforeValidator, Field, model_validator
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from prefopt.data.quiet import quiet
from prefopt.sampling import Generation, sample_texts
from prefopt.scoring import PreferenceModel
from prefopt.tasks.base import HELD_OUT, PROMPTS, TRAIN, Evaluation, Material, Metric, Task, write_jsonl
from prefopt.tasks.generation import GENERATION_METRICS, generate
from prefopt.tasks.models import save_without_eos
from prefopt_code.measures import figures, metrics
from prefopt_code.pairs import Answer, count_answers, make_pairs, run_answers, run_texts
from prefopt_code.problems import FUNCTION, Problem, Problems, SomeProblems, from_name, with_examples
from prefopt_code.sandbox import Isolation, Limits, Sandbox

__all__ = ["COUNTS", "VERDICTS", "CodeTask"]

VERDICTS, COUNTS = "verdicts.jsonl", "counts.json"
"""What the material keeps of the reference's answers: each with its verdict, and how many of each there were."""


@final
class CodeTask(Task):
    """Python problems with tests. Pairs are of the reference's answers, which are run in a sandbox, as are a policy's.

    model       the reference, and the policy before training: a name or folder for `from_pretrained`
    data        problems to train on, rows of MBPP or of HumanEval: a name, or `name` and `split`
    held_out    problems to measure on: others, or how many of `data` to take off
    problems, held_out_problems   at most so many, drawn by the seed; null: all of them
    longest     only problems whose own solution has at most so many characters
    examples    the first so many problems of `data` are shown, solved, before the prompts of their form, and make no
                pairs
    samples     of each problem, from the reference, of which pairs are made
    pairs       of a problem, at most
    own_solutions   the data's own solution is the one that passes where no sample does
    generation  how the reference and the policy are sampled; `samples` is the policy's
    ks          of pass@k; those above `generation.samples` are left out
    stops       an answer ends where one of these begins (see `answer_in`)
    end_token   what the model ends a text with, if not its tokenizer's end-of-text token
    limits      of each program
    isolation   how programs are contained (see `Sandbox`)
    """

    name: Literal["code"] = "code"

    model: str
    data: SomeProblems
    held_out: Annotated[
        Annotated[int, Field(ge=1)] | Problems, BeforeValidator(from_name, json_schema_input_type=int | str | Problems)
    ]
    problems: int | None = Field(default=None, ge=1)
    held_out_problems: int | None = Field(default=None, ge=1)
    longest: int | None = Field(default=None, ge=1)
    examples: int = Field(default=0, ge=0)
    samples: int = Field(default=20, ge=2)
    pairs: int = Field(default=4, ge=1)
    own_solutions: bool = True
    generation: Generation = Generation(samples=100, max_new_tokens=256, temperature=0.6)
    ks: tuple[Annotated[int, Field(ge=1)], ...] = (1, 10, 100)
    stops: tuple[Annotated[str, Field(min_length=1)], ...] = FUNCTION
    end_token: str | None = None
    limits: Limits = Limits()
    isolation: Isolation = "namespaces"

    @model_validator(mode="after")
    def _measures_its_headline(self) -> Self:
        if 1 not in self.ks:
            raise ValueError(
                f"`ks` is {list(self.ks)}; 1 has to be there, since pass@1 comes first in every comparison"
            )
        return self

    @property
    def _ks(self) -> list[int]:
        return [k for k in sorted(self.ks) if k <= self.generation.samples]

    @property
    def _sandbox(self) -> Sandbox:
        return Sandbox(self.limits, isolation=self.isolation)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (*metrics(self._ks), *GENERATION_METRICS)

    def make(self, folder: Path, seed: int) -> str:
        sandbox = self._sandbox
        sandbox.check()
        train, held_out = self._parts(seed)
        end = save_without_eos(self.model, folder / "reference", end_token=self.end_token)
        verdicts: list[dict[str, Any]] = []
        counts = {}
        for offset, (name, part) in enumerate(((TRAIN, train), (HELD_OUT, held_out))):
            answers = self._answers(folder / "reference", part, sandbox, end, 2 * seed + offset)
            tests = sandbox if self.own_solutions else None
            rows = make_pairs(part, answers, tests, most=self.pairs, end=end, seed=seed)
            if not rows:
                raise ValueError(
                    f"code: the {len(part)} problems for {name} gave no pair of an answer that passes and one that "
                    "does not; ask for more `samples`, take other problems, or set `own_solutions: true`"
                )
            write_jsonl(folder / name, rows)
            verdicts += _verdicts(name, part, answers)
            counts[name] = count_answers(answers, rows)
        write_jsonl(folder / PROMPTS, map(dataclasses.asdict, held_out))
        write_jsonl(folder / VERDICTS, verdicts)
        (folder / COUNTS).write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")
        return str(folder / "reference")

    def evaluate(
        self, model: PreferenceModel, reference: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, material: Material
    ) -> Evaluation:
        held_out = [prompt._replace(item=prompt.row["name"]) for prompt in material.read_prompts()]
        problems = [Problem(**prompt.row) for prompt in held_out]
        prompts = [problem.prompt for problem in problems]
        generations = generate(model.policy, reference, tokenizer, prompts, self.generation, seed=material.seed)
        passed = figures(run_texts(problems, generations.texts, self.stops, self._sandbox), self._ks)
        return Evaluation.by_prompt(held_out, generations.texts, passed | generations.figures)

    def _parts(self, seed: int) -> tuple[list[Problem], list[Problem]]:
        """The problems to train on and those held out, each with the examples before it."""
        every = self.data.read()
        shown, rest = every[: self.examples], self._drawn(every[self.examples :], seed)
        if isinstance(self.held_out, Problems):
            held_out, train = self._drawn(self.held_out.read(), seed), rest
        else:
            held_out, train = rest[: self.held_out], rest[self.held_out :]
        taken = {text for problem in held_out for text in (problem.name, problem.prompt)}
        train = [problem for problem in train if problem.name not in taken and problem.prompt not in taken]
        parts = train[: self.problems], held_out[: self.held_out_problems]
        if not all(parts):
            raise ValueError(
                f"code: of {len(every)} problems, {len(rest)} are left by `examples` and `longest`, {len(train)} to "
                f"train on and {len(held_out)} held out; there has to be one of each"
            )
        train, held_out = ([with_examples(problem, shown) for problem in part] for part in parts)
        return train, held_out

    def _drawn(self, problems: Sequence[Problem], seed: int) -> list[Problem]:
        short = [problem for problem in problems if self.longest is None or len(problem.solution) <= self.longest]
        random.Random(f"code problems {seed}").shuffle(short)
        return short

    def _answers(
        self, reference: Path, problems: Sequence[Problem], sandbox: Sandbox, end: str, seed: int
    ) -> list[list[Answer]]:
        generation = self.generation.model_copy(update={"samples": self.samples})
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(reference)
            model = AutoModelForCausalLM.from_pretrained(reference, dtype="auto")
            model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
            prompts = [problem.prompt for problem in problems]
            texts = sample_texts(model, tokenizer, prompts, generation, seed=seed, end=end)
        return run_answers(problems, texts, self.stops, sandbox, end=end)


def _verdicts(part: str, problems: Sequence[Problem], answers: Sequence[Sequence[Answer]]) -> Iterator[dict[str, Any]]:
    for problem, group in zip(problems, answers, strict=True):
        for response, verdict in group:
            yield {"part": part, "problem": problem.name, "verdict": verdict.value, "response": response}
