"""Strategies for documents and files that were right before something was changed in them."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st

from tests.reliability.damage import cut, flipped, zeroed

_ODD: list[Any] = [
    "", " ", "\n", "\0", "\ud800", "none", "true", "1e999", "-1", "${", "${training.seed}", "${a.b}", "a" * 300,
    -1, 0, 2**31, 2**63, 2**64, 10**30, 1e308, float("nan"), float("inf"), -0.0, 1e-320, [], {}, [[]], {"": None},
]  # fmt: skip

VALUES: st.SearchStrategy[Any] = st.sampled_from(_ODD).map(copy.deepcopy) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=5), parts, max_size=3),
    max_leaves=5,
)
"""Values of JSON and YAML, odd ones more often than others."""


@st.composite
def spoilt(draw: st.DrawFn, document: Any, values: st.SearchStrategy[Any] = VALUES) -> Any:
    """The document with one to three changes: a value replaced, taken out, wrapped, doubled, or a key renamed."""
    changed = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        changed = draw(_changed(changed, values))
    return changed


@st.composite
def _changed(draw: st.DrawFn, document: Any, values: st.SearchStrategy[Any]) -> Any:
    if not isinstance(document, dict | list) or not document or draw(st.integers(0, 9)) == 0:
        return draw(values)
    keys = list(document) if isinstance(document, dict) else list(range(len(document)))
    key = draw(st.sampled_from(keys))
    if isinstance(document[key], dict | list) and document[key] and draw(st.integers(0, 3)):
        document[key] = draw(_changed(document[key], values))
        return document
    change = draw(st.sampled_from(["replace", "replace", "replace", "remove", "wrap", "add", "rename"]))
    if change == "replace":
        document[key] = draw(values)
    elif change == "remove":
        del document[key]
    elif change == "wrap":
        document[key] = [document[key]] if draw(st.booleans()) else {"name": document[key]}
    elif isinstance(document, list):
        document.append(draw(values))
    elif change == "add":
        document[draw(st.text(max_size=5))] = draw(values)
    else:
        document[f"{key}s"] = document.pop(key)
    return document


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes that are cut, flipped, zeroed, put in or taken out: never the same, unless there were none."""
    share = draw(st.floats(0, 1))
    at = int(share * len(content))
    change = draw(st.sampled_from(["cut", "flip", "flip", "flip", "zero", "insert", "remove"]))
    if change == "cut":
        result = cut(content, share)
    elif change == "flip" and content:
        result = flipped(content, share, draw(st.integers(0, 7)))
    elif change == "zero":
        result = zeroed(content, share)
    elif change == "insert":
        result = content[:at] + draw(st.binary(min_size=1, max_size=4)) + content[at:]
    else:
        result = content[:at] + content[at + draw(st.integers(1, 4)) :]
    return content[:-1] if result == content else result
