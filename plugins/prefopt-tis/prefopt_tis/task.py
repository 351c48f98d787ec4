"""The scored task: the pairs of another task, with what models that learned from them say of every response token."""

from __future__ import annotations

import math
import shutil
import tempfile
from pathlib import Path
from typing import Literal, final

import torch
from pydantic import Field
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback

from prefopt import ObjectiveConfig, resolve, zoo
from prefopt.component import PreferenceLoss
from prefopt.data import EncodingConfig, SourceRow, read_rows
from prefopt.data.quiet import quiet
from prefopt.regularizers import NegativeLogLikelihood
from prefopt.scoring import PreferenceModel
from prefopt.tasks import AnnotatedTask
from prefopt.tasks.base import HELD_OUT, TRAIN
from prefopt.training import PreferenceConfig, PreferenceTrainer
from prefopt.training.callbacks import StepReport
from prefopt.training.trainer_inputs import ensure_pad_token
from prefopt_tis.encode import Encoder, position_limit
from prefopt_tis.score import Contrast, Scorer, contrasting, scoring
from prefopt_tis.write import Unfinished, count, write

__all__ = ["ScoredTask"]

_EXCHANGED = {"chosen": "rejected", "rejected": "chosen"}


@final
class ScoredTask(AnnotatedTask):
    """Another task, whose rows get token columns of models that learned from its training pairs, each as the
    weightings of this package want them:

    log_ratios   log(pi+ / pi-), pi+ trained by DPO, pi- by DPO on the same pairs with their responses exchanged
                 (`tis`, `tis_rank`, `tis_scale`)
    guidance     log(pi+ / pi_ref), pi_ref the task's reference (`guided`, and `selective` by a column)
    likelihoods  softmax(2 log s+ - log s-), s+ fine-tuned on chosen responses, s- on rejected ones (`contrast`)

    Held-out pairs get them too, of which no model has learned. What is measured is what the inner task measures.

    task           the inner task
    beta           of DPO
    epochs, batch_size, learning_rate   of the four models, in pairs
    """

    name: Literal["scored"] = "scored"
    beta: float = Field(default=0.3, gt=0)
    epochs: int = Field(default=1, ge=1)
    batch_size: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)

    @property
    def annotations(self) -> tuple[str, ...]:
        return ("log_ratios", "guidance", "likelihoods")

    def annotate(self, folder: Path, reference: str, seed: int) -> None:
        # Cut where the model ends alone, lest a run that cuts later read zeros of what was not asked about.
        limit = position_limit(reference)
        encoding = EncodingConfig(max_length=None if math.isinf(limit) else int(limit))
        files = [folder / name for name in (TRAIN, HELD_OUT)]
        with quiet(), tempfile.TemporaryDirectory(prefix="models-", dir=folder) as scratch:
            tokenizer = ensure_pad_token(AutoTokenizer.from_pretrained(reference))
            encode = Encoder(tokenizer, encoding)
            for file in files:
                for column in self.annotations:
                    count(str(file), encode, column)  # before models are trained on them
            scorers = self._scorers(reference, encode, folder / TRAIN, Path(scratch), seed)
            for file in files:
                for column in self.annotations:
                    _score(file, column, scorers[column], encode, self.batch_size)

    def _scorers(
        self, reference: str, encode: Encoder, train: Path, scratch: Path, seed: int
    ) -> dict[str, Scorer | Contrast]:
        """What scores each column."""
        pairs = [dict(row.fields) for row in read_rows(train) if isinstance(row, SourceRow)]
        exchanged = [{_EXCHANGED.get(name, name): value for name, value in pair.items()} for pair in pairs]

        def trained(objective: ObjectiveConfig, pairs: list[dict[str, object]]) -> torch.nn.Module:
            return self._trained(objective, pairs, reference, encode, scratch, seed)

        dpo, fine_tuning = zoo.dpo(beta=self.beta), _fine_tuning()
        preferring, exchanging = trained(dpo, pairs), trained(dpo, exchanged)
        right, wrong = trained(fine_tuning, pairs), trained(fine_tuning, exchanged)
        # Log-ratios are differences of what two models say, so that all are on the device that these trained on.
        untrained = AutoModelForCausalLM.from_pretrained(reference).to(next(preferring.parameters()).device)
        positive, negative, model = map(scoring, (preferring, exchanging, untrained))
        pad = int(encode.tokenizer.pad_token_id)
        return {
            "log_ratios": Scorer(positive, negative, pad),
            "guidance": Scorer(positive, model, pad),
            "likelihoods": Contrast(contrasting(right, wrong, 1.0), 1.0, pad),
        }

    def _trained(
        self,
        objective: ObjectiveConfig,
        pairs: list[dict[str, object]],
        reference: str,
        encode: Encoder,
        scratch: Path,
        seed: int,
    ) -> torch.nn.Module:
        args = PreferenceConfig(
            output_dir=tempfile.mkdtemp(dir=scratch),
            num_train_epochs=self.epochs,
            per_device_train_batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            max_length=encode.encoding.max_length,
            lr_scheduler_type="cosine",
            warmup_steps=0.1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
            seed=seed,
        )
        trainer = PreferenceTrainer(
            reference, objective=objective, args=args, train_dataset=pairs, processing_class=encode.tokenizer
        )
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(StepReport())
        trainer.train()
        model: PreferenceModel = trainer.accelerator.unwrap_model(trainer.model)
        shutil.rmtree(args.output_dir)
        return model.policy.eval()


def _fine_tuning() -> ObjectiveConfig:
    """-mean_t log pi(y_t) of the chosen response alone: the preference loss has weight zero."""
    loss = resolve(PreferenceLoss, {"name": "mixture", "losses": ["logistic"], "weights": [0.0]})
    return ObjectiveConfig(reference_free=True, loss=loss, regularizers=(NegativeLogLikelihood(),))


def _score(path: Path, column: str, scorer: Scorer | Contrast, encode: Encoder, batch_size: int) -> None:
    """Add the column to the rows of a file."""
    target = path.with_name(f"{path.stem}-{column}.jsonl")
    for _ in write(str(path), Unfinished(target, {}), encode, scorer, column=column, batch_size=batch_size):
        pass
    target.replace(path)
