"""Arguments of tool calls as JSON text and as objects, in the form that the chat template reads."""

import pytest

from prefopt.data import BadRow, EncodingConfig, encode_pair, encode_prompt, to_pair

HEAD = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% for call in m.tool_calls %}{{ call.function.name }} "
TAIL = "{% endfor %}</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
# In the manner of Qwen2.5 and Llama 3.1, of Qwen3, of GLM, and of DeepSeek-V3.
AS_JSON = HEAD + "{{ call.function.arguments | tojson }}" + TAIL
EITHER = (
    HEAD + "{% if call.function.arguments is string %}{{ call.function.arguments }}"
    "{% else %}{{ call.function.arguments | tojson }}{% endif %}" + TAIL
)
ITEMS = HEAD + "{% for k, v in call.function.arguments | items %}{{ k }}={{ v }}{% endfor %}" + TAIL
TEXT = HEAD + "{{ '' + call.function.arguments }}" + TAIL

CONVERTED = "arguments of tool calls put into the form that the chat template reads"


def call(arguments):
    return {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}


@pytest.mark.parametrize(
    ("template", "arguments", "text", "converted"),
    [
        (AS_JSON, '{"x": "é"}', 'f {"x": "é"}', True),
        (AS_JSON, {"x": "é"}, 'f {"x": "é"}', False),
        (EITHER, '{"x":"é"}', 'f {"x":"é"}', False),
        (EITHER, {"x": "é"}, 'f {"x": "é"}', False),
        (ITEMS, '{"x": "é"}', "f x=é", True),
        (TEXT, {"x": "é"}, 'f {"x": "é"}', True),
        (TEXT, '{"x": "é"}', 'f {"x": "é"}', False),
        (AS_JSON, "no JSON", 'f "no JSON"', False),
    ],
)
def test_arguments_are_written_once(row, make_tokenizer, template, arguments, text, converted):
    tokenizer = make_tokenizer(chat_template=template)
    prompt = [{"role": "user", "content": "p"}, call(arguments), {"role": "tool", "content": "7"}]
    fields = {"prompt": prompt, "chosen": [call(arguments)], "rejected": [{"role": "assistant", "content": "b"}]}
    encoded = encode_pair(to_pair(row(fields), {}), tokenizer, EncodingConfig())
    assert tokenizer.decode(encoded.chosen_ids) == f"{text}</s>"
    assert tokenizer.decode(encoded.prompt_ids) == f"<user>p</s><assistant>{text}</s><tool>7</s><assistant>"
    assert encoded.prompt_ids == encode_prompt(prompt, tokenizer, EncodingConfig())
    assert (CONVERTED in encoded.guessed) == converted


def test_arguments_that_no_form_fits(row, make_tokenizer):
    fields = {"prompt": [{"role": "user", "content": "p"}], "chosen": [call("no JSON")], "rejected": [call("other")]}
    encoded = encode_pair(to_pair(row(fields), {}), make_tokenizer(chat_template=ITEMS), EncodingConfig())
    assert isinstance(encoded, BadRow)
    assert "chat template refuses the conversation" in encoded.problem
