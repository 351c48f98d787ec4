import json

import pytest

from prefopt.data import BadRow, ChatPair, DataError, TextPair, to_pair
from prefopt.data.fields import check_columns
from prefopt.data.transcripts import common_length


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def parts(pair):
    assert not isinstance(pair, BadRow), str(pair)
    return pair.prompt, pair.chosen, pair.rejected


def test_text(row):
    source = row(prompt="Why?", chosen=" Because.", rejected=" No.")
    assert to_pair(source, {}) == TextPair("Why?", " Because.", " No.", source)


def test_an_empty_text_prompt_is_a_prompt(row):
    assert parts(to_pair(row(prompt="", chosen="a", rejected="b"), {})) == ("", "a", "b")


def test_messages(row):
    source = row(prompt=[user("Why?")], chosen=[assistant("Because.")], rejected=assistant("No."))
    assert to_pair(source, {}) == ChatPair((user("Why?"),), (assistant("Because."),), (assistant("No."),), source)


def test_sharegpt_under_another_name(row):
    source = row(
        conversations=[
            {"from": "system", "value": "Be kind."},
            {"from": "human", "value": "Hi"},
            {"from": "gpt", "value": "Hello"},
            {"from": "observation", "value": "5"},
        ],
        chosen={"from": "gpt", "value": "Five."},
        rejected={"from": "gpt", "value": "Six."},
    )
    prompt, chosen, rejected = parts(to_pair(source, {"prompt": "conversations"}))
    assert [message["role"] for message in prompt] == ["system", "user", "assistant", "tool"]
    assert (chosen, rejected) == ((assistant("Five."),), (assistant("Six."),))


def test_keys_that_arrow_filled_with_null_count_as_absent(row):
    def filled(message):
        return {"from": None, "value": None, "tool_calls": None, **message}

    source = row(prompt=[filled(user("p"))], chosen=[filled(assistant("a"))], rejected=[filled(assistant("b"))])
    assert parts(to_pair(source, {})) == ((user("p"),), (assistant("a"),), (assistant("b"),))


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        (
            "\n\nHuman: Hi\n\nAssistant: Hello",
            "\n\nHuman: Hi\n\nAssistant: No",
            ("\n\nHuman: Hi\n\nAssistant:", " Hello", " No"),
        ),
        (
            "\n\nAssistant: a b\n\nAssistant: x y",
            "\n\nAssistant: a b\n\nAssistant: x z",
            ("\n\nAssistant: a b\n\nAssistant:", " x y", " x z"),
        ),
        # The responses begin alike, and the transcript goes on differently after the marker.
        (
            "\n\nAssistant: So it is",
            "\n\nAssistant: So what\n\nAssistant: x",
            ("\n\nAssistant:", " So it is", " So what\n\nAssistant: x"),
        ),
        ("The cat sat", "The cat sang", ("The cat", " sat", " sang")),
        ("The cat  sat", "The cat  ran", ("The cat", "  sat", "  ran")),
        ("Well Good", "Well Good day", ("Well", " Good", " Good day")),
    ],
)
def test_the_implicit_prompt_of_texts(row, chosen, rejected, expected):
    assert parts(to_pair(row(chosen=chosen, rejected=rejected), {})) == expected


def test_the_implicit_prompt_of_messages(row):
    start = [user("Hi"), assistant("Hello"), user("Why?")]
    source = row(chosen=[*start, assistant("a")], rejected=[*start, assistant("b"), user("?"), assistant("c")])
    expected = (tuple(start), (assistant("a"),), (assistant("b"), user("?"), assistant("c")))
    assert parts(to_pair(source, {})) == expected


@pytest.mark.parametrize("prompt", ["Why?", [user("Why?")], []])
def test_a_prompt_that_the_responses_repeat_is_not_doubled(row, prompt):
    source = row(prompt=prompt, chosen=[user("Why?"), assistant("a")], rejected=[user("Why?"), assistant("b")])
    assert parts(to_pair(source, {})) == ((user("Why?"),), (assistant("a"),), (assistant("b"),))


