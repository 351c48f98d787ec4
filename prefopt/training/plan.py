"""The cost of a run before it starts: memory and operations of its heaviest step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from prefopt.data import PairStream
from prefopt.scoring.step_cost import StepPlan, plan_step
from prefopt.tokens import PreferenceBatch
from prefopt.training.trainer import PreferenceTrainer


class UnknownPlanError(ValueError):
    """Data whose heaviest step is not known beforehand."""


@final
@dataclass(frozen=True)
class RunPlan:
    """The heaviest step of a run, its longest pairs in one batch, on one process without sharding.

    pairs, longest                 pairs in the batch, tokens of the longest pair
    weights, gradients, optimizer  bytes; the optimizer's state is AdamW's, two float32 numbers per trained parameter
    step, passes                   one forward and backward pass, and how many of them an optimizer step makes
    """

    pairs: int
    longest: int
    weights: int
    gradients: int
    optimizer: int
    step: StepPlan
    passes: int

    @property
    def bytes(self) -> int:
        """Peak memory."""
        return self.weights + self.gradients + self.optimizer + self.step.bytes

    def rows(self) -> list[tuple[str, str, str]]:
        """(part, memory, operations of an optimizer step), formatted."""
        static = {"weights": self.weights, "gradients": self.gradients, "optimizer": self.optimizer}
        parts = {part.name: (part.bytes, part.operations) for part in self.step.parts}
        parts["all"] = (self.bytes, self.step.operations)
        return [(name, f"{size / 2**20:,.0f} MiB", "") for name, size in static.items()] + [
            (name, f"{size / 2**20:,.0f} MiB", f"{operations * self.passes / 1e9:,.1f} GFLOP")
            for name, (size, operations) in parts.items()
        ]


def plan_run(trainer: PreferenceTrainer) -> RunPlan:
    """The plan of a trainer's run. The models are traced, not run. Raises UnknownPlanError for a stream."""
    args, data = trainer.args, trainer.train_dataset
    if isinstance(data, PairStream):
        raise UnknownPlanError("the training data are a stream, whose longest pair is not known before it is read")
    lengths = data["length"][:]
    longest = sorted(range(len(data)), key=lengths.__getitem__)[-args.per_device_train_batch_size :]
    batch = PreferenceBatch.from_mapping(trainer.data_collator(list(data.select(longest))))
    model = trainer.accelerator.unwrap_model(trainer.model)
    with trainer.compute_loss_context_manager():
        step = plan_step(model, batch.to(args.device))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return RunPlan(
        pairs=len(longest),
        longest=max(lengths),
        weights=sum(parameter.nbytes for parameter in model.parameters()),
        gradients=sum(parameter.nbytes for parameter in trained),
        optimizer=sum(8 * parameter.numel() for parameter in trained),
        step=step,
        passes=args.gradient_accumulation_steps,
    )
