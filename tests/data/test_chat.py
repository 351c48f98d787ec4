"""What reaches the chat template, what it leaves out, and whose turns a response has."""

import pytest

from prefopt.data import (
    BadRow,
    DataError,
    EncodedPair,
    EncodingConfig,
    encode_pair,
    encode_prompt,
    prepare,
    rows_of,
    to_pair,
)
from prefopt.data.token_texts import response_ids, response_token_texts

# In the manner of Qwen3: thoughts of the last turn alone, parts of a content not read, and a switch.
THINKING = (
    "{% if tools %}[{{ tools | tojson }}]{% endif %}"
    "{% for d in documents or [] %}({{ d.title }}: {{ d.text }}){% endfor %}"
    "{% for m in messages %}<{{ m.role }}>"
    "{% if m.role == 'assistant' and loop.last %}[think]{{ m.reasoning_content }}[/think]{% endif %}"
    "{% if m.content is string %}{{ m.content }}{% endif %}"
    "{% for call in m.tool_calls %}call {{ call.function.name }} {{ call.function.arguments | tojson }}{% endfor %}"
    "</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% if enable_thinking is false %}[think][/think]{% endif %}{% endif %}"
)
# In the manner of Zephyr: other roles than these are not written.
KNOWN_ROLES = (
    "{% for m in messages %}{% if m.role in ('system', 'user', 'assistant') %}<{{ m.role }}>{{ m.content }}</s>"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
# In the manner of Phi-3: an end-of-text token after the whole.
ENDED = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}|{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% else %}{{ eos_token }}{% endif %}"
)


def user(content, **more):
    return {"role": "user", "content": content, **more}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


CHAT = {"prompt": [user("p")], "chosen": [assistant("a")], "rejected": [assistant("b")]}


@pytest.fixture
def encode(row, make_tokenizer):
    def encode(template, fields, **config):
        tokenizer = make_tokenizer(chat_template=template)
        encoded = encode_pair(to_pair(row(fields), {}), tokenizer, EncodingConfig(max_length=None, **config))
        return encoded, tokenizer.decode

    return encode


def texts(encoded, decode):
    assert isinstance(encoded, EncodedPair), encoded
    return tuple(decode(ids) for ids in (encoded.prompt_ids, encoded.chosen_ids, encoded.rejected_ids))


def scored(encoded, decode):
    sides = ((encoded.chosen_ids, encoded.chosen_masked), (encoded.rejected_ids, encoded.rejected_masked))
    return tuple(decode([t for i, t in enumerate(ids) if i not in masked]) for ids, masked in sides)


def test_tools_and_documents(encode):
    documents = [{"title": "t", "text": "x"}]
    for tools in ([{"name": "f"}], '[{"name": "f"}]'):
        encoded, decode = encode(THINKING, CHAT | {"tools": tools, "documents": documents})
        assert texts(encoded, decode)[0] == '[[{"name": "f"}]](t: x)<user>p</s><assistant>'
        assert encoded.left_out == set()
    assert texts(*encode(THINKING, CHAT | {"tools": []}))[0] == "<user>p</s><assistant>"


def test_arguments_of_the_template(encode):
    thought = "<user>p</s><assistant>[think][/think]"
    row = CHAT | {"chat_template_kwargs": {"enable_thinking": False}}
    assert texts(*encode(THINKING, row))[0] == thought
    assert texts(*encode(THINKING, CHAT, chat_template_kwargs={"enable_thinking": False}))[0] == thought
    # A row's own are laid over those of the run.
    assert texts(*encode(THINKING, row, chat_template_kwargs={"enable_thinking": True}))[0] == thought
    assert texts(*encode(THINKING, CHAT))[0] == "<user>p</s><assistant>"


def test_a_prompt_for_generation(make_tokenizer):
    tokenizer = make_tokenizer(chat_template=THINKING)
    config = EncodingConfig(chat_template_kwargs={"enable_thinking": False})
    assert tokenizer.decode(encode_prompt([user("p")], tokenizer, config)) == "<user>p</s><assistant>[think][/think]"