def test_a_text_prompt_that_both_responses_repeat_is_not_doubled(row):
    pair = to_pair(row(prompt="Q: why?\nA:", chosen="Q: why?\nA: So.", rejected="Q: why?\nA: No."), {})
    assert parts(pair) == ("Q: why?\nA:", " So.", " No.")
    assert pair.usage.guessed == {"prompts that both responses repeat, read once"}
    assert parts(to_pair(row(prompt="a", chosen="a b", rejected="a c"), {})) == ("a", "a b", "a c")
    assert parts(to_pair(row(prompt="a b", chosen="a b", rejected="c"), {})) == ("a b", "a b", "c")
    whole = to_pair(row(prompt="so why is it", chosen="[U] so why is it [A] x", rejected="[U] so why is it [A] y"), {})
    assert parts(whole)[1] == "[U] so why is it [A] x"
    assert "read twice" in next(iter(whole.usage.guessed))
    bad = to_pair(row(prompt="a b", chosen="a b", rejected="a b c"), {})
    assert (bad.field, bad.problem) == ("chosen", "found an empty response")


TEXT = {"prompt": "p", "chosen": "a", "rejected": "b"}
CHAT = {"prompt": [user("p")], "chosen": [assistant("a")], "rejected": [assistant("b")]}


@pytest.mark.parametrize(
    ("fields", "field", "problem", "remedy"),
    [
        ({"prompt": "p", "chosen": "a"}, "rejected", "no such field, only chosen, prompt", "columns: {rejected: NAME}"),
        ({}, "chosen", "no such field, only an empty row", "add it"),
        (
            {"question": "p", "better": "a", "worse": "b"},
            "chosen",
            "no such field, only better, question, worse",
            "columns: {chosen: NAME, rejected: NAME, prompt: NAME} (--column chosen=NAME --column",
        ),
        (
            {"better": "a b", "worse": "a c"},
            "chosen",
            "only better, worse",
            "columns: {chosen: NAME, rejected: NAME} (",
        ),
        (TEXT | {"chosen": 3}, "chosen", "found the value 3", "give text or a list of messages"),
        (TEXT | {"chosen": True}, "chosen", "found the value true", "give text"),
        (TEXT | {"rejected": None}, "rejected", "found nothing (null)", "give text"),
        (TEXT | {"prompt": None}, "prompt", "found nothing (null)", "give text"),
        (TEXT | {"prompt": {1, 2}}, "prompt", "found a value of type set", "give text"),
        (TEXT | {"chosen": ""}, "chosen", "found an empty response", "write one, or remove the row"),
        (TEXT | {"rejected": " \n\t"}, "rejected", "found an empty response", "remove the row"),
        (TEXT | {"rejected": "a"}, "rejected", "found the same response as in 'chosen'", "remove the row"),
        (TEXT | {"chosen": "é\ud83d"}, "chosen", "a broken character at position 1", "write the file as UTF-8"),
        ({"chosen": "x a\n\nAssistant: ", "rejected": "x a\n\nAssistant: b"}, "chosen", "empty response", "write one"),
        ({"chosen": "same", "rejected": "same"}, "rejected", "found the same response", "remove the row"),
        (TEXT | {"prompt": [user("p")]}, "prompt", "found messages although 'chosen' is text", "all three as messages"),
        (TEXT | {"rejected": [assistant("b")]}, "rejected", "found messages although 'chosen' is text", "as text"),
        (CHAT | {"prompt": "p"}, "prompt", "found text although 'chosen' is messages", "all three as messages"),
        (CHAT | {"rejected": CHAT["chosen"]}, "rejected", "found the same response", "remove the row"),
        (CHAT | {"chosen": []}, "chosen", "found an empty response", "write one"),
        (CHAT | {"chosen": [assistant("  ")]}, "chosen", "found an empty response", "write one"),
        (CHAT | {"chosen": ["a"]}, "chosen", "found text as message 1", "objects with role and content"),
        (
            CHAT | {"chosen": {"role": "assistant"}},
            "chosen",
            "no 'content' in the message, whose keys are: role",
            "role and a content",
        ),
        (CHAT | {"prompt": [user("p"), {"content": "x"}]}, "prompt", "no 'role' in message 2", "every message a role"),
        (CHAT | {"prompt": [{}]}, "prompt", "no 'role' in message 1, whose keys are: none", "every message a role"),
        (CHAT | {"prompt": [{"from": "human"}]}, "prompt", "no 'value' in message 1", "from and value"),
        (CHAT | {"prompt": [user(3)]}, "prompt", "found the value 3 as 'content' of message 1", "parts of type text"),
        (CHAT | {"prompt": [user([3])]}, "prompt", "a part of type 'int' in the 'content' of message 1", "give parts"),
        (
            CHAT | {"prompt": [user([{"type": "image", "url": "x.png"}, {"type": "text", "text": "x"}])]},
            "prompt",
            "a part of type 'image' in the 'content' of message 1",
            "the policy is a language model, which reads text alone",
        ),
        (CHAT | {"images": ["x.png"]}, "images", "a list of a medium that a language model does not read", "remove"),
        (TEXT | {"image": {"bytes": b"x"}}, "image", "a medium that a language model does not read", "remove the row"),
        (
            CHAT | {"prompt": [{"from": "narrator", "value": "x"}]},
            "prompt",
            "found 'narrator' as the 'from' of message 1",
            "use one of human",
        ),
        (CHAT | {"chosen": [{"role": "assistant", "tool_calls": [{}]}]}, "chosen", "no 'content' in message 1", "give"),
        (CHAT | {"chosen": [user("x")]}, "chosen", "begins with a message of the user", "answer the same conversation"),
        (
            {"chosen": [user("p"), assistant("a")], "rejected": [user("q"), assistant("b")]},
            "chosen",
            "found no prompt: 'chosen' and 'rejected' have",
            "add a prompt",
        ),
        (CHAT | {"prompt": []}, "prompt", "found no prompt", "add a prompt"),
        (
            {"chosen": [user("p")], "rejected": [user("p"), assistant("b")]},
            "chosen",
            "found a conversation that is the beginning of 'rejected', without a response of its own",
            "let both end in a response",
        ),
        (
            {"chosen": [user("p"), assistant("a"), user("q"), assistant("b")], "rejected": [user("p"), assistant("a")]},
            "rejected",
            "found a conversation that is the beginning of 'chosen'",
            "let both end in a response",
        ),
        (
            CHAT | {"chosen": [*CHAT["chosen"], user("q"), assistant("b")], "rejected": [assistant("a"), user("r")]},
            "rejected",
            "found another message of the user than in 'chosen', after the same turns",
            "answer the same conversation",
        ),
        *(
            ({"chosen": chosen, "rejected": rejected}, "chosen", "no field 'prompt', and no words that both", "columns")
            for chosen, rejected in (("yes", "no"), ("Good", "Good day"), (" yes", " yet"))
        ),
        (
            {"system": "Be kind.", "question": "What?", "chosen": "a", "rejected": "b"},
            "chosen",
            "while nobody reads 'system', 'question'",
            "columns: {prompt: question}",
        ),
        *(
            (
                {"chosen": f"{start}cat?\n\nAssistant: Yes.", "rejected": f"{start}dog?\n\nAssistant: No."},
                "rejected",
                "found another turn of the human's than in 'chosen'",
                "be the same up to a turn of the assistant's",
            )
            for start in ("\n\nHuman: What is a ", "\n\nHuman: Hi\n\nAssistant: Hi\n\nHuman: a ", "")
        ),
        (
            CHAT | {"chosen": "[{'role': 'assistant', 'content': 'a'}]", "rejected": "[{'role': 'x'}]"},
            "chosen",
            "found messages in Python's notation, as text",
            "write them as JSON",
        ),
        (
            {side: json.dumps({"messages": CHAT[side]}) for side in ("chosen", "rejected")},
            "chosen",
            "found an object with messages, as text",
            "give the messages",
        ),
        (CHAT | {"system": "x", "prompt": [{"role": "system", "content": "y"}]}, "system", "a second system", "keep"),
        (CHAT | {"tools": "{"}, "tools", "found text that is not JSON", "give JSON"),
        (CHAT | {"tools": ["x"]}, "tools", "found a list where a list of objects should be", "give a list of objects"),
        (
            CHAT | {"chat_template_kwargs": {"tokenize": True}},
            "chat_template_kwargs",
            "found 'tokenize', which is set by prefopt",
            "leave it out",
        ),
    ],
)
def test_bad_rows(row, fields, field, problem, remedy):
    bad = to_pair(row(fields), {})
    assert isinstance(bad, BadRow)
    assert (bad.where, bad.field, bad.content) == ("pairs.jsonl:7", field, fields)
    assert problem in bad.problem
    assert remedy in bad.remedy
    assert str(bad) == f"pairs.jsonl:7: field '{field}': {bad.problem}; {bad.remedy}"


