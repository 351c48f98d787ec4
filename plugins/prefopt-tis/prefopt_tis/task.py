"""The scored task: the pairs of another task, with what models that learned from them say of every response token."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Literal, final

import torch
from pydantic import Field
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase, PrinterCallback

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
from prefopt_tis.encode import Encoder
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

    def annotate(self, folder: Path, reference: str, seed: int) -> None:
        with quiet(), tempfile.TemporaryDirectory(prefix="models-", dir=folder) as scratch:
            tokenizer = ensure_pad_token(AutoTokenizer.from_pretrained(reference))
            scorers = self._scorers(reference, tokenizer, folder / TRAIN, Path(scratch), seed)
            for name in (TRAIN, HELD_OUT):
                for column, scorer in scorers.items():
                    _score(folder / name, column, scorer, Encoder(tokenizer, EncodingConfig()), self.batch_size)

    def _scorers(
        self, reference: str, tokenizer: PreTrainedTokenizerBase, train: Path, scratch: Path, seed: int
    ) -> dict[str, Scorer | Contrast]:
        """What scores each column."""
        pairs = [dict(row.fields) for row in read_rows(train) if isinstance(row, SourceRow)]
        exchanged = [{_EXCHANGED.get(name, name): value for name, value in pair.items()} for pair in pairs]

        def trained(objective: ObjectiveConfig, pairs: list[dict[str, object]]) -> torch.nn.Module:
            return self._trained(objective, pairs, reference, tokenizer, scratch, seed)

        dpo, fine_tuning = zoo.dpo(beta=self.beta), _fine_tuning()
        positive, negative = scoring(trained(dpo, pairs)), scoring(trained(dpo, exchanged))
        right, wrong = trained(fine_tuning, pairs), trained(fine_tuning, exchanged)
        model = scoring(AutoModelForCausalLM.from_pretrained(reference))
        pad = int(tokenizer.pad_token_id)
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
        tokenizer: PreTrainedTokenizerBase,
        scratch: Path,
        seed: int,
    ) -> torch.nn.Module:
        args = PreferenceConfig(
            output_dir=tempfile.mkdtemp(dir=scratch),
            num_train_epochs=self.epochs,
            per_device_train_batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=0.1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
            seed=seed,
        )
        trainer = PreferenceTrainer(
            reference, objective=objective, args=args, train_dataset=pairs, processing_class=tokenizer
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
    count(str(path), encode, column)
    target = path.with_name(f"{path.stem}-{column}.jsonl")
    for _ in write(str(path), Unfinished(target, {}), encode, scorer, column=column, batch_size=batch_size):
        pass
    target.replace(path)