def test_reasoning_and_calls(encode):
    one, two = (assistant("a", reasoning_content=thought) for thought in ("why", "how"))
    encoded, decode = encode(THINKING, CHAT | {"chosen": [one], "rejected": [two]})
    assert texts(encoded, decode)[1:] == ("[think]why[/think]a</s>", "[think]how[/think]a</s>")
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]}
    encoded, decode = encode(THINKING, CHAT | {"rejected": [call]})
    assert texts(encoded, decode)[2] == '[think][/think]call f {"x": 1}</s>'
    assert encoded.left_out == set()


@pytest.mark.parametrize("template", [THINKING, KNOWN_ROLES])
def test_parts_are_joined_for_a_template_that_takes_text(encode, template):
    parts = [{"type": "text", "text": "p"}, {"type": "text", "text": "q"}, " r"]
    encoded, decode = encode(template, CHAT | {"prompt": [user(parts)]})
    assert texts(encoded, decode)[0] == "<user>pq r</s><assistant>"
    assert encoded.left_out == set()


def test_parts_go_as_they_are_to_a_template_that_takes_them(encode):
    template = "{% for m in messages %}{% for part in m.content %}<{{ part.text }}>{% endfor %}{% endfor %}"
    parts = {side: [assistant([{"type": "text", "text": side}])] for side in ("chosen", "rejected")}
    prompt = [user([{"type": "text", "text": "p"}, {"type": "text", "text": "q"}])]
    assert texts(*encode(template, parts | {"prompt": prompt})) == ("<p><q>", "<chosen>", "<rejected>")


def test_what_the_template_does_not_read(encode):
    prompt = [user("p", name="Tom"), assistant("x", reasoning_content="hidden"), user("q")]
    encoded, _ = encode(THINKING, CHAT | {"prompt": prompt, "chosen": [assistant("a", weight=1, reasoning="r")]})
    where = "of messages, which the chat template does not read there"
    assert encoded.left_out == {f"the key '{key}' {where}" for key in ("name", "reasoning_content", "weight")}
    cut = KNOWN_ROLES.replace("m.content", "m.content.split('#')[-1]")
    encoded, _ = encode(cut, CHAT | {"prompt": [user("a#b")]})
    assert encoded.left_out == {"a part of messages' content, which the chat template changes"}


def test_special_tokens_in_the_text_of_messages_are_counted(encode):
    encoded, decode = encode(KNOWN_ROLES, CHAT | {"chosen": [assistant("a</s>")]})
    assert texts(encoded, decode)[1] == "a</s></s>"
    named = {"special tokens in the text of messages read as such, beside those of the chat template"}
    assert (encoded.guessed, encode(KNOWN_ROLES, CHAT)[0].guessed) == (named, set())


@pytest.mark.parametrize("role", ["developer", "narrator"])
def test_a_turn_that_the_template_leaves_out(encode, role):
    # Its text is elsewhere in the conversation too.
    bad, _ = encode(KNOWN_ROLES, CHAT | {"prompt": [user("p"), {"role": role, "content": "p"}]})
    assert isinstance(bad, BadRow)
    assert (bad.field, bad.remedy[:9]) == ("prompt", "use the r")
    assert (
        f"found message 2, of the role '{role}', whose content the tokenizer's chat template leaves out" in bad.problem
    )
    bad, _ = encode(KNOWN_ROLES, CHAT | {"rejected": [assistant("b"), {"role": role, "content": "b"}]})
    assert bad.field == "rejected"
    assert texts(*encode(KNOWN_ROLES, CHAT | {"prompt": [{"role": "human", "content": "p"}]}))[0].startswith("<user>p")


@pytest.mark.parametrize(("template", "end"), [(KNOWN_ROLES, "</s>"), (ENDED, "|")])
def test_turns_of_the_user_are_not_the_responses(encode, template, end):
    chosen = [assistant("yes"), user("sure?"), assistant("very")]
    encoded, decode = encode(template, CHAT | {"chosen": chosen, "rejected": [assistant("no"), user("why?")]})
    last = "</s>" if template is ENDED else ""
    middle = f"<user>sure?{end}<assistant>"
    assert texts(encoded, decode)[1:] == (f"yes{end}{middle}very{end}{last}", f"no{end}<user>why?{end}{last}")
    assert scored(encoded, decode) == (f"yes{end}very{end}{last}", f"no{end}")