def test_alpaca_and_system(row):
    alpaca = {"instruction": "Add.", "chosen": "3", "rejected": "4"}
    assert parts(to_pair(row(alpaca), {})) == ("Add.", "3", "4")
    assert parts(to_pair(row(alpaca | {"input": ""}), {})) == ("Add.", "3", "4")
    assert parts(to_pair(row(alpaca | {"input": "1 2", "system": "S"}), {})) == ("S\n\nAdd.\n1 2", "3", "4")
    orca = {"system": "S", "question": "q", "chosen": "a", "rejected": "b"}
    assert parts(to_pair(row(orca), {"prompt": "question"}))[0] == "S\n\nq"
    assert parts(to_pair(row(TEXT | {"sys": "S"}), {"system": "sys"}))[0] == "S\n\np"
    assert parts(to_pair(row(TEXT | {"context": "c"}), {"input": "context"}))[0] == "p\nc"
    system = {"role": "system", "content": "S"}
    assert parts(to_pair(row(CHAT | {"system": "S"}), {}))[0] == (system, user("p"))
    assert parts(to_pair(row(CHAT | {"system": "S", "prompt": [system, user("p")]}), {}))[0] == (system, user("p"))
    # A field of that name which holds something else is not read, and the report says so.
    assert parts(to_pair(row(TEXT | {"system": 3}), {}))[0] == "p"
    assert to_pair(row(TEXT | {"sys": 3}), {"system": "sys"}).field == "sys"


