import pytest
from pydantic import ValidationError

from prefopt.data import BadRow, DataError, EncodedPair, EncodingConfig, TooLong, encode_pair, encode_prompt, to_pair

NO_LIMIT = EncodingConfig(max_length=None)


@pytest.fixture
def encode(row):
    def encode(tokenizer, prompt, chosen, rejected, **limits):
        pair = to_pair(row(prompt=prompt, chosen=chosen, rejected=rejected), {})
        return encode_pair(pair, tokenizer, EncodingConfig(**{"max_length": None, **limits}))

    return encode


def texts(tokenizer, encoded):
    assert isinstance(encoded, EncodedPair), encoded
    return tuple(tokenizer.decode(ids) for ids in (encoded.prompt_ids, encoded.chosen_ids, encoded.rejected_ids))


def flags(encoded):
    return encoded.prompt_truncated, encoded.chosen_truncated, encoded.rejected_truncated, encoded.boundary_moved


def test_text_responses_end_in_eos(encode, plain):
    encoded = encode(plain, "Why?", " So.", " No")
    assert texts(plain, encoded) == ("Why?", " So.</s>", " No</s>")
    assert flags(encoded) == (False, False, False, False)


def test_no_second_eos(encode, plain):
    assert texts(plain, encode(plain, "Why?", " So.</s>", " No")) == ("Why?", " So.</s>", " No</s>")


def test_a_tokenizer_without_eos(encode, make_tokenizer):
    tokenizer = make_tokenizer(eos=False)
    assert texts(tokenizer, encode(tokenizer, "Why?", " So.", " No")) == ("Why?", " So.", " No")


def test_a_tokenizer_that_adds_bos_and_eos(encode, make_tokenizer):
    tokenizer = make_tokenizer(adds_bos=True, adds_eos=True)
    encoded = encode(tokenizer, "Why?", " So.", " No")
    assert texts(tokenizer, encoded) == ("<s>Why?", " So.</s>", " No</s>")
    assert not encoded.boundary_moved


def test_the_boundary_moves_where_prompt_and_response_merge(encode, make_tokenizer):
    tokenizer = make_tokenizer(("?", "Ġ"), ("?Ġ", "S"))
    # Only one response merges with the prompt; the boundary is one for the pair.
    encoded = encode(tokenizer, "Why?", " So", "No")
    assert texts(tokenizer, encoded) == ("Why", "? So</s>", "?No</s>")
    assert encoded.boundary_moved
    assert not encode(tokenizer, "Why!", " So", "No").boundary_moved


@pytest.mark.parametrize("adds_eos", [False, True])
def test_an_eos_after_the_prompt_does_not_hide_a_moved_boundary(encode, make_tokenizer, adds_eos):
    tokenizer = make_tokenizer(("?", "N"), adds_eos=adds_eos)
    assert flags(encode(tokenizer, "Why?", "No", "So")) == (False, False, False, True)


def test_responses_that_begin_alike_leave_the_boundary_at_the_prompt(encode, plain):
    assert texts(plain, encode(plain, "Why?", " So it is", " So what")) == ("Why?", " So it is</s>", " So what</s>")


def test_an_eos_within_the_prompt_stays_in_it(encode, plain):
    encoded = encode(plain, "Hi</s>", "a", "b")
    assert texts(plain, encoded) == ("Hi</s>", "a</s>", "b</s>")
    assert not encoded.boundary_moved


def test_an_empty_prompt(encode, make_tokenizer):
    for settings, prompt in (
        ({"bos": True}, "<s>"),
        ({"adds_bos": True}, "<s>"),
        ({"adds_eos": True}, "</s>"),
        ({}, "</s>"),
    ):
        tokenizer = make_tokenizer(**settings)
        encoded = encode(tokenizer, "", "a", "b")
        assert texts(tokenizer, encoded) == (prompt, "a</s>", "b</s>")
        assert not encoded.boundary_moved


def test_a_prompt_that_merges_whole_into_a_response(encode, make_tokenizer):
    tokenizer = make_tokenizer(("x", "a"))
    encoded = encode(tokenizer, "x", "a", "b")
    assert texts(tokenizer, encoded) == ("</s>", "xa</s>", "xb</s>")
    assert encoded.boundary_moved


