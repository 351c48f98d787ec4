"""The demo itself: a reference, preference pairs, DPO and SparsePO side by side, and what became of them."""

from __future__ import annotations

import platform
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from prefopt.comparison.statistics import bootstrap
from prefopt.demo.config import DemoConfig
from prefopt.demo.evaluation import weigh
from prefopt.demo.material import Material, given_material, sampled_material
from prefopt.demo.measure import curves, of_pairs, of_samples, of_weights
from prefopt.demo.page import table, write_page
from prefopt.demo.progress import Stage, Stages, show_training
from prefopt.demo.results import DemoResults, Measured
from prefopt.demo.sampling import Sample, sample
from prefopt.divergences import ForwardKL
from prefopt.objective import DivergenceTerm, Objective, ObjectiveConfig
from prefopt.regularizers import MaskL1
from prefopt.tasks.generation.sampling import per_prompt, sequence_kl
from prefopt.tasks.models.small_model import train_small_model
from prefopt.tasks.quiet import quiet
from prefopt.tasks.scorers.corpus import WORDS, corpus_reviews
from prefopt.tasks.scorers.word_lists import Lexicon
from prefopt.training import PreferenceConfig, PreferenceTrainer
from prefopt.training.trainer_inputs import ensure_pad_token
from prefopt.weightings import SparseWeighting
from prefopt.zoo import dpo

__all__ = ["objectives", "run_demo"]

_ON_THE_COMMAND_LINE = ("model", "prompts", "pairs", "words", "steps", "seed")


def objectives(config: DemoConfig) -> dict[str, ObjectiveConfig]:
    """What is compared, by name.

    SparsePO has two masks here, as in `zoo.sparsepo(shared=False)`, but masks that read the token they weigh and start
    at 1. The published ones read the position before and start near 0.02, from where they hardly move in a run this
    short.
    """
    mask = SparseWeighting(position="token", init="near_one")
    return {
        "DPO": dpo(beta=config.beta),
        "SparsePO": ObjectiveConfig(
            beta=config.beta,
            weighting=mask,
            divergence=DivergenceTerm(measure=ForwardKL(), weighting=mask),
            regularizers=(MaskL1(reward=config.l1_reward, divergence=config.l1_divergence),),
        ),
    }


def run_demo(config: DemoConfig | None = None, *, console: Console | None = None) -> DemoResults:
    """Run the demo and write everything to `config.out`: the models, the pairs, results.json and index.html.

    Raises ValueError where prompts, pairs or words cannot give two responses of which one is better.
    """
    config = config or DemoConfig()
    console = console or Console()
    lexicon = WORDS if config.words is None else Lexicon.load(config.words)
    config.out.mkdir(parents=True, exist_ok=True)
    compared = objectives(config)
    stages = Stages(console, 1 + (config.model is None) + (config.pairs is None) + 2 * len(compared))
    with quiet():
        reference, tokenizer = _reference(config, stages)
        if config.pairs is not None:
            material = given_material(config, tokenizer)
        else:
            material = sampled_material(config, reference, tokenizer, lexicon, stages)
        run = _Run(config, lexicon, reference, tokenizer, material, stages)
        models = [run.measured_reference(), *(run.measured(name, each) for name, each in compared.items())]
    results = DemoResults(
        config=config,
        command=_command(config),
        versions={"python": platform.python_version()} | {n: version(n) for n in ("prefopt", "torch", "transformers")},
        seconds=stages.seconds,
        train_pairs=len(material.train),
        held_out_pairs=len(material.held_out),
        prompts=[prompt.text for prompt in material.prompts[: len(models[0].completions)]],
        models=models,
    )
    (config.out / "results.json").write_text(results.model_dump_json(indent=2), encoding="utf-8")
    page = write_page(results, lexicon, config.out / "index.html")
    console.print(table(results))
    console.print(f"{sum(stages.seconds.values()):.0f} s in all. The page: {page}", highlight=False, soft_wrap=True)
    return results


