"""What a demo run is told: DemoConfig."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["DemoConfig"]


class DemoConfig(BaseModel):
    """The demo's settings; every one has a default, and the defaults are the job that runs offline in minutes.

    out      folder for everything that the run writes
    model    None: a small model, trained here on a generated corpus. Else a name or folder for `from_pretrained`, which
             is the reference as it stands
    prompts  text file with one prompt a line, for a `model` of yours. None: those of `pairs`, or of the corpus
    pairs    preference pairs for a `model` of yours, anything that `prefopt.data.read_rows` reads. None: sampled from
             the reference, scored by the words, best against worst
    words    YAML or JSON file {"positive": [...], "negative": [...]} that scores texts. None: the corpus's own words
    seed     of the corpus, of every initialisation and of every sample

    reviews, reference_steps          size of the generated corpus; steps of training the small model on it
    train_prompts, held_out_prompts   at most so many; of a short list, a quarter is held out
    samples_per_prompt                for sampled pairs and for evaluation; even
    max_new_tokens                    most tokens of a sample
    steps, batch_size                 of each preference training; the batch in pairs
    learning_rate                     None: 3e-4 for the small model, 1e-5 for a model of yours
    beta                              of both objectives
    mask_learning_rate, l1_reward, l1_divergence   of SparsePO's masks
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    out: Path = Path("runs/demo")
    model: str | None = None
    prompts: Path | None = None
    pairs: str | None = None
    words: Path | None = None
    seed: int = Field(default=0, ge=0)

    reviews: int = Field(default=20_000, ge=10)
    reference_steps: int = Field(default=600, ge=1)
    train_prompts: int = Field(default=320, ge=1)
    held_out_prompts: int = Field(default=96, ge=1)
    samples_per_prompt: int = Field(default=8, ge=2, multiple_of=2)
    max_new_tokens: int = Field(default=48, ge=1)
    steps: int = Field(default=160, ge=1)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float | None = Field(default=None, gt=0)
    beta: float = Field(default=0.1, gt=0)
    mask_learning_rate: float = Field(default=3e-3, gt=0)
    l1_reward: float = Field(default=7e-4, ge=0)
    l1_divergence: float = Field(default=2e-3, ge=0)

    @property
    def policy_learning_rate(self) -> float:
        """The learning rate of the policies, as given or by default."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 3e-4 if self.model is None else 1e-5

    @model_validator(mode="after")
    def _can_run(self) -> Self:
        if self.model is None:
            for field in ("prompts", "pairs"):
                if getattr(self, field) is not None:
                    raise ValueError(
                        f"`{field}` is set, but `model` is not: the small model that the demo trains knows only the "
                        f"words of its own corpus. Set `model` as well, or leave `{field}` out."
                    )
        elif self.prompts is None and self.pairs is None:
            raise ValueError(
                "`model` is set, but nothing to ask it: set `prompts` (a text file, one prompt a line) or `pairs`, "
                "whose prompts are then used."
            )
        for field in ("prompts", "words"):
            path: Path | None = getattr(self, field)
            if path is not None and not path.is_file():
                raise ValueError(f"`{field}`: there is no file {path}; it was looked for at {path.absolute()}")
        return self
