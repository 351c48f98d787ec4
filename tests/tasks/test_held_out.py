"""What is measured of every policy, against the definitions written out by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from prefopt import zoo
from prefopt.data import EncodingConfig
from prefopt.objective_config import ObjectiveConfig
from prefopt.sampling import Generation
from prefopt.scoring import PreferenceModel
from prefopt.tasks.base import Material
from prefopt.tasks.generation import GENERATION_METRICS, generate
from prefopt.tasks.held_out import COMMON, held_out
from prefopt.tasks.planted import PlantedTask

SMALL = PlantedTask(pairs=4, held_out=5, prompts=3, shortest=5, longest=8, bearing=0.3, reference_steps=2)


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return SMALL.prepare(tmp_path_factory.mktemp("material"), 3)


@pytest.fixture(scope="module")
def tokenizer(material: Material) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(material.model)


def loaded(material: Material, moved: float = 0.0) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(material.model).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight += moved * torch.randn_like(weight)
    return model


def logps(model: PreTrainedModel, prompt: list[int], response: list[int]) -> torch.Tensor:
    """log-probabilities [T, V] at the positions that predict the response."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
    return logits.double().log_softmax(-1)


@pytest.mark.parametrize("objective", [zoo.dpo(), zoo.sparsepo(shared=False), zoo.simpo()], ids=["dpo", "spo", "simpo"])
def test_held_out_pairs_by_hand(
    objective: ObjectiveConfig, material: Material, tokenizer: PreTrainedTokenizerBase
) -> None:
    policy, reference = loaded(material, 0.05), loaded(material)
    model = PreferenceModel(policy, loaded(material), objective)
    result = held_out(model, reference, tokenizer, material, EncodingConfig(), batch_size=2)
    assert set(result.values) <= {metric.name for metric in COMMON}
    assert ("mean_v" in result.values) == (objective.divergence is not None)
    rows = [json.loads(line) for line in material.held_out.read_text().splitlines()]
    sums: dict[tuple[str, int], list[float]] = {}
    for number, row in enumerate(rows):
        prompt = tokenizer(row["prompt"])["input_ids"]
        for side in ("chosen", "rejected"):
            response = [*tokenizer(row["prompt"] + row[side])["input_ids"][len(prompt) :], tokenizer.eos_token_id]
            p, q = logps(policy, prompt, response), logps(reference, prompt, response)
            divergence = (q.exp() * (q - p)).sum(-1).tolist()
            for position, value in enumerate(divergence):
                sums.setdefault((side, position), []).append(value)
            if number < 4:
                shown: dict[str, Any] = result.heat_maps[number][side]
                assert shown["divergence"] == pytest.approx(divergence, rel=1e-3, abs=1e-5)
                labels = torch.tensor(response)[:, None]
                log_ratio = (p - q).gather(-1, labels)[:, 0].tolist()
                assert shown["log_ratio"] == pytest.approx(log_ratio, rel=1e-3, abs=1e-4)
                assert "".join(shown["tokens"]) == row[side] + tokenizer.eos_token
                assert len(shown["w"]) == len(response)
                assert (shown["v"] is None) == (objective.divergence is None)
    assert len(result.heat_maps) == 4
    for side in ("chosen", "rejected"):
        by_hand = [sum(column) / len(column) for (which, _), column in sums.items() if which == side]
        assert result.profiles[f"divergence/{side}"] == pytest.approx(by_hand, rel=1e-3, abs=1e-5)
    for which in ("w", "v") if objective.divergence else ("w",):
        for number, shown in enumerate(result.heat_maps):
            weights = shown["chosen"][which] + shown["rejected"][which]
            figures = {"mean": sum(weights), "sparsity": sum(weight == 0 for weight in weights)}
            for name, total in figures.items():
                measured = result.values[f"{name}_{which}"][f"pair {number}"]
                assert measured == pytest.approx(total / len(weights), rel=1e-5)


def test_an_untrained_policy_prefers_nothing(material: Material, tokenizer: PreTrainedTokenizerBase) -> None:
    model = PreferenceModel(loaded(material), loaded(material), zoo.dpo())
    result = held_out(model, loaded(material), tokenizer, material, EncodingConfig(), batch_size=8)
    assert set(result.values["accuracy"].values()) == {0.5}
    assert max(map(max, result.profiles.values())) < 1e-5


def test_what_is_written_is_the_seed(material: Material, tokenizer: PreTrainedTokenizerBase) -> None:
    policy, reference = loaded(material, 0.05), loaded(material)
    prompts = [prompt.text for prompt in material.read_prompts()]
    generation = Generation(samples=3, max_new_tokens=6)
    generations = generate(policy, reference, tokenizer, prompts, generation, seed=0)
    again = generate(policy, reference, tokenizer, prompts, generation, seed=0)
    assert generations == again
    assert generations != generate(policy, reference, tokenizer, prompts, generation, seed=1)
    assert set(generations.figures) == {metric.name for metric in GENERATION_METRICS}
    assert [len(texts) for texts in generations.texts] == [3, 3, 3]
    for prompt, texts, answers, distance in zip(
        prompts, generations.texts, generations.ids, generations.figures["sequence_kl"], strict=True
    ):
        ids = tokenizer(prompt)["input_ids"]
        by_hand = []
        for text, answer in zip(texts, answers, strict=True):
            p, q = logps(policy, ids, answer), logps(reference, ids, answer)
            by_hand.append(float((p.exp() * (p - q)).sum()))
            assert tokenizer.eos_token not in text
            assert (prompt + text).startswith(prompt)
        assert distance == pytest.approx(sum(by_hand) / 3, rel=1e-3)


def test_other_temperatures_leave_the_distance_as_it_is(material: Material, tokenizer: PreTrainedTokenizerBase) -> None:
    policy, reference = loaded(material, 0.05), loaded(material)
    prompts = [prompt.text for prompt in material.read_prompts()]
    plain = generate(policy, reference, tokenizer, prompts, Generation(max_new_tokens=6), seed=1)
    cold = generate(policy, reference, tokenizer, prompts, Generation(max_new_tokens=6, temperature=0), seed=0)
    assert cold.figures["sequence_kl"] == plain.figures["sequence_kl"]
    assert all(len(set(texts)) == 1 for texts in cold.texts)


def test_a_tokenizer_without_an_ending_takes_the_models(material: Material, tokenizer: PreTrainedTokenizerBase) -> None:
    policy, reference = loaded(material), loaded(material)
    prompts = [prompt.text for prompt in material.read_prompts()]
    generation = Generation(samples=30, max_new_tokens=9)
    whole = generate(policy, reference, tokenizer, prompts, generation, seed=0)
    endless = AutoTokenizer.from_pretrained(material.model)
    endless.eos_token = None
    assert generate(policy, reference, endless, prompts, generation, seed=0) == whole
    assert sum(whole.figures["ended"]) > 0
