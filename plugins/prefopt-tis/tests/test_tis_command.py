"""The command writes the log-ratio of two models for exactly the tokens that training has."""

from __future__ import annotations

import datetime
import json
import math
import re
import shutil

import datasets
import pytest
import torch
from prefopt_tis import ContrastWeighting, TisWeighting
from prefopt_tis.cli import app
from prefopt_tis.score import Scorer
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from prefopt import TokenColumn, zoo
from prefopt.data import EncodingConfig, prepare, read_rows
from prefopt.training import PreferenceConfig, PreferenceTrainer

RUNNER = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
SIDES = ("chosen", "rejected")


def run(*arguments, exit_code=0):
    result = RUNNER.invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == exit_code, result.output
    return result.output


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@torch.no_grad()
def token_logps(folder, prompt, response):
    """log pi of each token of the response, from the plain model call."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    logps = model(torch.tensor([prompt + response])).logits[0].float().log_softmax(-1)
    return [float(logps[len(prompt) + t - 1, token]) for t, token in enumerate(response)]


def expected(positive, negative, dataset, prompts=(None, None)):
    """Of each pair of the data set, the log-ratios on both sides."""
    for row in dataset:
        ratios = []
        for side in SIDES:
            one, two = (
                token_logps(folder, prompt or row["prompt_ids"], row[f"{side}_ids"])
                for folder, prompt in zip((positive, negative), prompts, strict=True)
            )
            ratios.append([a - b for a, b in zip(one, two, strict=True)])
        yield ratios


def prepared(rows, tokenizer, column="log_ratios", **lengths):
    config = EncodingConfig(**lengths)
    return prepare(rows, tokenizer, config, description="rows", extra=(TokenColumn(column),))[0]


def test_two_models_on_the_tokens_of_training(source, rows, folders, tokenizer, tmp_path):
    target = tmp_path / "scored.jsonl"
    output = run(source, target, "--positive", folders[0], "--negative", folders[1], "--batch-size", 2)
    assert "scored.jsonl: 5 rows" in output
    written = lines(target)
    added = {"chosen_log_ratios", "rejected_log_ratios"}
    assert [{key: value for key, value in row.items() if key not in added} for row in written] == rows
    dataset = prepared(read_rows(target), tokenizer)
    log_ratios = [[row[f"{side}:log_ratios"] for side in SIDES] for row in dataset]
    for numbers, right in zip(log_ratios, expected(*folders, dataset), strict=True):
        for one, two in zip(numbers, right, strict=True):
            assert one == pytest.approx(two, abs=2e-5)
    assert max(abs(number) for sides in log_ratios for side in sides for number in side) > 0.1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pairs.jsonl", "scored.jsonl"]


def test_one_model_behind_two_prompts(folders, tokenizer, tmp_path):
    source, target = tmp_path / "pairs.jsonl", tmp_path / "scored.jsonl"
    row = {"prompt": "So?", "chosen": " it", "rejected": " no"}
    source.write_text(json.dumps(row))
    prompts = ("Be good. {prompt}", "Be bad: {prompt}")
    run(source, target, "--positive", folders[0], "--positive-prompt", prompts[0], "--negative-prompt", prompts[1])
    dataset = prepared(read_rows(target), tokenizer)
    # The tokenizer joins "?" to the space behind it, so that the response begins with it.
    ids = [tokenizer(prompt.replace("{prompt}", "So"))["input_ids"] for prompt in prompts]
    assert tokenizer.decode(dataset[0]["chosen_ids"]) == "? it</s>"
    (right,) = expected(folders[0], folders[0], dataset, ids)
    for side, numbers in zip(SIDES, right, strict=True):
        assert dataset[0][f"{side}:log_ratios"] == pytest.approx(numbers, abs=2e-5)


def test_a_template_is_around_the_last_message_of_a_conversation(folders, tokenizer, tmp_path):
    source, target = tmp_path / "pairs.jsonl", tmp_path / "scored.jsonl"
    start = [{"role": "system", "content": "Be."}, {"role": "user", "content": "Why?"}]
    row = {"prompt": start}
    row |= {side: {"role": "assistant", "content": side} for side in SIDES}
    source.write_text(json.dumps(row))
    target.write_text("made before")
    run(source, target, "--positive", folders[0], "--positive-prompt", "{prompt} Rudely.", "--overwrite")
    dataset = prepared(read_rows(target), tokenizer)
    rude = "<system>Be.</s><user>Why? Rudely.</s><assistant>"
    ids = [tokenizer(rude, add_special_tokens=False)["input_ids"], None]
    (right,) = expected(folders[0], folders[0], dataset, ids)
    for side, numbers in zip(SIDES, right, strict=True):
        assert dataset[0][f"{side}:log_ratios"] == pytest.approx(numbers, abs=2e-5)


def test_what_training_cuts_off_is_0_and_all_tokens_have_a_number(folders, tokenizer, tmp_path):
    source, target = tmp_path / "pairs.jsonl", tmp_path / "scored.jsonl"
    source.write_text(json.dumps({"prompt": "A long prompt?", "chosen": " 0123456789", "rejected": " 98765"}))
    run(source, target, "--positive", folders[0], "--negative", folders[1], "--max-length", 9)
    (row,) = lines(target)
    dataset = prepared(read_rows(target), tokenizer, max_length=9)
    assert len(dataset[0]["prompt_ids"]) == 2  # a quarter of max_length
    assert len(row["chosen_log_ratios"]) == 12  # with the space and the end of text
    assert row["chosen_log_ratios"][7:] == [0] * 5
    (right,) = expected(*folders, dataset)
    for side, numbers in zip(SIDES, right, strict=True):
        assert row[f"{side}_log_ratios"][: len(numbers)] == pytest.approx(numbers, abs=2e-5)
    assert len(prepared(read_rows(target), tokenizer)) == 1  # as long as it is


def test_a_stopped_run_goes_on(source, folders, tmp_path, monkeypatch):
    options = ("--positive", folders[0], "--negative", folders[1], "--batch-size", 2)
    whole, target = tmp_path / "whole.jsonl", tmp_path / "scored.jsonl"
    run(source, whole, *options)
    asked = []
    original = Scorer.__call__

    def stopping(self, questions):
        asked.append(len(questions))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return original(self, questions)

    monkeypatch.setattr(Scorer, "__call__", stopping)
    RUNNER.invoke(app, [str(argument) for argument in (source, target, *options)])
    unfinished = tmp_path / "scored.jsonl.unfinished"
    assert len(lines(unfinished)) == 2
    assert not target.exists()
    with unfinished.open("a") as file:
        file.write('{"prompt": "half a li')
    other = run(source, target, "--positive", folders[1], "--negative", folders[0], exit_code=2)
    assert "begun with other settings" in other
    asked[:] = [0, 0]
    run(source, target, *options)
    assert asked[2:] == [2, 1]
    assert lines(target) == lines(whole)
    assert not unfinished.exists()
    assert not (tmp_path / "scored.jsonl.unfinished.json").exists()


def test_a_stopped_run_of_other_rows_is_refused(source, folders, tmp_path, monkeypatch):
    options = ("--positive", folders[0], "--negative", folders[1])
    target = tmp_path / "scored.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr("prefopt_tis.write.Unfinished.finish", lambda self: None)
        run(source, target, *options)
    text = source.read_text()
    source.write_text(text.replace("So?", "Oh?"))
    assert "scored.jsonl.unfinished:1: not the row that is at" in run(source, target, *options, exit_code=2)
    source.write_text(text.splitlines()[0])
    assert "unfinished:2: there is no such row now" in run(source, target, *options, exit_code=2)


def test_rows_that_training_leaves_out_are_kept_without_numbers(folders, tokenizer, tmp_path):
    source, target = tmp_path / "pairs.jsonl", tmp_path / "scored.jsonl"
    rows = [
        {"prompt": "So?", "chosen": " abcdx", "rejected": " abcdy"},
        {"prompt": "?", "chosen": "a", "rejected": "b"},
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(source, target, "--positive", folders[0], "--negative", folders[1], "--max-length", 5)
    assert lines(target)[0] == rows[0] | {"chosen_log_ratios": [], "rejected_log_ratios": []}
    assert len(prepared(read_rows(target), tokenizer, max_length=5)) == 1


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ({"chosen": "a"}, (), "field 'rejected': found no such field"),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "chosen_log_ratios": [1]}, (), "found the field already"),
        (
            {"prompt": "p?", "chosen": " a", "rejected": " b"},
            ("--positive-prompt", "{prompt} Speak!"),
            "behind the template '{prompt} Speak!' the responses are other tokens than in training",
        ),
        ({"prompt": "p" * 200, "chosen": "a", "rejected": "b"}, (), "tokens, and the models take 128"),
    ],
)
def test_rows_that_cannot_be_scored_are_named_and_nothing_is_written(row, options, message, folders, tmp_path):
    source, target = tmp_path / "pairs.jsonl", tmp_path / "scored.jsonl"
    good = {"prompt": "So?", "chosen": "a", "rejected": "b"}
    source.write_text(json.dumps(good) + "\n" + json.dumps(row) + "\n")
    output = run(source, target, "--positive", folders[0], "--negative", folders[1], *options, exit_code=2)
    assert "1 of 2 rows cannot be scored" in output
    assert "pairs.jsonl:2" in output
    assert message in output
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"]


def test_errors_say_how_to_mend_them(source, folders, tokenizer, tmp_path):
    target = tmp_path / "scored.jsonl"
    one = ("--positive", folders[0])
    assert "no log-ratio to itself; give --negative" in run(source, target, *one, exit_code=2)
    assert "--positive-prompt: no {prompt} in 'Hi'" in run(source, target, *one, "--positive-prompt", "Hi", exit_code=2)
    assert "'float33' is no precision" in run(
        source, target, *one, "--negative", folders[1], "--dtype", "float33", exit_code=2
    )
    options = ("--contrast", 1, "--positive-prompt", "So. {prompt}")
    assert "compares two models behind one prompt" in run(source, target, *one, *options, exit_code=2)
    absent = tmp_path / "absent.jsonl"
    assert "no such file" in run(absent, target, *one, "--negative", folders[1], exit_code=2)
    assert "error:" in run(source, target, *one, "--negative", tmp_path / "no-model", exit_code=2)
    other = tmp_path / "other"
    tokenizer.from_pretrained(folders[0]).save_pretrained(other)
    changed = tokenizer.from_pretrained(folders[0])
    changed.add_tokens(["<more>"])
    changed.save_pretrained(other)
    output = run(source, target, *one, "--negative", other, exit_code=2)
    assert "its tokenizer has another vocabulary" in output
    assert not target.exists()
    target.write_text("made before")
    output = run(source, target, *one, "--negative", folders[1], exit_code=2)
    assert "scored.jsonl is there already; name another file, or replace it by --overwrite" in output
    assert target.read_text() == "made before"


@pytest.mark.parametrize("strength", [0.0, 1.0, 2.5])
def test_the_likelihood_of_a_contrast(source, folders, tokenizer, tmp_path, strength):
    """softmax((1 + b) z+ - b z-) of the token, z the logits of a plain call."""
    target = tmp_path / "scored.jsonl"
    run(source, target, "--positive", folders[0], "--negative", folders[1], "--contrast", strength)
    dataset = prepared(read_rows(target), tokenizer, "likelihoods")
    models = [AutoModelForCausalLM.from_pretrained(folder) for folder in folders]
    for row in dataset:
        for side in SIDES:
            prompt, response = row["prompt_ids"], row[f"{side}_ids"]
            with torch.no_grad():
                z = [
                    model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1].double()
                    for model in models
                ]
            expected = ((1 + strength) * z[0] - strength * z[1]).softmax(-1)[range(len(response)), response]
            assert row[f"{side}:likelihoods"] == pytest.approx(expected.tolist(), rel=1e-3, abs=1e-12)


def test_what_is_not_finite_is_an_error(source, folders, tmp_path, monkeypatch):
    target = tmp_path / "scored.jsonl"
    broken = tmp_path / "broken"
    model = AutoModelForCausalLM.from_pretrained(folders[1])
    with torch.no_grad():
        model.lm_head.weight.fill_(torch.inf)
    model.save_pretrained(broken)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(f"{folders[1]}/{name}", broken)
    output = run(source, target, "--positive", folders[0], "--negative", broken, exit_code=2)
    assert "--dtype float32" in output
    assert not target.exists()


@pytest.mark.parametrize("weighting", [{"name": "tis"}, {"name": "column", "column": "log_ratios"}])
def test_what_is_written_trains(weighting, source, folders, tmp_path):
    """As the weights of `tis`; and as a token column of anyone, here one that must not be below 0."""
    target = tmp_path / "scored.jsonl"
    run(source, target, "--positive", folders[0], "--negative", folders[1])
    rows = lines(target)
    if weighting["name"] == "column":
        for row in rows:
            row |= {f"{side}_log_ratios": [abs(ratio) for ratio in row[f"{side}_log_ratios"]] for side in SIDES}
    args = PreferenceConfig(
        output_dir=str(tmp_path / "run"),
        max_steps=2,
        report_to="none",
        use_cpu=True,
        save_strategy="no",
        logging_steps=1,
    )
    objective = zoo.build({"zoo": "tdpo1", "weighting": weighting})
    trainer = PreferenceTrainer(folders[0], objective=objective, args=args, train_dataset=rows)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == 2
    assert all(entry["weights/mean"] > 0 for entry in logged)


BETTER = "Q: {prompt} A: {response} Better?"
WORSE = "Worse than {response}? {prompt}"
REVISED = ("--positive-prompt", BETTER, "--negative-prompt", WORSE)


def revised(tokenizer, row, template, side, *, chat=True):
    """The prompt with the row's own texts in the template, in tokens."""
    texts = {"{prompt}": row["prompt"], "{response}": row[side]}
    text = "".join(texts.get(part, part) for part in re.split(r"({prompt}|{response})", template))
    text = f"<user>{text}</s><assistant>" if chat else text
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def as_messages(row):
    prompt = [{"role": "user", "content": row["prompt"]}]
    return {"prompt": prompt} | {side: [{"role": "assistant", "content": row[side]}] for side in SIDES}


