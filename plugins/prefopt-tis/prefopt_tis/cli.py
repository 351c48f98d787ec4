"""prefopt-score-tokens"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from prefopt.data import EncodingConfig
from prefopt_tis.encode import PLAIN, RESPONSE, Encoder, position_limit
from prefopt_tis.score import Contrast, Scorer, contrasting, scoring
from prefopt_tis.write import Unfinished, count, write

__all__ = ["app"]

UNUSABLE = 2
"""Exit code where what the user gave cannot be used."""

_BRACED = re.compile(r"(?<!\w)\{\w+\}")
"""What would be a field of a template; not the argument of a LaTeX command."""

app = typer.Typer(add_completion=False)


@app.command()
def main(
    source: Annotated[str, typer.Argument(metavar="INPUT", help="Rows, such as pairs.jsonl.")],
    target: Annotated[Path, typer.Argument(metavar="OUTPUT", help="The file to write, one JSON object a line.")],
    positive: Annotated[str, typer.Option(help="The model that prefers what is preferred: its name or folder.")],
    negative: Annotated[str | None, typer.Option(help="The other model. The same one unless given.")] = None,
    positive_prompt: Annotated[
        str, typer.Option(help="A template of {prompt} and {response} for the positive model.")
    ] = PLAIN,
    negative_prompt: Annotated[str, typer.Option(help="The same for the negative model.")] = PLAIN,
    tokenizer: Annotated[str | None, typer.Option(help="Of the training, where not the positive model's.")] = None,
    contrast: Annotated[
        float | None,
        typer.Option(min=0, help="Write the likelihood of tokens under pi+^(1 + B) / pi-^B instead.", metavar="B"),
    ] = None,
    sigmoid: Annotated[bool, typer.Option("--sigmoid", help="Write sigmoid(log(pi+ / pi-)) - 0.5 instead.")] = False,
    column: Annotated[
        str | None,
        typer.Option(
            help="Write chosen_NAME and rejected_NAME: log_ratios; with --sigmoid token_rewards, with --contrast "
            "likelihoods.",
            metavar="NAME",
        ),
    ] = None,
    max_length: Annotated[int, typer.Option(help="As in training: tokens of prompt and response.")] = 1024,
    max_prompt_length: Annotated[int | None, typer.Option(help="As in training: tokens of the prompt.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs at once.")] = 8,
    dtype: Annotated[str, typer.Option(help="The models' precision: auto, float32, bfloat16, ...")] = "auto",
    overwrite: Annotated[bool, typer.Option(help="Replace OUTPUT where it is there.")] = False,
    device: Annotated[str | None, typer.Option(help="Such as cuda:0. A GPU if there is one, unless given.")] = None,
) -> None:
    """Write what two models say of every response token into preference data: log(pi+ / pi-), for the weightings `tis`,
    `tis_rank`, `tis_scale`, `guided` and `selective`; the sigmoid of that less 0.5, for the row `t_reg`; or the token's
    likelihood under their contrast, for `contrast`."""
    console = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)
    other = negative or positive
    column = column or ("token_rewards" if sigmoid else "log_ratios" if contrast is None else "likelihoods")
    try:
        if target.exists() and not overwrite:
            raise FileExistsError(f"{target} is there already; name another file, or replace it by --overwrite")
        _refuse_what_says_nothing(positive, other, positive_prompt, negative_prompt)
        if contrast is not None:
            _refuse_with_contrast(positive_prompt, negative_prompt, sigmoid=sigmoid)
        if dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
            raise ValueError(f"--dtype: {dtype!r} is no precision of torch; give auto, float32 or bfloat16")
        names = list(dict.fromkeys((positive, other)))
        words = _tokenizer(tokenizer or positive, names)
        encode = Encoder(
            words,
            EncodingConfig(max_length=max_length, max_prompt_length=max_prompt_length),
            (positive_prompt, negative_prompt),
            min(position_limit(name) for name in names),
        )
        total = count(source, encode, column)
        settings = {
            "models": [positive, other],
            "templates": encode.templates,
            "tokenizer": tokenizer or positive,
            "column": column,
            **({} if contrast is None else {"contrast": contrast}),
            **({"sigmoid": True} if sigmoid else {}),
            "encoding": encode.encoding.model_dump(),
            "dtype": dtype,
        }
        unfinished = Unfinished(target, settings)
        unfinished.resume()
        target_device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        models = {name: _model(name, dtype).to(target_device) for name in names}
        pad = words.pad_token_id if words.pad_token_id is not None else 0  # under the mask, where any token will do
        scorer: Scorer | Contrast
        if contrast is None:
            asked = {name: scoring(model) for name, model in models.items()}
            scorer = Scorer(asked[positive], asked[other], pad, sigmoid=sigmoid)
        else:
            scorer = Contrast(contrasting(models[positive], models[other], contrast), contrast, pad)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            bar = progress.add_task(escape(source), total=total)
            for written in write(source, unfinished, encode, scorer, column=column, batch_size=batch_size):
                progress.update(bar, completed=written)
    except (ValueError, OSError, FloatingPointError) as error:
        console.print(f"[red]error:[/] {escape(str(error))}")
        raise typer.Exit(UNUSABLE) from None
    Console(soft_wrap=True, highlight=False, emoji=False).print(escape(f"{target}: {total} rows"))


def _refuse_what_says_nothing(positive: str, negative: str, *templates: str) -> None:
    for option, template in zip(("--positive-prompt", "--negative-prompt"), templates, strict=True):
        if PLAIN not in template:
            raise ValueError(f"{option}: no {PLAIN} in {template!r}; write {PLAIN} where the prompt is to stand")
        if others := [field for field in _BRACED.findall(template) if field not in (PLAIN, RESPONSE)]:
            raise ValueError(f"{option}: {others[0]} is nothing that a template has, which are {PLAIN} and {RESPONSE}")
    if positive == negative and templates[0] == templates[1]:
        raise ValueError(
            "one model under one prompt has no log-ratio to itself; give --negative, or --positive-prompt and "
            "--negative-prompt"
        )


def _refuse_with_contrast(*templates: str, sigmoid: bool) -> None:
    if sigmoid:
        raise ValueError(
            "--sigmoid is of log-ratios, and --contrast writes likelihoods in their place; leave out one of the two"
        )
    if templates[0] != templates[1] or RESPONSE in templates[0]:
        raise ValueError(
            "--contrast compares two models behind one prompt, which both responses have; give --negative, and leave "
            "out --positive-prompt and --negative-prompt"
        )


def _tokenizer(name: str, models: list[str]) -> PreTrainedTokenizerBase:
    """The tokenizer of that name. Raises ValueError where a model has another vocabulary."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name)
    for model in models:
        if model != name and AutoTokenizer.from_pretrained(model).get_vocab() != tokenizer.get_vocab():
            raise ValueError(
                f"{model}: its tokenizer has another vocabulary than that of {name}; a log-ratio is of one token, so "
                "take two models with the tokenizer of the training"
            )
    return tokenizer


def _model(name: str, dtype: str) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
    return model
