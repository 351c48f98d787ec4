"""Nothing is lost in silence: what a row holds is in the token ids, or the report or an error names it."""

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from prefopt.data import DataError, EncodingConfig, prepare, rows_of
from prefopt.data.pairs import SIDES

TEMPLATES = (
    # Everything is written, with its keys.
    "{{ tools }}{{ documents }}{{ custom }}{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{{ m.reasoning_content }}{{ m.tool_calls }}</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
    # Other roles, and parts of a content, are not; thoughts of the last turn alone are.
    "{% for m in messages %}{% if m.role in ('system', 'user', 'assistant') and m.content is string %}<{{ m.role }}>"
    "{% if loop.last %}{{ m.reasoning_content }}{% endif %}{{ m.content | trim }}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}",
    # A system message moves to the last turn of the user's, so that several turns in a response are refused.
    "{% for m in messages %}{% if m.role == 'user' %}[{{ messages[0].content if loop.last else '' }}{{ m.content }}]"
    "{% elif m.role == 'assistant' %}{{ m.content }}</s>{% endif %}{% endfor %}",
)


class Words:
    """Words that no other text contains, each of them once."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> str:
        self.count += 1
        return f"w{self.count}x"


def now_and_then(draw):
    return draw(st.sampled_from([False] * 11 + [True]))


@st.composite
def message(draw, words, role):
    if now_and_then(draw):
        return {"from": {"user": "human", "assistant": "gpt"}.get(role, role), "value": words()}
    kinds = ["text"] * draw(st.integers(1, 2)) + (["image"] if now_and_then(draw) else [])
    parts = [{"type": kind, "text": words()} for kind in kinds]
    keys = draw(st.sampled_from([(), (), ("reasoning_content",), ("tool_calls",), ("name", "weight")]))
    values = {"tool_calls": [{"function": {"name": words(), "arguments": {"x": words()}}}]}
    content = parts if now_and_then(draw) else words()
    return {"role": role, "content": content} | {key: values.get(key, words()) for key in keys}


@st.composite
def turns(draw, words, first):
    """A turn, or three of alternating roles, now and then with one of another role."""
    roles = [first] if draw(st.booleans()) else ["user", "assistant", "user", "assistant"][first != "user" :][:3]
    if now_and_then(draw):
        roles.insert(draw(st.integers(0, 2)), draw(st.sampled_from(["tool", "human", "developer", "narrator"])))
    return [draw(message(words, role)) for role in roles]


@st.composite
def rows(draw):
    words = Words()
    if draw(st.integers(0, 2)):
        start = [{"role": "system", "content": words()}] * draw(st.integers(0, 1)) + draw(turns(words, "user"))
        sides = [draw(turns(words, "assistant")) for _ in range(2)]
    else:
        start = draw(st.sampled_from([words(), f"\n\nHuman: {words()}\n\nAssistant:"]))
        more = draw(st.integers(0, 1))
        sides = [" " + words() + f"\n\nHuman: {words()}\n\nAssistant: {words()}" * more for _ in range(2)]
    prompt = draw(st.sampled_from(["prompt", "implicit", "question"]))
    if prompt == "question" and isinstance(start, str):
        prompt = draw(st.sampled_from(["question", "instruction"]))
    fields = {side: start + part if prompt == "implicit" else part for side, part in zip(SIDES, sides, strict=True)}
    if prompt != "implicit":
        fields[prompt] = start
    for name in draw(st.sets(st.sampled_from(["system", "input", "source", "note"]), max_size=1)):
        fields[name] = words()
    for name in draw(st.sets(st.sampled_from(["tools", "documents", "chat_template_kwargs", "images"]), max_size=1)):
        fields[name] = {"custom": words()} if name == "chat_template_kwargs" else [{"title": words()}]
    return fields


def leaves(value, path=()):
    """(keys on the way, text) of all texts of a row that are not roles or kinds of parts."""
    if isinstance(value, str):
        return [] if path[-1] in ("role", "from", "type") else [(path, value)]
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in leaves(item, (*path, key))]
    return [leaf for item in value for leaf in leaves(item, path)] if isinstance(value, list) else []


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(fields=rows(), template=st.sampled_from(TEMPLATES))
def test_every_text_of_a_row_is_read_or_named(make_tokenizer, fields, template):
    tokenizer = make_tokenizer(chat_template=template)
    rows_read = rows_of([fields], name="rows")
    config = EncodingConfig(max_length=None)
    columns = {"prompt": "question"} if "question" in fields else {}
    try:
        dataset, report = prepare(rows_read, tokenizer, config, description="rows", columns=columns)
    except DataError as error:
        event("refused", "text" if isinstance(fields["chosen"], str) else "messages")
        line = str(error).splitlines()[1]
        assert line.startswith("  row 0 of rows: ")
        named = "field '" in line and any(f"field '{name}'" in line for name in (*fields, "prompt", "question"))
        assert named or "refuses the conversation" in line, line
        return
    texts = [tokenizer.decode([*dataset[0]["prompt_ids"], *dataset[0][f"{side}_ids"]]) for side in SIDES]
    event("text" if isinstance(fields["chosen"], str) else "messages", bool(report.left_out))
    notices = "\n".join(report.notices())
    for path, leaf in leaves(fields):
        for word in filter(None, leaf.replace("Human:", "").replace("Assistant:", "").split()):
            assert any(word in text for text in texts) or any(f"'{key}'" in notices for key in path), (path, word)


def test_two_outputs_are_chosen_and_rejected(plain):
    rows = [{"instruction": "Add", "input": "1+1", "output": ["2", "3"]}, {"prompt": "q", "output": ("a", "b")}]
    dataset, report = prepare(rows_of(rows, name="x"), plain, EncodingConfig(), description="x")
    decoded = [[plain.decode(row[f"{part}_ids"]) for part in ("prompt", "chosen", "rejected")] for row in dataset]
    assert decoded == [["Add\n1+1", "2</s>", "3</s>"], ["q", "a</s>", "b</s>"]]
    assert report.guessed["the first text of 'output' read as chosen, the second as rejected"] == 2
    assert not report.left_out


def test_what_is_for_a_chat_template_is_named_where_rows_are_text(plain):
    rows = [{"prompt": "q", "chosen": "a", "rejected": "b", "chat_template_kwargs": {"enable_thinking": True}}]
    config, columns = EncodingConfig(chat_template_kwargs={"enable_thinking": False}), {"tools": "functions"}
    _, report = prepare(rows_of(rows, name="x"), plain, config, description="x", columns=columns)
    assert report.left_out == {
        "'enable_thinking' of chat_template_kwargs, as the row is text": 1,
        "column 'chat_template_kwargs'": 1,
        "'tools: functions' of columns, which no such row reads": 1,
    }
    assert not report.is_as_expected