class _Run:
    """What every model of a run shares."""

    def __init__(
        self,
        config: DemoConfig,
        lexicon: Lexicon,
        reference: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        material: Material,
        stages: Stages,
    ) -> None:
        self.config = config
        self.lexicon = lexicon
        self.reference = reference
        self.tokenizer = tokenizer
        self.material = material
        self.stages = stages

    def measured_reference(self) -> Measured:
        """The reference's row."""
        with self.stages.stage("measuring the reference", len(self.material.prompts)) as stage:
            return Measured(name="reference", **of_samples(self._samples(self.reference, stage), self.config))

    def measured(self, name: str, objective: ObjectiveConfig) -> Measured:
        """Train a policy under the objective, save it, and measure it."""
        config = self.config
        trainer = PreferenceTrainer(
            _load(_source(config)),
            self.reference,
            objective=objective,
            args=_arguments(config, name, objective),
            train_dataset=self.material.train,
            processing_class=self.tokenizer,
        )
        with self.stages.stage(f"training {name}", config.steps) as stage:
            show_training(trainer, stage, {"loss": "loss", "rewards/accuracies": "accuracy"})
            trainer.train()
            trainer.save_model()
        model = trainer.model
        with self.stages.stage(f"measuring {name}", len(self.material.prompts)) as stage:
            samples = self._samples(model.policy, stage)
            kl = sequence_kl(
                model.policy,
                self.reference,
                [one.prompt.ids for one in samples],
                [one.ids for one in samples],
                batch_size=config.batch_size,
            )
            pairs = weigh(model, self.material.held_out, self.tokenizer, self.lexicon, batch_size=config.batch_size)
        learned = any(True for _ in model.objective.parameters())
        return Measured(
            name=name,
            objective=objective.model_dump(mode="json"),
            sequence_kl=bootstrap(per_prompt(kl, config.samples_per_prompt), seed=config.seed),
            curves=curves(trainer.state.log_history),
            **of_samples(samples, config),
            **of_pairs(pairs),
            **(of_weights(pairs, self.lexicon) if learned else {}),
        )

    def _samples(self, model: PreTrainedModel, stage: Stage) -> list[Sample]:
        return sample(
            model,
            self.tokenizer,
            self.material.prompts,
            self.lexicon,
            per_prompt=self.config.samples_per_prompt,
            max_new_tokens=self.config.max_new_tokens,
            seed=self.config.seed + 3,
            stage=stage,
        )


def _source(config: DemoConfig) -> str:
    return config.model if config.model is not None else str(config.out / "reference")


def _load(source: str) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(source, dtype="float32")


def _reference(config: DemoConfig, stages: Stages) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    source = _source(config)
    if config.model is None:
        with stages.stage("training the reference", config.reference_steps) as stage:
            reviews = corpus_reviews(config.reviews, config.seed)
            train_small_model(
                reviews,
                Path(source),
                steps=config.reference_steps,
                seed=config.seed,
                show=lambda trainer: show_training(trainer, stage, {"loss": "loss"}),
            )
    tokenizer = ensure_pad_token(AutoTokenizer.from_pretrained(source))
    reference = _load(source).requires_grad_(False).eval()
    return reference.to(_arguments(config, "reference", ObjectiveConfig()).device), tokenizer


def _arguments(config: DemoConfig, name: str, objective: ObjectiveConfig) -> PreferenceConfig:
    learned = list(Objective(objective, num_layers=1, hidden_size=1).parameters())
    return PreferenceConfig(
        output_dir=str(config.out / name.lower()),
        max_steps=config.steps,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.policy_learning_rate,
        mask_learning_rate=config.mask_learning_rate if learned else None,
        lr_scheduler_type="cosine",
        warmup_steps=config.steps // 10,
        logging_steps=max(1, config.steps // 40),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=config.seed,
    )


def _command(config: DemoConfig) -> str:
    """What to type for the same run: the command where it has a flag for every setting, else the Python of it."""
    changed: dict[str, Any] = {
        name: getattr(config, name)
        for name, field in DemoConfig.model_fields.items()
        if name != "out" and getattr(config, name) != field.default
    }
    if set(changed) <= set(_ON_THE_COMMAND_LINE):
        flags = [part for name, value in changed.items() for part in (f"--{name}", str(value))]
        return shlex.join(["prefopt", "demo", "--out", str(config.out), *flags])
    settings = ", ".join(
        f"{name}={str(value) if isinstance(value, Path) else value!r}" for name, value in changed.items()
    )
    return f"prefopt.demo.run_demo(prefopt.demo.DemoConfig(out={str(config.out)!r}, {settings}))"
