"""Which tokens have no word."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from prefopt.data.token_texts import wordless_tokens


def test_special_tokens_punctuation_and_white_space_have_no_word() -> None:
    """A byte of a letter that needs two is part of a word, and so is a number; ids beyond the tokenizer are flagged as
    nothing."""
    texts = ["</s>", "Ġ", "Ġgood", ").", "Ċ", "42", "Ã", "©", "_", "[INST]", "中", "don't"]
    core = Tokenizer(models.BPE(vocab={text: index for index, text in enumerate(texts)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", additional_special_tokens=["[INST]"])
    flags = wordless_tokens(tokenizer, len(texts) + 3).tolist()
    wordless = {text for text, flag in zip(texts, flags, strict=False) if flag}
    assert wordless == {"</s>", "Ġ", ").", "Ċ", "_", "[INST]"}
    assert flags[len(texts) :] == [False] * 3
