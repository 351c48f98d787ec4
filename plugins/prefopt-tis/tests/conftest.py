"""A tokenizer and tiny models, in folders as `from_pretrained` finds them."""

from __future__ import annotations

import json

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHAT = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="session")
def tokenizer():
    """A token for every byte, but for a few merges, one of them over a word's beginning."""
    merges = [("Ġ", "g"), ("o", "o"), ("?", "Ġ")]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet()) + [left + right for left, right in merges]
    backend = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", chat_template=CHAT)


@pytest.fixture(scope="session")
def folders(tokenizer, tmp_path_factory):
    """Two models of that tokenizer."""
    paths = []
    for seed in range(2):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=128,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            initializer_range=0.5,
        )
        folder = tmp_path_factory.mktemp("model")
        LlamaForCausalLM(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        paths.append(str(folder))
    return paths


@pytest.fixture(scope="session")
def rows():
    return [
        {"prompt": "So?", "chosen": " good", "rejected": " not so good", "id": 1},
        {"prompt": "Is it é?", "chosen": " It is.", "rejected": " no"},
        {"chosen": "It is a good one", "rejected": "It is not"},
        {
            "prompt": [{"role": "system", "content": "Be."}, {"role": "user", "content": "Why?"}],
            "chosen": [{"role": "assistant", "content": "So."}],
            "rejected": [{"role": "assistant", "content": "No good."}],
        },
        {"prompt": "And then?", "chosen": " more of it", "rejected": " end"},
    ]


@pytest.fixture
def source(rows, tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
