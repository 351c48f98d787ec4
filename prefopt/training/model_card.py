"""The model card that every save writes, README.md of the hub: front matter, and the sections of `card_sections`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from huggingface_hub import ModelCard, ModelCardData
from peft import PeftModel
from torch import nn

from prefopt.data import DataReport, DataSource
from prefopt.objective import Objective
from prefopt.scoring import PreferenceModel
from prefopt.training.card_file import MARK, marked
from prefopt.training.card_sections import (
    Figures,
    citation_section,
    data_section,
    figures_section,
    objective_section,
    settings_section,
    versions_section,
    without_local_paths,
)
from prefopt.training.config import PreferenceConfig
from prefopt.training.loading import MERGED_BASE
from prefopt.zoo.naming import rows_of

_TEMPLATE = Path(__file__).with_name("model_card.jinja")

_ADAPTER = re.compile(r"An adapter \((\w+)\) of a policy")
"""How the card of an adapter begins."""

_TOKENIZER = "tokenizer = AutoTokenizer.from_pretrained(name)"

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


@final
@dataclass
class CardFacts:
    """What of a run is on its card, besides what the trainer's arguments and model say.

    sources  part of the data, such as "train" or "eval" -> where its rows come from
    figures  prefix of the metrics, such as "eval" -> the last evaluation
    options  front matter and words of the user, which stay for further saves
    """

    pairs: dict[str, int] = field(default_factory=dict)
    reports: dict[str, DataReport] = field(default_factory=dict)
    sources: dict[str, DataSource] = field(default_factory=dict)
    digest: str | None = None
    steps: int = 0
    figures: dict[str, Figures] = field(default_factory=dict)
    log: list[dict[str, float]] = field(default_factory=list)
    repository: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


def model_card(model: PreferenceModel, args: PreferenceConfig, facts: CardFacts) -> str:
    """The card's text, whose last line holds its digest. It has no path of this machine."""
    policy, objective = model.policy, model.objective
    options = {name: value for name, value in facts.options.items() if value is not None}
    base = options.pop("base_model", None) or hub_name(base_name(policy))
    adapter = policy.active_peft_config if isinstance(policy, PeftModel) else None
    name = options.pop("model_name", None) or (facts.repository or Path(args.output_dir).absolute().name).split("/")[-1]
    datasets = options.pop("datasets", None) or [*dict.fromkeys(filter(None, map(_hub_data, facts.sources.values())))]
    front_matter = ModelCardData(
        base_model=base,
        base_model_relation=None if base is None else "finetune" if adapter is None else "adapter",
        datasets=datasets or None,
        library_name="transformers" if adapter is None else "peft",
        pipeline_tag=options.pop("pipeline_tag", "text-generation"),
        tags=[*_tags(objective, policy, adapter), *options.pop("tags", ())],
        **options,
    )
    card = ModelCard.from_template(
        front_matter,
        template_path=str(_TEMPLATE),
        name=name,
        summary=_summary(objective, policy, base, adapter),
        usage=_usage(policy, base, facts.repository or f"path/to/{name}"),
        beside=_beside(objective),
        objective=objective_section(objective),
        data=data_section(facts.pairs, facts.reports, facts.sources, facts.digest),
        settings=settings_section(args, policy.dtype, adapter, facts.steps),
        figures=figures_section(facts.figures, facts.log),
        versions=versions_section(objective),
        citation=citation_section(objective.config),
    )
    return marked(str(card).rstrip() + "\n")


def merged_card(text: str, name: str) -> str:
    """The card of an adapter's run, for the whole model of that name into which the adapter was merged."""
    card = ModelCard(MARK.sub("", text))
    front: Any = card.data
    kind = next(iter(_ADAPTER.findall(card.text)), "")
    front.library_name = "transformers"
    front.tags = [tag for tag in front.tags or () if tag != kind.lower()]
    if front.base_model is not None:
        front.base_model_relation = "finetune"
    body = _ADAPTER.sub("A policy, merged from its adapter (\\1),", card.text, count=1)
    before, _, rest = body.partition("## Use\n")
    after = rest.partition("## Objective\n")[2]
    usage = "\n".join(["prefopt is not needed for this.", "", _python(_whole(f"path/to/{name}"))])
    content = f"---\n{front.to_yaml()}\n---\n{before}## Use\n\n{usage}\n\n## Objective\n{after}"
    return marked(f"{content.rstrip()}\n")


