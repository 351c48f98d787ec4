"""What is compared on: a task makes material for a seed, and evaluates a trained policy on it."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, final

from filelock import FileLock
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefopt.component import Named
from prefopt.sampling import Prompt
from prefopt.scoring import PreferenceModel
from prefopt.tasks.preference_data.forms import Compared
from prefopt.tasks.preference_data.sources import as_text
from prefopt.whole_files import publish_folder

TRAIN, HELD_OUT, PROMPTS = "train.jsonl", "held-out.jsonl", "prompts.jsonl"
"""What `Task.make` writes: preference pairs, and rows that have a `prompt`."""

_DONE = "material.json"


@final
class HeldOutPrompt(NamedTuple):
    """A prompt that policies answer: the item's name, text or messages, and the row of the material."""

    item: str
    prompt: Prompt
    row: Mapping[str, Any]

    @property
    def text(self) -> str:
        return as_text(self.prompt)


@final
@dataclass(frozen=True)
class Material:
    """What a task trains on and evaluates on, for one seed.

    folder  holds the pairs for training, the held-out pairs and the held-out prompts
    model   the reference with its tokenizer, and the policy before training: a name or folder for `from_pretrained`
    """

    folder: Path
    model: str
    seed: int

    @property
    def train(self) -> Path:
        return self.folder / TRAIN

    @property
    def held_out(self) -> Path:
        return self.folder / HELD_OUT

    @property
    def prompts(self) -> Path:
        return self.folder / PROMPTS

    def read_prompts(self) -> list[HeldOutPrompt]:
        """The held-out prompts in the order of their rows, named "prompt 0", "prompt 1" and so on."""
        with self.prompts.open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        return [HeldOutPrompt(f"prompt {index}", row["prompt"], row) for index, row in enumerate(rows)]


@final
@dataclass(frozen=True)
class Metric:
    """A figure of a trained policy: its name, which direction is better, and what it is, units included."""

    name: str
    better: Literal["higher", "lower", "neither"]
    what: str


@final
@dataclass(frozen=True)
class Evaluation:
    """What a task measured of one policy.

    values   metric -> held-out item -> figure, without the items that have none. Items have the same names in every run
             on the same material, so that runs can be compared item by item
    samples  prompt -> the policy's completions of it, as text
    """

    values: Mapping[str, Mapping[str, float]]
    samples: Mapping[str, list[str]]

    @classmethod
    def by_prompt(
        cls, prompts: Sequence[HeldOutPrompt], texts: Sequence[list[str]], figures: Mapping[str, Sequence[float | None]]
    ) -> Evaluation:
        """From the samples of each prompt, and metric -> a figure for each prompt, None where one is not defined."""
        values = {
            name: {prompt.item: value for prompt, value in zip(prompts, column, strict=True) if value is not None}
            for name, column in figures.items()
        }
        return cls(values, {prompt.text: samples for prompt, samples in zip(prompts, texts, strict=True)})


class Task(Named):
    """Something to compare objectives on; its fields are what can be varied of it.

    `make` is called once for each seed, and has to write the same files each time. What is the same for all tasks is
    measured without them, on the held-out pairs (see `held_out`). Plugins bring tasks by the hook `prefopt_tasks`.
    """

    kind: ClassVar[str] = "task"
    hook: ClassVar[str] = "prefopt_tasks"

    @property
    def title(self) -> str:
        """What pages of results call it: its name, unless it says more."""
        return self.name

    @property
    @abstractmethod
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics that `evaluate` may give values of, beside `held_out.COMMON`; the headline comes first."""

    @property
    def marks(self) -> Callable[[Sequence[str]], list[bool]] | None:
        """Whether the tokens of a response, given as texts, are among those that matter; None: the task knows none."""
        return None

    @property
    def headline(self) -> str:
        """The metric that policies are compared by first, against their distance from the reference."""
        return next((metric.name for metric in self.metrics), "accuracy")

    @abstractmethod
    def make(self, folder: Path, seed: int) -> str:
        """Write TRAIN, HELD_OUT and PROMPTS into an empty folder; return the model.

        The model is a name or folder for `from_pretrained`; a folder inside of `folder` will move with it.
        """

    @abstractmethod
    def evaluate(
        self, model: PreferenceModel, reference: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, material: Material
    ) -> Evaluation:
        """Measure `model.policy` against the reference that it was trained from, on held-out material."""

    @final
    def material_folder(self, root: Path, seed: int) -> Path:
        """The folder under `root` of the material for a seed, made or not."""
        settings = json.dumps({"task": self.model_dump(mode="json"), "seed": seed}, sort_keys=True)
        return root / f"{self.name}-{hashlib.sha256(settings.encode()).hexdigest()[:12]}"

    @final
    def prepare(self, root: Path, seed: int) -> Material:
        """The material for a seed, made in `material_folder` unless it is there.

        One process makes it, and others wait. A process that is killed meanwhile leaves nothing that counts as
        material.
        """
        folder = self.material_folder(root, seed)
        if not folder.exists():
            root.mkdir(parents=True, exist_ok=True)
            with FileLock(root / f".{folder.name}.lock"):
                if not folder.exists():
                    self._make(folder, seed)
        record: dict[str, Any] = json.loads((folder / _DONE).read_text(encoding="utf-8"))
        inside = record["inside"]
        return Material(folder, record["model"] if inside is None else str(folder / inside), seed)

    def _make(self, folder: Path, seed: int) -> None:
        for unfinished in folder.parent.glob(f".{folder.name}-*"):
            shutil.rmtree(unfinished)  # of a process that was killed
        making = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            model = self.make(making, seed)
            inside = str(Path(model).relative_to(making)) if Path(model).is_relative_to(making) else None
            record = {"task": self.model_dump(mode="json"), "seed": seed}
            record |= {"model": model if inside is None else None, "inside": inside}
            (making / _DONE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            publish_folder(making, folder)
        finally:
            shutil.rmtree(making, ignore_errors=True)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write rows as JSONL."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_split(
    folder: Path, train: Iterable[Compared], held_out: Iterable[Compared], prompts: Iterable[Compared]
) -> None:
    """Write the material of a task: training pairs, held-out pairs, and the pairs whose prompts policies answer."""
    write_jsonl(folder / TRAIN, map(Compared.as_row, train))
    write_jsonl(folder / HELD_OUT, map(Compared.as_row, held_out))
    write_jsonl(folder / PROMPTS, map(Compared.as_prompt_row, prompts))
