"""The cost of a run before it starts: memory and operations of its heaviest step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

from transformers import PreTrainedModel

from prefopt.data import PairStream
from prefopt.scoring.forward import causal_lm
from prefopt.scoring.lm_head.chunk_sizes import accelerator_memory
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
    advice                         what makes it fit the accelerator, where it does not; empty where there is none
    """

    pairs: int
    longest: int
    weights: int
    gradients: int
    optimizer: int
    step: StepPlan
    passes: int
    advice: str = ""

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
    if args.activation_checkpointing:  # as the trainer will, when it trains
        options = dict(args.activation_checkpointing_kwargs or {})
        layers, offload = options.pop("every_n_layers", 1), options.pop("offload", False)
        kept_apart = {"every_n_layers": layers, "offload": offload}
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=options or None, **kept_apart)
    was_training = model.training
    with trainer.compute_loss_context_manager():
        step = plan_step(model.train(), batch.to(args.device))
    model.train(was_training)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    plan = RunPlan(
        pairs=len(longest),
        longest=max(lengths),
        weights=sum(parameter.nbytes for parameter in model.parameters()),
        gradients=sum(parameter.nbytes for parameter in trained),
        optimizer=sum(8 * parameter.numel() for parameter in trained),
        step=step,
        passes=args.gradient_accumulation_steps,
    )
    memory = accelerator_memory(args.device)
    return plan if memory is None else replace(plan, advice=advice(plan, causal_lm(model.policy), memory))


def advice(plan: RunPlan, policy: PreTrainedModel, memory: int) -> str:
    """What a run needs that plans more than the memory of its device, in bytes: activation checkpointing, which keeps
    the inputs of layers and one layer's activations, or besides offloading, which moves the inputs to the host. Empty
    where the run fits."""
    if plan.bytes <= memory:
        return ""
    config = policy.config.get_text_config()
    layers, activations = config.num_hidden_layers, plan.step.parts[0].bytes
    inputs = layers * plan.pairs * plan.longest * config.hidden_size * policy.dtype.itemsize
    needs = f"The step needs about {plan.bytes / 2**30:.1f} GiB, the device has {memory / 2**30:.1f}: "
    offloaded = plan.bytes - activations + activations // layers
    if policy.is_activation_checkpointing:
        offloaded = plan.bytes - min(inputs, activations)
    elif offloaded + inputs <= memory:
        return f"{needs}activation_checkpointing: true brings it to about {(offloaded + inputs) / 2**30:.1f}."
    offloading = "activation_checkpointing: true and activation_checkpointing_kwargs: {offload: true}"
    if offloaded <= memory:
        return f"{needs}{offloading} bring it to about {offloaded / 2**30:.1f}."
    return (
        f"{needs}{offloading} would bring it to {offloaded / 2**30:.1f}, which is still too much; take fewer pairs a "
        "batch, a shorter max_length, an adapter, or several accelerators (FSDP2 or ZeRO)."
    )
