"""A run of a comparison: its configuration, and the digest that identifies it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self, final

from prefopt.objective_config import ObjectiveConfig
from prefopt.tasks.base import Task
from prefopt.training import PreferenceConfig
from prefopt.training.references import without_tokens

MATERIAL = "material"

REFERENCE = "reference"
"""The name of the untrained model, which has no objective."""


def as_text(value: Any) -> str:
    """A swept value as YAML."""
    return value if isinstance(value, str) else json.dumps(value)


def control_name(name: str) -> str:
    """The name of an objective's control (see `controls`)."""
    return f"{name} control"


def configuration_key(configuration: Mapping[str, Any]) -> str:
    """The digest of a run's configuration that is its key."""
    text = json.dumps(configuration, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@final
@dataclass(frozen=True)
class Run:
    """One objective at one setting under one seed.

    name       what the suite calls the objective
    setting    the swept fields -> their values
    objective  None: the reference as it stands is measured
    training   PreferenceConfig's fields but for the folders and the seed
    cached     whether the reference's outputs are cached for other runs
    peft       fields of a LoraConfig; None: all weights train
    control    None, or the name of the objective that this run is the control of
    """

    task: Task
    seed: int
    name: str
    setting: Mapping[str, Any]
    objective: ObjectiveConfig | None
    training: Mapping[str, Any]
    cached: bool
    peft: Mapping[str, Any] | None = None
    control: str | None = None

    def under(self, seed: int) -> Self:
        """The same under another seed."""
        return dataclasses.replace(self, seed=seed)

    @property
    def configuration(self) -> dict[str, Any]:
        """All that determines the run's results; its name and the hub's tokens are no part of it."""
        return {
            "task": self.task.model_dump(mode="json"),
            "seed": self.seed,
            "objective": None if self.objective is None else self.objective.model_dump(mode="json"),
            "training": without_tokens(self.training),
            "reference_cache": self.cached,
            "peft": None if self.peft is None else dict(self.peft),
        }

    @cached_property
    def key(self) -> str:
        """A digest of the configuration."""
        return configuration_key(self.configuration)

    def arguments(self, folder: Path) -> PreferenceConfig:
        """The trainer's arguments. Raises ValueError, TypeError or ImportError where transformers refuses them."""
        # The outputs of a fixed reference are cached; one that follows the policy changes with every update.
        keep = self.cached and self.objective is not None and not self.objective.reference_free
        keep = keep and not self.training.get("sync_ref_model", False)
        return PreferenceConfig(
            **self.training,
            output_dir=str(folder / "training" / self.key),
            seed=self.seed,
            reference_cache=str(folder / "reference-cache") if keep else None,
        )

    def material(self, folder: Path) -> Path:
        """The folder of the material of its task and seed, which runs share."""
        return self.task.material_folder(folder / MATERIAL, self.seed)

    @property
    def setting_text(self) -> tuple[tuple[str, str], ...]:
        """The swept fields and their values as YAML."""
        return tuple((name, as_text(value)) for name, value in self.setting.items())

    def __str__(self) -> str:
        setting = "".join(f", {field.partition('.')[2]} {value}" for field, value in self.setting_text)
        return f"{self.name}{setting}, seed {self.seed}"