def test_other_keys_of_messages_stay(row):
    answer = assistant("x") | {"reasoning_content": "why", "tool_calls": [{"function": {"name": "f", "none": None}}]}
    chosen = {"role": "assistant", "tool_calls": [{"name": "f"}]}
    pair = to_pair(row(CHAT | {"chosen": [chosen], "rejected": [answer]}), {})
    kept = answer | {"tool_calls": [{"function": {"name": "f"}}]}
    assert parts(pair) == ((user("p"),), (chosen,), (kept,))
    assert pair.usage.guessed == {"nulls inside of messages, tools or documents read as absent keys"}
    # Two responses that differ in their reasoning alone are two responses.
    twice = [assistant("x") | {"thinking": thought} for thought in "ab"]
    assert parts(to_pair(row(CHAT | {"chosen": twice[:1], "rejected": twice[1:]}), {}))[1:] == (
        (twice[0],),
        (twice[1],),
    )


def test_fields_for_the_template_can_be_written_again(row):
    fields = {
        "tools": [{"name": "f"}],
        "documents": [{"text": "x"}],
        "chat_template_kwargs": {"enable_thinking": False},
    }
    pair = to_pair(row(CHAT | fields), {})
    assert pair.template_fields == fields
    assert pair.template["enable_thinking"] is False
    assert to_pair(row(CHAT | {"tools": "[]", "documents": None}), {}).template_fields == {}


def test_synonyms_of_roles(row):
    pair = to_pair(row(CHAT | {"prompt": [{"role": "human", "content": "p"}]}), {})
    assert pair.prompt == (user("p"),)
    assert pair.usage.guessed == {"the role 'human' read as 'user'"}


def test_an_empty_system_message_is_no_empty_response(row):
    start = [{"role": "system", "content": ""}, user("p")]
    source = row(chosen=[*start, assistant("a")], rejected=[*start, assistant("b")])
    assert parts(to_pair(source, {})) == (tuple(start), (assistant("a"),), (assistant("b"),))


def test_messages_as_json(row):
    pair = to_pair(row({field: json.dumps(messages) for field, messages in CHAT.items()}), {})
    assert parts(pair) == ((user("p"),), (assistant("a"),), (assistant("b"),))
    assert pair.usage.guessed == {"messages read from JSON text"}
    text = row(prompt="p", chosen=json.dumps(CHAT["chosen"]), rejected="[1, 2]")  # a response that is JSON is text
    assert parts(to_pair(text, {})) == ("p", json.dumps(CHAT["chosen"]), "[1, 2]")


def test_fields_go_by_the_name_that_the_row_has_for_them(row):
    columns = {"prompt": "question", "chosen": "best", "rejected": "worst"}
    assert parts(to_pair(row(question="p", best="a", worst="b"), columns)) == ("p", "a", "b")
    assert to_pair(row(question="p", best="a", worst=""), columns).field == "worst"


def test_a_prompt_column_that_is_named_must_be_there(row):
    bad = to_pair(row(chosen="x a", rejected="x b"), {"prompt": "question"})
    assert bad.field == "question"
    assert "no such field" in bad.problem


def test_unknown_columns():
    check_columns({"prompt": "question"})
    with pytest.raises(DataError, match="columns: no field 'promt'; it renames only prompt, chosen, rejected"):
        check_columns({"promt": "question"})
    with pytest.raises(DataError, match="both prompt and instruction are named"):
        check_columns({"prompt": "question", "instruction": "task"})


@pytest.mark.parametrize(
    ("sequences", "length"),
    [(["abc", "abd"], 2), (["", "a"], 0), ([[1, 2], [1, 2, 3], [1, 2]], 2), ([[1], [1], [2]], 0)],
)
def test_common_length(sequences, length):
    assert common_length(*sequences) == length
