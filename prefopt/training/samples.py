"""Samples of policy and reference on held-out prompts, side by side, while the policy trains."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, Protocol, final

from accelerate import DistributedType
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

from prefopt.sampling import Generation, Prompt, decode_samples, encode_prompts, sample_ids
from prefopt.scoring import PreferenceModel
from prefopt.training.random_states import RandomStates, drawing_from
from prefopt.training.trainer import PreferenceTrainer
from prefopt.whole_files import publish_text

SAMPLES = "samples.jsonl"
"""The file's name, in the run's folder."""

_LOG = logging.getLogger(__name__)


class ComparingJudge(Protocol):
    """What says which of two responses is better, such as the judges of `prefopt.tasks.judges`."""

    def check(self) -> None:
        """Raise where something that it needs is missing."""

    def win_rates(self, prompts: Sequence[str], ours: Sequence[str], theirs: Sequence[str]) -> list[float]:
        """For each prompt 1 where our response wins, 0.5 for a tie, 0 where theirs does."""


class SampleRow(NamedTuple):
    """A line of the table; `reference` is None without a reference, and `win` without a judge."""

    prompt: str
    policy: str
    reference: str | None
    win: float | None


@final
class SamplesCallback(TrainerCallback):
    """Samples from held-out prompts while training: a table of prompt, policy and reference, and with a judge the
    policy's win rate over the reference, `samples/win_rate`.

    >>> trainer.add_callback(SamplesCallback(trainer, every=100))  # doctest: +SKIP

    prompts      texts, or messages; None: those of the first `num_prompts` pairs of the evaluation data
    every        steps between samples; None: at every evaluation
    temperature  0 takes the likeliest token each time
    seed         of the samples; training draws as it would without them
    judge        such as `prefopt.tasks.judges.resolve_judge({"scorer": "words"})`

    The table goes to OUTPUT/samples.jsonl, TensorBoard (as text), wandb and Trackio, as `report_to` names them. The
    reference is sampled once, unless it follows the policy. Raises ValueError without prompts, with a judge and no
    reference, for `every` without steps, and where a model is spread over processes.
    """

    def __init__(
        self,
        trainer: PreferenceTrainer,
        prompts: Sequence[Prompt] | None = None,
        *,
        num_prompts: int = 8,
        every: int | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        max_new_tokens: int = 64,
        seed: int = 0,
        judge: ComparingJudge | None = None,
    ) -> None:
        args = trainer.args
        if trainer.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
            raise ValueError("samples: no process has the whole policy (FSDP, DeepSpeed); leave them out")
        if every is None and str(getattr(args.eval_strategy, "value", args.eval_strategy)) == "no":
            raise ValueError("samples are drawn at every evaluation, and there is none; give `every`, or eval_strategy")
        if every is not None and every < 1:
            raise ValueError(f"every: {every} is no number of steps; it is 1 or more")
        if judge is not None:
            if trainer.accelerator.unwrap_model(trainer.model).reference_free:
                raise ValueError("judge: it compares policy and reference, and there is no reference; leave it out")
            judge.check()
        self._trainer, self._every, self._seed, self._judge = trainer, every, seed, judge
        self._generation = Generation(
            samples=1,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            max_prompt_length=args.max_prompt_length,
            chat_template_kwargs=args.chat_template_kwargs or {},
        )
        self._prompts = self._prompt_ids(prompts, num_prompts)
        self._reference: tuple[PreferenceModel, list[str]] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Drop what a run that is resumed has sampled after its checkpoint."""
        file = Path(args.output_dir) / SAMPLES
        if state.is_world_process_zero and file.is_file():
            lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
            whole = (line for line in lines if line.endswith("\n"))  # a run that was killed may have cut the last one
            publish_text("".join(line for line in whole if json.loads(line)["step"] <= state.global_step), file)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Sample every so many steps."""
        if self._every is not None and state.global_step % self._every == 0:
            self._sample(state, control)

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Sample at every evaluation of training."""
        if self._every is None and self._trainer.is_in_train:
            self._sample(state, control)

    def rows(self) -> list[SampleRow]:
        """The table for the policy as it is. Neither the random states nor the mode of the model change."""
        model: PreferenceModel = self._trainer.accelerator.unwrap_model(self._trainer.model)
        is_training = model.training
        try:
            with drawing_from(RandomStates.now()):
                texts = self._texts(model.policy)
                reference = None if model.reference_free else self._reference_texts(model)
                prompts = [text for text, _ in self._prompts]
                wins = None if self._judge is None else self._judge.win_rates(prompts, texts, reference or [])
        finally:
            model.train(is_training)
        blank: list[None] = [None] * len(prompts)
        return list(map(SampleRow, prompts, texts, reference or blank, wins or blank))

    def _prompt_ids(self, prompts: Sequence[Prompt] | None, number: int) -> list[tuple[str, list[int]]]:
        """Prompts as texts and token ids."""
        trainer = self._trainer
        tokenizer = trainer.processing_class
        if prompts is not None:
            ids = encode_prompts(tokenizer, prompts, self._generation)
        else:
            data = trainer.eval_dataset
            data = next(iter(data.values()), None) if isinstance(data, dict) else data
            ids = [] if data is None else list(data.select(range(min(number, len(data))))["prompt_ids"])
        if not ids:
            raise ValueError("samples need prompts; give `prompts`, or evaluation data, whose first prompts are taken")
        texts = [str(tokenizer.decode(tokens, skip_special_tokens=True)) for tokens in ids]
        for index, prompt in enumerate(prompts or ()):
            if isinstance(prompt, str):
                texts[index] = prompt
        return [(text, list(tokens)) for text, tokens in zip(texts, ids, strict=True)]

    def _texts(self, model: Any) -> list[str]:
        tokenizer, ids = self._trainer.processing_class, [tokens for _, tokens in self._prompts]
        samples = sample_ids(model, tokenizer, ids, self._generation, self._seed)
        return [text for (text,) in decode_samples(model, tokenizer, ids, samples)]

    def _reference_texts(self, model: PreferenceModel) -> list[str]:
        if self._reference is not None and self._reference[0] is model and not self._trainer.args.sync_ref_model:
            return self._reference[1]
        scorer = model.reference_scorer
        if scorer.unloaded is not None:  # released for a cache, and loaded for these samples alone
            texts = self._texts(scorer.unloaded.reload(self._trainer.args.device))
        else:
            with scorer.context(model.policy):
                texts = self._texts(scorer.loaded(model.policy))
        self._reference = (model, texts)
        return texts

    def _sample(self, state: Any, control: Any) -> None:
        if not state.is_world_process_zero:
            return
        rows, step = self.rows(), state.global_step
        path = Path(self._trainer.args.output_dir, SAMPLES)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps({"step": step, **row._asdict()}, ensure_ascii=False) + "\n" for row in rows)
        for callback in self._trainer.callback_handler.callbacks:
            _report(callback, rows, step)
        if self._judge is not None:
            should_log = control.should_log  # which a log takes for done
            self._trainer.log({"samples/win_rate": fmean(row.win for row in rows if row.win is not None)})
            control.should_log = should_log


def _report(callback: TrainerCallback, rows: Sequence[SampleRow], step: int) -> None:
    """Hand the table to what a callback of transformers reports to, if it takes tables."""
    names, values = list(SampleRow._fields), [list(row) for row in rows]
    if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
        callback.tb_writer.add_text("samples", "\n".join(_markdown(rows)), step)
    elif isinstance(callback, WandbCallback):
        table = callback._wandb.Table(columns=names, data=values)
        callback._wandb.log({"samples": table, "train/global_step": step})
    elif isinstance(callback, TrackioCallback):
        import pandas as pd  # type: ignore[import-untyped]

        table = callback._trackio.Table(dataframe=pd.DataFrame(values, columns=names))
        callback._trackio.log({"samples": table, "train/global_step": step})


def _markdown(rows: Sequence[SampleRow]) -> Iterator[str]:
    """A table, in which line breaks and bars of the texts are not its own."""
    yield f"| {' | '.join(SampleRow._fields)} |"
    yield "|---" * len(SampleRow._fields) + "|"
    for row in rows:
        texts = ("" if value is None else str(value) for value in row)
        cells = (text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;") for text in texts)
        yield "| " + " | ".join("<br>".join(cell.splitlines()) for cell in cells) + " |"