def test_an_empty_prompt_with_nothing_to_stand_for_it(encode, make_tokenizer):
    bad = encode(make_tokenizer(eos=False), "", "a", "b")
    assert isinstance(bad, BadRow)
    assert (bad.where, bad.field) == ("pairs.jsonl:7", "prompt")
    assert "neither a BOS nor an EOS token" in bad.problem
    assert "the tokenizer a BOS token" in bad.remedy


def test_messages_are_rendered_by_the_template_which_has_the_last_word_on_the_end(encode, chat, make_tokenizer):
    prompt = [{"role": "user", "content": "Why?"}]
    chosen, rejected = ({"role": "assistant", "content": content} for content in ("So.", "No"))
    assert texts(chat, encode(chat, prompt, chosen, rejected)) == (
        "<user>Why?</s><assistant>",
        "So.</s>",
        "No</s>",
    )
    # This template ends a response in a line break, after which no EOS is put.
    ends_in_break = make_tokenizer(
        adds_bos=True, adds_eos=True, chat_template=chat.chat_template.replace("</s>", ".\n")
    )
    assert texts(ends_in_break, encode(ends_in_break, prompt, chosen, rejected)) == (
        "<user>Why?.\n<assistant>",
        "So..\n",
        "No.\n",
    )


def test_a_template_that_rewrites_the_prompt_moves_the_boundary(encode, make_tokenizer):
    template = "{% for m in messages %}{{ m.content }}|{% endfor %}{% if add_generation_prompt %}think{% endif %}"
    tokenizer = make_tokenizer(chat_template=template)
    encoded = encode(
        tokenizer, [{"role": "user", "content": "p"}], [{"role": "x", "content": "a"}], [{"role": "x", "content": "b"}]
    )
    assert texts(tokenizer, encoded) == ("p|", "a|", "b|")
    assert encoded.boundary_moved


def test_a_template_that_refuses(encode, make_tokenizer):
    refusal = "{{ raise_exception('System role not supported') }}"
    tokenizer = make_tokenizer(
        chat_template=f"{{% if messages[0].role == 'system' %}}{refusal}{{% endif %}}{{{{ messages[0].content }}}}"
    )
    bad = encode(
        tokenizer,
        [{"role": "system", "content": "p"}],
        {"role": "assistant", "content": "a"},
        {"role": "assistant", "content": "b"},
    )
    assert isinstance(bad, BadRow)
    assert bad.field == ""
    assert "refuses the conversation (System role not supported)" in bad.problem
    assert bad.remedy == "change the messages or the template"


@pytest.mark.parametrize("template", ["{{ raise_exception('No') }}", "{% if %}", "{{ messages[0].absent.text }}"])
def test_a_template_that_refuses_everything(encode, make_tokenizer, template):
    turn, asked = {"role": "assistant", "content": "a"}, [{"role": "user", "content": "p"}]
    with pytest.raises(DataError, match=r"the chat template of the tokenizer '.*' refuses every conversation"):
        encode(make_tokenizer(chat_template=template), asked, turn, turn | {"content": "b"})


def test_messages_without_a_template(encode, plain):
    answers = ({"role": "assistant", "content": content} for content in "ab")
    with pytest.raises(
        DataError, match=r"pairs.jsonl:7: found messages, but the tokenizer .* has no chat template; set"
    ):
        encode(plain, [{"role": "user", "content": "p"}], *answers)


@pytest.mark.parametrize("adds_eos", [False, True])
def test_a_response_of_no_tokens(encode, make_tokenizer, adds_eos):
    from tokenizers import normalizers

    tokenizer = make_tokenizer(adds_eos=adds_eos)
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("~", "")
    bad = encode(tokenizer, "p", "a", "~~")
    assert isinstance(bad, BadRow)
    assert (bad.field, bad.remedy) == ("rejected", "write a response, or remove the row")
    assert "makes no token" in bad.problem


def test_responses_of_the_same_tokens_are_dropped(encode, make_tokenizer, plain):
    from tokenizers import normalizers

    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert encode(tokenizer, "p", "Yes", "yes") is None
    # They differ only after the cut.
    assert encode(plain, "p", "aaaab", "aaaac", max_length=4) is None


