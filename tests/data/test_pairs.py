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
        ("Good", "Good day", ("", "Good", "Good day")),
        ("Well Good", "Well Good day", ("Well", " Good", " Good day")),
        ("yes", "no", ("", "yes", "no")),
        (" yes", " yet", ("", " yes", " yet")),
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


TEXT = {"prompt": "p", "chosen": "a", "rejected": "b"}
CHAT = {"prompt": [user("p")], "chosen": [assistant("a")], "rejected": [assistant("b")]}


@pytest.mark.parametrize(
    ("fields", "field", "problem", "remedy"),
    [
        ({"prompt": "p", "chosen": "a"}, "rejected", "no such field, only chosen, prompt", "columns: {rejected: NAME}"),
        ({}, "chosen", "no such field, only an empty row", "add it"),
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
        (
            CHAT | {"prompt": [{"role": "user", "content": ["x"]}]},
            "prompt",
            "found a list as 'content' of message 1",
            "give text",
        ),
        (
            CHAT | {"prompt": [{"from": "narrator", "value": "x"}]},
            "prompt",
            "found 'narrator' as the 'from' of message 1",
            "use one of user",
        ),
        (
            CHAT | {"chosen": [{**assistant("x"), "tool_calls": [{}]}]},
            "chosen",
            "found tool calls in message 1",
            "into the content",
        ),
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
            "found an empty response",
            "write one",
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


@pytest.mark.parametrize(
    ("sequences", "length"),
    [(["abc", "abd"], 2), (["", "a"], 0), ([[1, 2], [1, 2, 3], [1, 2]], 2), ([[1], [1], [2]], 0)],
)
def test_common_length(sequences, length):
    assert common_length(*sequences) == length