TEXTS = [
    {"prompt": "Why?", "chosen": "So.", "rejected": "No good reason."},
    {"prompt": "{response} {", "chosen": "{prompt}", "rejected": "{0} {response}"},  # of the data, not of the template
    {"prompt": "Who", "chosen": "Who", "rejected": "é"},
]


@pytest.mark.parametrize("templates", [(BETTER, WORSE), ("{prompt}", WORSE), (BETTER, "{prompt} Rudely.")])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_templates_with_the_response_ask_of_each_response_apart(folders, tokenizer, tmp_path, templates, batch_size):
    source, target = tmp_path / "pairs.jsonl", tmp_path / "scored.jsonl"
    source.write_text("".join(json.dumps(as_messages(row)) + "\n" for row in TEXTS))
    options = ("--positive-prompt", templates[0], "--negative-prompt", templates[1], "--batch-size", batch_size)
    run(source, target, "--positive", folders[0], *options)
    dataset = prepared(read_rows(target), tokenizer)
    assert len(dataset) == len(TEXTS)
    for row, texts in zip(dataset, TEXTS, strict=True):
        for side in SIDES:
            one, two = (
                token_logps(folders[0], revised(tokenizer, texts, template, side), row[f"{side}_ids"])
                for template in templates
            )
            right = [a - b for a, b in zip(one, two, strict=True)]
            assert row[f"{side}:log_ratios"] == pytest.approx(right, abs=2e-5)


