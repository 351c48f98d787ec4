"""What the data report says of conversations that a template writes in a way that the row does not say."""

import json

import pytest

from prefopt.data import BadRow, DataError, EncodingConfig, encode_pair, prepare, read_rows, rows_of, to_pair

PLAIN = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


CHAT = {"prompt": [user("p")], "chosen": [assistant("a")], "rejected": [assistant("b")]}


@pytest.fixture
def read(row, make_tokenizer):
    def read(fields, template=PLAIN, **config):
        tokenizer = make_tokenizer(chat_template=template)
        pair = to_pair(row(fields), {})
        return pair if isinstance(pair, BadRow) else encode_pair(pair, tokenizer, EncodingConfig(**config))

    return read


@pytest.mark.parametrize(("more", "kept"), [([user("thanks")], False), ([user("more?"), assistant("c")], True)])
def test_turns_of_others_are_no_preference(read, more, kept):
    encoded = read(CHAT | {"rejected": [assistant("a"), *more]})
    assert (encoded is not None) == kept


def test_a_cut_that_leaves_turns_of_others_alone_to_differ(read):
    fields = CHAT | {"chosen": [assistant("a"), user("u"), assistant("c")], "rejected": [assistant("a"), user("u" * 9)]}
    assert isinstance(read(fields), BadRow)  # two unlike questions
    same = CHAT | {"chosen": [assistant("a"), user("u"), assistant("c")], "rejected": [assistant("a")]}
    assert read(same) is not None
    assert read(same, max_length=len("<user>p</s><assistant>a</s><us") - 6) is None  # each EOS is one token


def test_what_the_template_leaves_out_is_the_reason(read):
    reasons = {"chosen": [assistant("a", reasoning_content="x")], "rejected": [assistant("a", reasoning_content="y")]}
    bad = read(CHAT | reasons)
    assert isinstance(bad, BadRow)
    assert "found the same tokens as in 'chosen', without the key 'reasoning_content' of messages" in bad.problem


def test_roles_in_capitals_are_the_usual_ones(read):
    encoded = read(
        {
            "prompt": [{"role": "Human", "content": "p"}],
            "chosen": [{"role": "Assistant", "content": "a"}, {"role": "USER", "content": "u"}, assistant("c")],
            "rejected": [assistant("b")],
        }
    )
    assert encoded.guessed == {
        "the role 'Human' read as 'user'",
        "the role 'Assistant' read as 'assistant'",
        "the role 'USER' read as 'user'",
    }
    plain = read(CHAT | {"chosen": [assistant("a"), user("u"), assistant("c")]})
    assert (encoded.prompt_ids, encoded.chosen_ids, encoded.chosen_masked) == (
        plain.prompt_ids,
        plain.chosen_ids,
        plain.chosen_masked,
    )


def test_other_roles_are_counted(read):
    responses = {"chosen": [{"role": "bot", "content": "a"}], "rejected": [{"role": "bot", "content": "b"}]}
    guessed = read(CHAT | responses).guessed
    assert "the role 'bot', which is none of the usual ones, left to the chat template" in guessed
    assert (
        "'assistant>', which the chat template writes before an answer is sampled, not before these responses"
        in guessed
    )


def test_a_prompt_that_ends_in_a_turn_of_the_assistant(read):
    guessed = read(CHAT | {"prompt": [user("p"), assistant("The answer is")]}).guessed
    assert guessed == {"prompts that end in a turn of the assistant, after which the response is another turn"}


def test_a_thought_that_is_opened_for_generation_alone(read):
    encoded = read(CHAT, PLAIN.replace("<assistant>{% endif %}", "<assistant><think>{% endif %}"))
    assert encoded.boundary_moved
    assert encoded.guessed == {
        "'<think>', which the chat template writes before an answer is sampled, not before these responses"
    }


@pytest.mark.parametrize(("end", "guessed"), [("</s>", 0), ("</s>\n", 0), ("\n", 1), ("<|end|>", 1)])
@pytest.mark.parametrize("blank", ["", " ", "\n\n"])
def test_responses_without_an_end(read, end, guessed, blank):
    chosen = [{"role": "assistant", "content": CHAT["chosen"][0]["content"] + blank}]
    encoded = read(CHAT | {"chosen": chosen}, PLAIN.replace("</s>", end))
    wanted = {"chat responses that end without EOS or another special token, which would stop them"}
    assert encoded.guessed == (wanted if guessed else set())


def test_the_date(read):
    dated = "{{ date_string or strftime_now('%d %b %Y') }}" + PLAIN
    assert read(CHAT, dated).guessed == {
        "today's date, which the chat template writes: other tokens tomorrow, in no reference cache"
    }
    assert read(CHAT, dated, chat_template_kwargs={"date_string": "26 Jul 2024"}).guessed == set()


@pytest.mark.parametrize("field", ["prompt", "tools"])
def test_a_doubled_key_in_json_text(read, field):
    text = '[{"role": "user", "content": "p", "content": "q"}]'
    fields = {name: json.dumps(messages) for name, messages in CHAT.items()} | {field: text}
    bad = read(fields)
    assert isinstance(bad, BadRow)
    assert (bad.field, bad.problem) == (field, "found the key 'content' twice")


def test_keys_that_are_no_text(plain):
    with pytest.raises(DataError, match="row 0 of rows: found the key 1; give names of fields as text"):
        prepare(
            rows_of([{1: "x", "prompt": "p", "chosen": "a"}], name="rows"), plain, EncodingConfig(), description="x"
        )


@pytest.mark.parametrize(("chosen", "guessed"), [("a</s>", 0), ("a</s></s>", 1), ("<s>a", 1), ("a", 0)])
def test_bos_and_eos_inside_of_a_text_response(row, make_tokenizer, chosen, guessed):
    tokenizer = make_tokenizer(bos=True)
    encoded = encode_pair(to_pair(row(prompt="<s>q", chosen=chosen, rejected="b"), {}), tokenizer, EncodingConfig())
    wanted = {"BOS or EOS inside of the text of a response, before its end, read as such"}
    assert encoded.guessed == (wanted if guessed else set())


@pytest.mark.parametrize(("key", "value"), [("train", False), ("weight", 0), ("weight", 1)])
def test_keys_that_switch_turns_off_are_named(read, key, value):
    encoded = read(CHAT | {"chosen": [assistant("a", **{key: value})]})
    assert encoded.left_out == {f"the key '{key}' of messages, which the chat template does not read there"}


def test_prompts_without_text(read):
    assert read(CHAT | {"prompt": [user(" ")]}).guessed == {"prompts of messages without text"}


def test_the_column_that_may_be_the_prompt(read):
    bad = read({"messages": [user("p")], "chosen": [assistant("a")], "rejected": [assistant("b")]})
    assert "or say which column holds it with columns: {prompt: messages} (--column prompt=messages of" in bad.remedy


def test_json_that_is_nested_too_deep(tmp_path):
    path = tmp_path / "deep.jsonl"
    path.write_text('{"prompt": ' + "[" * 100_000 + "]" * 100_000 + "}")
    (bad,) = read_rows(path)
    assert bad.problem == "found a line that is not JSON (lists or objects are nested too deep to be read)"
