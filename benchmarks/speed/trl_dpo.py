"""TRL's DPOTrainer, in the configuration that is its fastest on a CPU."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial

from torch import Tensor

from benchmarks.speed.contender import Contender, UnavailableError, differentiated, named
from benchmarks.speed.setting import BETA, Setting, models, rows

__all__ = ["trl_dpo"]


def trl_dpo(*, precomputed: bool) -> Callable[[Setting], Contender]:
    """The builder. `precomputed`: the reference's log-probabilities are taken from the batch, as in TRL after its
    pass over the data, so that a step has no reference at all."""
    return partial(_build, precomputed=precomputed)


def _build(setting: Setting, *, precomputed: bool) -> Contender:
    try:
        import datasets
        import trl
        from tokenizers import Tokenizer
        from tokenizers.models import WordLevel
        from transformers import PreTrainedTokenizerFast
    except ImportError as error:
        raise UnavailableError(f"{error.name} is not installed") from error
    # The trainer wants text and a tokenizer to be made; the batches below are of token ids, past both.
    words = Tokenizer(WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2, "a": 3}, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>")
    datasets.disable_progress_bars()
    text = datasets.Dataset.from_list([{"prompt": "a", "chosen": "a", "rejected": "a"}])
    policy, reference = models(setting)
    with tempfile.TemporaryDirectory() as folder:
        arguments = trl.DPOConfig(
            folder,
            beta=BETA,
            max_length=None,
            bf16=False,  # no hardware for it here: several times slower
            activation_checkpointing=False,
            use_cpu=setting.device == "cpu",
            report_to="none",
        )
        trainer = trl.DPOTrainer(policy, reference, arguments, None, text, None, tokenizer)
    given = [
        {name: values.to(setting.device) for name, values in trainer.data_collator(batch).items()}
        for batch in rows(setting)
    ]
    if precomputed:
        for batch in given:
            chosen, rejected = trainer.compute_ref_log_probs(reference, batch)
            batch |= {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
        trainer.precompute_ref_logps, trainer.ref_model = True, None
    trainer.model.train()

    def loss(number: int) -> Tensor:
        value: Tensor = trainer.compute_loss(trainer.model, dict(given[number]))
        return value

    return Contender(differentiated(loss), named(policy))