def test_rewards_of_tokens_are_the_sigmoid_less_a_half(folders, tokenizer, tmp_path):
    """Of rows of text, whose template ends as their prompts do."""
    source, target = tmp_path / "pairs.jsonl", tmp_path / "scored.jsonl"
    row = {"prompt": "Q: Is it? A:", "chosen": " It is.", "rejected": " no"}
    source.write_text(json.dumps(row))
    templates = ("{prompt}{response} Good A:", "{prompt}{response} Bad A:")
    options = ("--positive-prompt", templates[0], "--negative-prompt", templates[1], "--sigmoid")
    run(source, target, "--positive", folders[0], *options)
    (written,) = lines(target)
    assert written.keys() == {*row, "chosen_token_rewards", "rejected_token_rewards"}
    (encoded,) = prepared(read_rows(target), tokenizer, "token_rewards")
    for side in SIDES:
        one, two = (
            token_logps(folders[0], revised(tokenizer, row, template, side, chat=False), encoded[f"{side}_ids"])
            for template in templates
        )
        right = [1 / (1 + math.exp(b - a)) - 0.5 for a, b in zip(one, two, strict=True)]
        assert encoded[f"{side}:token_rewards"] == pytest.approx(right, abs=1e-5)
        assert all(-0.5 <= number <= 0.5 for number in written[f"{side}_token_rewards"])
    assert min(right) < -0.01 or max(right) > 0.01


