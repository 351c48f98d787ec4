"""Rows with extra columns, prepared."""

from __future__ import annotations

import pytest

from prefopt.columns import TokenColumn
from prefopt.data import DataError, EncodingConfig, prepare, rows_of

WEIGHT = TokenColumn("w", default=0.25)
GOOD = {"prompt": "abc", "chosen": "de", "rejected": "f", "chosen_w": [], "rejected_w": []}
CHAT_PROMPT = [{"role": "user", "content": "hi there"}]


def prepared(tokenizer, *fields, extra=(WEIGHT,), columns=None, config=None):
    rows = rows_of(fields, name="pairs")
    return prepare(rows, tokenizer, config or EncodingConfig(), description="pairs", columns=columns, extra=extra)[0]


def weights(tokenizer, fields, side="chosen", **more):
    return prepared(tokenizer, fields, **more)[0][f"{side}:w"]


def problem(tokenizer, fields, **more):
    with pytest.raises(DataError) as caught:
        prepared(tokenizer, fields, **more)
    (line,) = str(caught.value).splitlines()[1:]
    return line.strip()


def chat_row(chosen, rejected="nothing", **more):
    def message(content):
        return {"role": "assistant", "content": content}

    return {
        "prompt": CHAT_PROMPT,
        "chosen": message(chosen),
        "rejected": [message(rejected)],
        "chosen_w": [],
        "rejected_w": [],
    } | more
