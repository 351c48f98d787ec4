"""The sandbox, where the system grants it, and a tiny model in a folder, as `from_pretrained` finds it."""

from __future__ import annotations

import pytest
import torch
from prefopt_code.sandbox import Sandbox, SandboxError
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = "the a film was good bad fine dull and very plot actor scene it they saw liked hated story end".split()


@pytest.fixture(scope="session")
def allowed() -> None:
    """The system grants what the sandbox needs. An ordinary error of the sandbox is no reason to skip."""
    try:
        Sandbox().check()
    except SandboxError as error:
        if "the system refuses" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny causal LM with a tokenizer of words."""
    vocabulary = {word: index for index, word in enumerate(["<pad>", "<unk>", "<eos>", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", eos_token="<eos>"
    )
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
    folder = str(tmp_path_factory.mktemp("model"))
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