def test_a_response_that_training_cuts_is_whole_in_its_template(folders, tokenizer, tmp_path):
    source, target = tmp_path / "pairs.jsonl", tmp_path / "scored.jsonl"
    texts = {"prompt": "Why?", "chosen": "0123456789" * 2, "rejected": "98765"}
    source.write_text(json.dumps(as_messages(texts)))
    run(source, target, "--positive", folders[0], *REVISED, "--sigmoid", "--max-length", 24)
    (row,) = lines(target)
    (encoded,) = prepared(read_rows(target), tokenizer, "token_rewards", max_length=24)
    kept = len(encoded["chosen_ids"])
    assert 0 < kept < 20
    assert len(row["chosen_token_rewards"]) == 21
    assert all(number == 0 for number in row["chosen_token_rewards"][kept:])
    one, two = (
        token_logps(folders[0], revised(tokenizer, texts, template, "chosen"), encoded["chosen_ids"])
        for template in (BETTER, WORSE)
    )
    right = [1 / (1 + math.exp(b - a)) - 0.5 for a, b in zip(one, two, strict=True)]
    assert row["chosen_token_rewards"][:kept] == pytest.approx(right, abs=1e-5)


CALL = {"type": "function", "function": {"name": "search", "arguments": {}}}
ASKED = [{"role": "user", "content": "Why?"}]