def base_name(policy: nn.Module) -> str | None:
    """The name or folder of the model that a policy was trained from; of an adapter, its base's."""
    if isinstance(policy, PeftModel):
        name: str | None = policy.active_peft_config.base_model_name_or_path
        return name
    return getattr(policy.config, "_name_or_path", None) or None


def hub_name(name: str | None) -> str | None:
    """The name, if it can be one of the hub: it is no folder here, and has the form of one."""
    return name if name and _HUB_NAME.fullmatch(name) and not Path(name).exists() else None


def _hub_data(source: DataSource) -> str | None:
    return hub_name(source.path)


def _tags(objective: Objective, policy: nn.Module, adapter: Any) -> Iterator[str]:
    yield from ("prefopt", "preference-optimization")
    yield from (row.name for row in rows_of(objective.config)[:1])
    if adapter is not None:
        yield adapter.peft_type.value.lower()
    yield from getattr(policy, "model_tags", None) or ()


def _summary(objective: Objective, policy: nn.Module, base: str | None, adapter: Any) -> str:
    name = base_name(policy)
    if base is not None:
        commit = getattr(policy.config, "_commit_hash", None)
        origin = f"[{base}](https://huggingface.co/{base}){(commit and f' at {commit}') or ''}"
    elif name is not None:
        origin = f"a model that is not on the hub, `{without_local_paths(name)}`"
    else:
        origin = "a model without a name"
    rows = rows_of(objective.config)
    objectives = f"the objective `{rows[0].name}`" if rows else "an objective of its own"
    kind = "A policy" if adapter is None else f"An adapter ({adapter.peft_type.value}) of a policy"
    return f"{kind} trained on preference pairs with prefopt under {objectives}, from {origin}."


def _usage(policy: nn.Module, base: str | None, name: str) -> str:
    """Python that loads the policy with transformers, or with PEFT."""
    if not isinstance(policy, PeftModel):
        return _python(_whole(name))
    lines = ["from peft import PeftModel", "from transformers import AutoModelForCausalLM, AutoTokenizer", ""]
    lines += [f'name = "{name}"', f"base = {_base_call(policy, base)}"]
    active = policy.active_adapters[0]
    options = "" if active == "default" else f', subfolder="{active}"'
    return _python([*lines, f"model = PeftModel.from_pretrained(base, name{options})", _TOKENIZER])


def _whole(name: str) -> list[str]:
    lines = ["from transformers import AutoModelForCausalLM, AutoTokenizer", "", f'name = "{name}"']
    return [*lines, "model = AutoModelForCausalLM.from_pretrained(name)", _TOKENIZER]


def _python(lines: list[str]) -> str:
    return "\n".join(["```python", *lines, "```"])


def _base_call(policy: PeftModel, base: str | None) -> str:
    if base is not None:
        return f'AutoModelForCausalLM.from_pretrained("{base}")'
    if Path(str(base_name(policy))).name == MERGED_BASE:
        return f'AutoModelForCausalLM.from_pretrained(name, subfolder="{MERGED_BASE}")'
    return 'AutoModelForCausalLM.from_pretrained("path/to/the/base")  # which is not on the hub'


def _beside(objective: Objective) -> str:
    text = "`objective.yaml` beside the policy is the objective that it was trained with"
    if masks := objective.learned_masks:
        learned: Mapping[str, str] = {"weights": "the log-ratios", "divergence_weights": "the divergence"}
        parts = " and ".join(learned[name] for name in masks)
        text += (
            f", and `objective.safetensors` what its mask learned: it weighs {parts} of response tokens by the "
            "reference's states, in training and in `prefopt inspect`. Nothing that generates reads it"
        )
    if objective.config.units in objective.learners:
        text += (
            f", and `objective.safetensors`{' also' if masks else ''} what its units learned: the baseline of their "
            "margins, in training and in `prefopt inspect`. Nothing that generates reads it"
        )
    return f"{text}."