@pytest.mark.parametrize(
    ("limits", "expected", "expected_flags"),
    [
        ({}, ("<s>abcdef", "uvw</s>", "x</s>"), (False, False, False, False)),
        ({"max_length": 11}, ("<s>abcdef", "uvw</s>", "x</s>"), (False, False, False, False)),
        ({"max_length": 10}, ("<s>bcdef", "uvw</s>", "x</s>"), (True, False, False, False)),
        ({"max_length": 6}, ("<s>f", "uvw</s>", "x</s>"), (True, False, False, False)),
        ({"max_length": 5}, ("f", "uvw</s>", "x</s>"), (True, False, False, False)),
        ({"max_length": 4}, ("f", "uvw", "x</s>"), (True, True, False, False)),
        ({"max_length": 3}, ("f", "uv", "x</s>"), (True, True, False, False)),
        ({"max_length": 2}, ("f", "u", "x"), (True, True, True, False)),
        ({"max_prompt_length": 7}, ("<s>abcdef", "uvw</s>", "x</s>"), (False, False, False, False)),
        ({"max_prompt_length": 3}, ("<s>ef", "uvw</s>", "x</s>"), (True, False, False, False)),
        ({"max_prompt_length": 2}, ("<s>f", "uvw</s>", "x</s>"), (True, False, False, False)),
        ({"max_prompt_length": 1}, ("f", "uvw</s>", "x</s>"), (True, False, False, False)),
        ({"max_prompt_length": 3, "max_length": 6}, ("<s>f", "uvw</s>", "x</s>"), (True, False, False, False)),
        ({"max_prompt_length": 3, "max_length": 50}, ("<s>ef", "uvw</s>", "x</s>"), (True, False, False, False)),
    ],
)
def test_truncation(encode, make_tokenizer, limits, expected, expected_flags):
    tokenizer = make_tokenizer(adds_bos=True)
    encoded = encode(tokenizer, "abcdef", "uvw", "x", **limits)
    assert texts(tokenizer, encoded) == expected
    assert flags(encoded) == expected_flags


def test_a_long_response_leaves_a_quarter_to_the_prompt(encode, plain):
    encoded = encode(plain, "p" * 100, " Sat.", " It sat" * 200, max_length=128)
    assert (len(encoded.prompt_ids), len(encoded.chosen_ids), len(encoded.rejected_ids)) == (32, 6, 96)
    assert (encoded.prompt_lost, encoded.chosen_lost, encoded.rejected_lost) == (68, 0, 1401 - 96)
    assert len(encode(plain, "p" * 7, "u", "x" * 200, max_length=64).prompt_ids) == 7


@pytest.mark.parametrize("on_too_long", ["drop", "stop"])
def test_too_long(encode, plain, on_too_long):
    limits = {"max_length": 8, "max_prompt_length": 4, "on_too_long": on_too_long}
    assert isinstance(encode(plain, "abc", "u", "x", **limits), EncodedPair)
    assert isinstance(encode(plain, "abcde", "u", "x", **limits), TooLong)
    assert isinstance(encode(plain, "abc", "u", "x" * 5, **limits), TooLong)


def test_one_bos(encode, make_tokenizer):
    tokenizer = make_tokenizer(adds_bos=True)
    encoded = encode(tokenizer, "<s> [INST] Hi [/INST]", " Yes", " No")
    assert texts(tokenizer, encoded) == ("<s> [INST] Hi [/INST]", " Yes</s>", " No</s>")
    assert encode_prompt("<s> [INST] Hi [/INST]", tokenizer, EncodingConfig()) == encoded.prompt_ids
    assert texts(tokenizer, encode(tokenizer, "a<s>b", " Yes", " No"))[0] == "<s>a<s>b"


def test_a_prompt_without_bos_keeps_its_last_tokens(encode, plain):
    assert texts(plain, encode(plain, "abcdef", "u", "x", max_prompt_length=2))[0] == "ef"


def test_no_warning_about_long_texts(encode, plain, caplog):
    plain.model_max_length, before = 4, plain.model_max_length
    encode(plain, "abcdef", "u", "x")
    plain.model_max_length = before
    assert not caplog.records


@pytest.mark.parametrize(
    "fields",
    [{"max_length": 1}, {"max_prompt_length": 0}, {"max_len": 5}, {"max_length": "long"}, {"on_too_long": "cut"}],
)
def test_config_refuses(fields):
    with pytest.raises(ValidationError):
        EncodingConfig(**fields)


def test_config_refuses_arguments_of_the_template_that_are_set_here():
    with pytest.raises(ValidationError, match="'tokenize' is set by prefopt"):
        EncodingConfig(chat_template_kwargs={"tokenize": True})


def test_config_defaults():
    assert EncodingConfig() == EncodingConfig(max_length=1024, max_prompt_length=None)