@pytest.mark.parametrize(
    ("row", "template", "message"),
    [
        ({"prompt": "p", "chosen": " ", "rejected": "b"}, BETTER, "field 'chosen'"),
        (
            {
                "prompt": ASKED,
                "chosen": [{"role": "assistant", "content": "So."}],
                "rejected": [
                    {"role": "assistant", "content": "No."},
                    {"role": "user", "content": "Oh?"},
                    {"role": "assistant", "content": "Yes."},
                ],
            },
            BETTER,
            "field 'rejected': found a response of 3 messages, and {response} in a template is the text of one",
        ),
        (
            {
                "prompt": ASKED,
                "chosen": [{"role": "assistant", "content": "Hm.", "tool_calls": [CALL]}],
                "rejected": [{"role": "assistant", "content": "So."}],
            },
            BETTER,
            "field 'chosen': found tool_calls beside the content, which is all that {response} in a template holds",
        ),
        (
            {"prompt": "p:", "chosen": "a", "rejected": "b"},
            "{response}? {prompt}",
            "the prompts of the two responses begin with other tokens; let the template begin with words",
        ),
        (
            {"prompt": "p:", "chosen": " a", "rejected": " " + "b" * 100},
            "{prompt}{response} Better:",
            "tokens, and the models take 128; give a lower --max-length, or shorter templates",
        ),
    ],
)
def test_rows_whose_response_a_template_cannot_hold_are_named(row, template, message, folders, tmp_path):
    source, target = tmp_path / "pairs.jsonl", tmp_path / "scored.jsonl"
    good = {"prompt": "So:", "chosen": " a", "rejected": " ac"}
    source.write_text(json.dumps(good) + "\n" + json.dumps(row) + "\n")
    options = ("--positive-prompt", template, "--sigmoid")
    if template == BETTER:  # does not end as the good row does
        source.write_text(json.dumps(row) + "\n")
    output = run(source, target, "--positive", folders[0], *options, exit_code=2)
    assert "1 of " in output
    assert message in output
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"]


