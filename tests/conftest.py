from __future__ import annotations

import gc
import os
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from prefopt.scoring.layout_choice import LayoutChoice
from tests.little_plugins import install
from tests.our_plugins import code_plugin, lexicon_plugin, tis_plugin, words_plugin

__all__ = ["code_plugin", "install", "lexicon_plugin", "tis_plugin", "words_plugin"]  # fixtures, for every test

_SEED = 20
"""Of no test: models that are made from it are not those that a test makes from a seed of its own."""

torch.set_num_threads(1)  # the models of the tests are so small that a second thread only gets in the way


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of tests that are marked `one_in`, the cases between are long ones. Modules of marked tests come first, so that
    no worker is left with one of them in the end."""
    cases = Counter[str]()
    for item in items:
        if mark := item.get_closest_marker("one_in"):
            test = item.nodeid.partition("[")[0]
            if cases[test] % mark.args[0]:
                item.add_marker("long")
            cases[test] += 1
    heavy = {item.path for item in items if any(mark.name in {"outside", "slow"} for mark in item.iter_markers())}
    items.sort(key=lambda item: item.path not in heavy)


@pytest.fixture(scope="module", autouse=True)
def _what_is_imported_need_not_be_collected_again() -> None:
    """Every training run collects garbage, which walks all that the libraries made when they were imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _fixtures_draw_the_same_each_time() -> None:
    """What a module's fixtures draw without a seed of their own, in whatever order modules come."""
    torch.manual_seed(_SEED)


@pytest.fixture(autouse=True)
def _tests_draw_the_same_each_time() -> None:
    """Of what is drawn without a seed, one time in a thousand is too far from its mean for a tolerance."""
    torch.manual_seed(_SEED)


@pytest.fixture(autouse=True)
def _made_up_pairs_are_for_scoring(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above scoring, whose tests try the proof on made-up pairs, models are compared on the pairs of their data alone:
    the proof takes longer than the few steps of these tests. Processes of their own go through it."""
    above = {"cli", "comparison", "inspection", "report", "tasks", "training", "test_docs.py"}
    if above & {request.path.parent.name, request.path.name}:
        monkeypatch.setattr(
            LayoutChoice, "_compare_made_up", lambda choice, _, longest: setattr(choice, "_longest", longest)
        )


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real texts and models that tests may use but the project does not hold; PREFOPT_SHARED names it."""
    folder = Path(os.environ.get("PREFOPT_SHARED") or Path(__file__).parents[1] / "../shared").resolve()
    if not (folder / "data").is_dir():
        pytest.skip(f"no folder of shared data at {folder}; set PREFOPT_SHARED to one")
    return folder


WORDS = "the a film was good bad fine dull and very plot actor scene it they saw liked hated story end".split()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate(["<pad>", "<unk>", "<eos>", *WORDS])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", unk_token="<unk>", eos_token="<eos>")


@pytest.fixture(scope="session")
def model_folder(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny causal LM with its tokenizer, as `from_pretrained` finds it."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    folder = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def rows() -> list[dict[str, str]]:
    """32 preference pairs of unequal lengths."""
    draw = random.Random(0)

    def words(low: int, high: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(low, high)))

    return [
        {"prompt": words(1, 4), "chosen": f" {words(1, 9)} good", "rejected": f" {words(1, 9)} bad"} for _ in range(32)
    ]


@pytest.fixture
def out(tmp_path: Path) -> str:
    return str(tmp_path / "run")
