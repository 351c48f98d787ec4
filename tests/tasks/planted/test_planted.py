"""The planted task from end to end, in small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefopt import ObjectiveConfig, zoo
from prefopt.columns import TokenColumn
from prefopt.data import EncodingConfig, prepare, read_rows
from prefopt.data.quiet import quiet
from prefopt.scoring import PreferenceModel
from prefopt.tasks import Evaluation, Material
from prefopt.tasks.planted import PlantedTask
from prefopt.tasks.planted.task import token_words
from prefopt.training import PreferenceConfig, PreferenceTrainer

SMALL = PlantedTask(pairs=24, held_out=6, prompts=4, shortest=8, longest=12, bearing=0.25, reference_steps=4)
ORACLE = {"zoo": "tdpo1", "weighting": {"name": "column", "default": 0.0}}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return SMALL.prepare(tmp_path_factory.mktemp("planted"), 100)


def evaluated(material: Material, objective: ObjectiveConfig, *, train: bool = False) -> Evaluation:
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(material.model)
        policy, reference = (AutoModelForCausalLM.from_pretrained(material.model).eval() for _ in range(2))
        model = PreferenceModel(policy, reference, objective)
        if train:
            trainer = PreferenceTrainer(
                policy,
                reference,
                objective=objective,
                args=PreferenceConfig(
                    str(material.folder / "run"),
                    max_steps=3,
                    learning_rate=1e-2,
                    report_to="none",
                    save_strategy="no",
                    disable_tqdm=True,
                    use_cpu=True,
                ),
                train_dataset=read_rows(material.train),
                processing_class=tokenizer,
            )
            trainer.train()
            model = trainer.model
    return SMALL.evaluate(model, reference, tokenizer, material)


def test_columns_line_up_with_tokens(material: Material) -> None:
    tokenizer = AutoTokenizer.from_pretrained(material.model)
    language = SMALL.language(material.seed)
    assert len(tokenizer) == 120
    for path, count in ((material.train, 24), (material.held_out, 6)):
        data, report = prepare(
            read_rows(path), tokenizer, EncodingConfig(), description="pairs", extra=[TokenColumn("weights")]
        )
        assert report.kept == count
        borne = 0.0
        for row in data.to_list():
            assert len(row["prompt_ids"]) == 4
            for side in ("chosen", "rejected"):
                words = token_words(row[f"{side}_ids"], tokenizer)
                assert words[-1] == tokenizer.eos_token
                assert set(words[:-1]) <= set(language.words)
                assert row[f"{side}:weights"] == language.weights(words)
                borne += sum(row[f"{side}:weights"])
        assert borne > count


def test_no_held_out_prompt_is_trained_on(material: Material) -> None:
    prompts = [
        [json.loads(line)["prompt"] for line in path.read_text().splitlines()]
        for path in (material.train, material.held_out, material.prompts)
    ]
    assert list(map(len, prompts)) == [24, 6, 4]
    assert len({prompt for file in prompts for prompt in file}) == 34


def test_the_material_is_its_seed(material: Material, tmp_path: Path) -> None:
    again, other = SMALL.prepare(tmp_path, 100), SMALL.prepare(tmp_path, 101)
    for name in ("train", "held_out", "prompts"):
        assert getattr(again, name).read_bytes() == getattr(material, name).read_bytes()
        assert getattr(again, name).read_bytes() != getattr(other, name).read_bytes()
    models = [AutoModelForCausalLM.from_pretrained(made.model).state_dict() for made in (material, again)]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_the_true_weights_score_full_marks(material: Material) -> None:
    evaluation = evaluated(material, zoo.build(ORACLE))
    assert set(evaluation.values) == {metric.name for metric in SMALL.metrics}
    for which in ("w", "v"):
        assert set(evaluation.values[f"auroc_{which}"].values()) == {1.0}
        assert set(evaluation.values[f"ap_{which}"].values()) == {1.0}
        assert set(evaluation.values[f"sparsity_error_{which}"].values()) == {0.0}
    assert max(evaluation.values["sequence_kl"].values()) == pytest.approx(0, abs=1e-4)


def test_equal_weights_know_nothing(material: Material) -> None:
    evaluation = evaluated(material, zoo.dpo())
    assert set(evaluation.values["auroc_w"].values()) == {0.5}
    assert not [name for name in evaluation.values if name.endswith("_v")]
    language = SMALL.language(material.seed)
    rows = [json.loads(line) for line in material.held_out.read_text().splitlines()]
    truth = [row["chosen_weights"] + row["rejected_weights"] for row in rows]
    shares = [sum(weights) / len(weights) for weights in truth]
    assert list(evaluation.values["ap_w"].values()) == pytest.approx(shares)
    assert list(evaluation.values["sparsity_error_w"].values()) == pytest.approx([1 - share for share in shares])
    for prompt, texts in evaluation.samples.items():
        assert len(texts) == SMALL.samples
        worth = [language.reward(text.split()) for text in texts]
        assert evaluation.values["reward"][prompt] == pytest.approx(sum(worth) / 2)
        assert 1 <= evaluation.values["tokens"][prompt] <= SMALL.longest + 1


@pytest.mark.slow
def test_a_trained_policy_has_gone_somewhere(material: Material) -> None:
    evaluation = evaluated(material, zoo.build(ORACLE), train=True)
    assert min(evaluation.values["sequence_kl"].values()) > 0
    assert evaluation.values["auroc_w"].keys() == {f"pair {row}" for row in range(6)}
    assert evaluation.values["reward"].keys() == evaluation.samples.keys()