def test_templates_and_options_that_do_not_go_together(source, folders, tmp_path):
    target = tmp_path / "scored.jsonl"
    two = ("--positive", folders[0], "--negative", folders[1])
    same = ("--positive-prompt", BETTER, "--negative-prompt", BETTER)
    assert "behind one prompt, which both responses have" in run(
        source, target, *two, *same, "--contrast", 1, exit_code=2
    )
    assert "leave out one of the two" in run(source, target, *two, "--contrast", 1, "--sigmoid", exit_code=2)
    only = ("--positive-prompt", "{response} Better?")
    assert "--positive-prompt: no {prompt} in '{response} Better?'" in run(source, target, *two, *only, exit_code=2)
    for unknown in ("{Response}", "{answer}"):
        only = ("--positive-prompt", "{prompt}{response} Better than", "--negative-prompt", f"{{prompt}} {unknown}?")
        output = run(source, target, *two, *only, exit_code=2)
        assert f"--negative-prompt: {unknown} is nothing that a template has, which are {{prompt}} and" in output
    one = ("--positive", folders[0], *same)
    assert "no log-ratio to itself" in run(source, target, *one, exit_code=2)
    assert not target.exists()


def test_a_stopped_run_with_the_response_in_its_templates_goes_on(folders, tmp_path, monkeypatch):
    source, whole, target = (tmp_path / name for name in ("pairs.jsonl", "whole.jsonl", "scored.jsonl"))
    source.write_text("".join(json.dumps(as_messages(row)) + "\n" for row in TEXTS))
    options = ("--positive", folders[0], *REVISED, "--batch-size", 1)
    run(source, whole, *options, "--sigmoid")
    original = Scorer.__call__

    def stopping(self, questions):
        if (tmp_path / "scored.jsonl.unfinished").read_text():
            raise KeyboardInterrupt
        return original(self, questions)

    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "__call__", stopping)
        RUNNER.invoke(app, [str(argument) for argument in (source, target, *options, "--sigmoid")])
    assert len(lines(tmp_path / "scored.jsonl.unfinished")) == 1
    # Log-ratios in the same column; other words about the response.
    others = ((*options, "--column", "token_rewards"), (*options, "--sigmoid", "--negative-prompt", WORSE + "!"))
    for other in others:
        assert "begun with other settings" in run(source, target, *other, exit_code=2)
    run(source, target, *options, "--sigmoid")
    assert lines(target) == lines(whole)


def test_token_rewards_that_are_written_train_t_reg(folders, tmp_path):
    source, target = tmp_path / "pairs.jsonl", tmp_path / "scored.jsonl"
    source.write_text("".join(json.dumps(as_messages(row)) + "\n" for row in TEXTS))
    run(source, target, "--positive", folders[0], *REVISED, "--sigmoid")

    def losses(objective, rows):
        args = PreferenceConfig(
            output_dir=str(tmp_path / "run"),
            max_steps=3,
            learning_rate=1e-3,
            per_device_train_batch_size=3,
            report_to="none",
            use_cpu=True,
            save_strategy="no",
            logging_steps=1,
            seed=1,
        )
        trainer = PreferenceTrainer(folders[0], objective=zoo.build(objective), args=args, train_dataset=rows)
        trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    rows = lines(target)
    of_t_reg, of_dpo = (losses(objective, rows) for objective in ({"zoo": "t_reg", "alpha": 0.5}, "dpo"))
    assert len(of_t_reg) == 3
    assert of_dpo[0] == pytest.approx(math.log(2), abs=1e-4)
    assert abs(of_t_reg[0] - of_dpo[0]) > 1e-3
    assert of_t_reg[-1] < of_t_reg[0]
    for row in rows:
        del row["rejected_token_rewards"]
    with pytest.raises(ValueError, match="rejected_token_rewards"):
        losses("t_reg", rows)


def test_a_parquet_with_a_date_cannot_be_written_as_json(folders, tmp_path):
    row = {"prompt": "So?", "chosen": "a", "rejected": "b", "when": datetime.datetime(2024, 1, 1)}
    source = tmp_path / "pairs.parquet"
    datasets.Dataset.from_list([row]).to_parquet(source)
    output = run(source, tmp_path / "t.jsonl", "--positive", folders[0], "--negative", folders[1], exit_code=2)
    assert "found a value that JSON cannot hold" in output


def test_the_default_column_is_the_one_that_is_read(source, folders, tmp_path):
    two = ("--positive", folders[0], "--negative", folders[1])
    for options, part in (
        ((), TisWeighting()),
        (("--contrast", 1), ContrastWeighting()),
        (("--sigmoid",), zoo.t_reg().loss),
    ):
        target = tmp_path / f"{part.name}.jsonl"
        run(source, target, *two, *options)
        assert f"chosen_{part.column}" in lines(target)[0]