def test_several_turns_of_others(encode):
    tool = {"role": "tool", "content": "5"}
    template = ENDED.replace("{{ eos_token }}", "")
    encoded, decode = encode(template, CHAT | {"chosen": [assistant("a"), tool, user("b"), assistant("c"), user("d")]})
    assert scored(encoded, decode) == ("a|c|", "b|")


def test_turns_that_are_written_in_another_way_once_more_follow(encode):
    bad, _ = encode(THINKING, CHAT | {"chosen": [assistant("a"), user("b"), assistant("c")]})
    assert isinstance(bad, BadRow)
    assert (bad.field, bad.remedy) == ("chosen", "make a row of each turn, with the turns before it in the prompt")


def test_turns_of_the_human_in_a_transcript(encode):
    start = "\n\nHuman: Hi\n\nAssistant:"
    chosen = f"{start} Yes.\n\nHuman: Sure?\n\nAssistant: Very."
    encoded, decode = encode(None, {"chosen": chosen, "rejected": f"{start} No.\n\nHuman: Hm"})
    assert texts(encoded, decode)[0] == start
    assert scored(encoded, decode) == (" Yes. Very.</s>", " No.")
    # Without a transcript as prompt, the words are the response's own.
    encoded, _ = encode(None, {"prompt": "p", "chosen": " a\n\nHuman: b", "rejected": " c"})
    assert (encoded.chosen_masked, encoded.rejected_masked) == ([], [])


def test_masked_turns_are_counted(make_tokenizer):
    tokenizer = make_tokenizer(chat_template=KNOWN_ROLES)
    row = CHAT | {"chosen": [assistant("x" * 9), user("y" * 88), assistant("z")]}
    dataset, report = prepare(rows_of([row, CHAT], name="chat"), tokenizer, EncodingConfig(), description="chat")
    count = len("<user>") + 88 + 1 + len("<assistant>")
    assert (report.turns_masked, report.masked_tokens) == (1, count)
    assert dataset[0]["chosen_masked"] == list(range(10, 10 + count))
    line = f"1 pairs with turns of others inside a response, whose {count} tokens do not count as the response's"
    assert line in report.lines()


def test_the_texts_of_a_responses_own_tokens(make_tokenizer):
    tokenizer = make_tokenizer(chat_template=KNOWN_ROLES)
    row = CHAT | {"chosen": [assistant("a"), user("b"), assistant("c")]}
    (pair,), _ = prepare(rows_of([row], name="chat"), tokenizer, EncodingConfig(), description="chat")
    assert response_token_texts(pair, "chosen", tokenizer) == ["a", "</s>", "c", "</s>"]
    assert tokenizer.decode(response_ids(pair, "chosen")) == "a</s>c</s>"


def test_truncation_cuts_masked_turns(encode, make_tokenizer, row):
    tokenizer = make_tokenizer(chat_template=KNOWN_ROLES)
    pair = to_pair(row(CHAT | {"chosen": [assistant("a"), user("b"), assistant("c")]}), {})
    encoded = encode_pair(pair, tokenizer, EncodingConfig(max_length=16))
    assert (len(encoded.prompt_ids), len(encoded.chosen_ids)) == (4, 12)
    assert encoded.chosen_masked == list(range(2, 12))


def test_a_template_among_the_arguments(encode):
    encoded, decode = encode(None, CHAT, chat_template_kwargs={"chat_template": KNOWN_ROLES})
    assert texts(encoded, decode) == ("<user>p</s><assistant>", "a</s>", "b</s>")


def test_no_template_at_all(row, plain):
    with pytest.raises(DataError, match=r"has no chat template; set"):
        encode_pair(to_pair(row(CHAT), {}), plain, EncodingConfig())
