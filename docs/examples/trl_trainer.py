"""Inside TRL's DPOTrainer, for those who stay there: a subclass whose loss is any objective."""

from typing import Any

import datasets
import torch
from trl import DPOConfig, DPOTrainer

from prefopt import ObjectiveConfig, PreferenceBatch, zoo
from prefopt.scoring import PreferenceModel

NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
ROWS = [
    {"prompt": "The film was", "chosen": " good.", "rejected": " bad."},
    {"prompt": "The plot was", "chosen": " a joy from end to end.", "rejected": " dull."},
]


class ObjectiveTrainer(DPOTrainer):
    """TRL's DPOTrainer under an objective; TRL's loss_type, beta and the like are not read."""

    def __init__(self, *args: Any, objective: ObjectiveConfig, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.accelerator.num_processes > 1:
            raise ValueError("several processes would not average these gradients; use prefopt's PreferenceTrainer")
        policy, reference = self.accelerator.unwrap_model(self.model), self.ref_model
        self.scored = PreferenceModel(policy, reference, objective).to(self.accelerator.device)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(model)
        if masks := list(self.scored.objective.parameters()):
            optimizer.add_param_group({"params": masks, "lr": 5e-3})
        return optimizer

    def _compute_loss(self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool) -> Any:
        with self.accelerator.autocast():
            output = self.scored(pairs_of(inputs))
        for name, mean in output.metrics.items():
            self._metrics["train" if self.model.training else "eval"][name].append(mean.value)
        return (output.loss, output) if return_outputs else output.loss


def pairs_of(inputs: dict[str, torch.Tensor]) -> PreferenceBatch:
    """TRL's batch, prompts with chosen and then with rejected completions, as prefopt's."""
    rows = zip(inputs["input_ids"], inputs["attention_mask"].bool(), inputs["completion_mask"].bool(), strict=True)
    parts = [(ids[kept & ~completion].tolist(), ids[completion].tolist()) for ids, kept, completion in rows]
    half = len(parts) // 2
    prompts, chosen = zip(*parts[:half], strict=True)
    batch = PreferenceBatch.from_ids(prompts, chosen, [rejected for _, rejected in parts[half:]], pad_token_id=0)
    return batch.to(inputs["input_ids"].device)


if __name__ == "__main__":
    options = {"activation_checkpointing": True, "use_cpu": not torch.accelerator.is_available()}
    trainer = ObjectiveTrainer(
        NAME,
        objective=zoo.sparsepo_token(),
        args=DPOConfig("runs/trl", max_steps=3, logging_steps=1, report_to="none", **options),
        train_dataset=datasets.Dataset.from_list(ROWS),
    )
    trainer.train()
    trainer.save_model()
    trainer.scored.objective.save("runs/trl")  # the objective with its mask, beside the policy
