from __future__ import annotations

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from prefopt.data import SourceRow

BOS, EOS = "<s>", "</s>"

CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="session")
def make_tokenizer():
    """A tokenizer of one token a byte but for the merges, which may join any two tokens, even over a word's end."""

    def make(*merges, bos=False, eos=True, adds_bos=False, adds_eos=False, chat_template=None):
        vocabulary = {token: number for number, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
        for left, right in merges:
            vocabulary[left + right] = len(vocabulary)
        backend = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.decoder = decoders.ByteLevel()
        backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (BOS, EOS)])
        if adds_bos or adds_eos:
            backend.post_processor = processors.TemplateProcessing(
                single=[BOS] * adds_bos + ["$A"] + [EOS] * adds_eos,
                special_tokens=[(token, backend.token_to_id(token)) for token in (BOS, EOS)],
            )
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend, bos_token=BOS if bos or adds_bos else None, eos_token=EOS if eos else None
        )
        tokenizer.chat_template = chat_template
        return tokenizer

    return make


@pytest.fixture(scope="session")
def plain(make_tokenizer):
    """One token a byte, an EOS token that it never adds, no BOS."""
    return make_tokenizer()


@pytest.fixture(scope="session")
def chat(make_tokenizer):
    return make_tokenizer(chat_template=CHAT_TEMPLATE)


@pytest.fixture
def row():
    """A row of a file, by its fields."""

    def make(fields=None, /, where="pairs.jsonl:7", **more):
        return SourceRow(where, {**(fields or {}), **more})

    return make
