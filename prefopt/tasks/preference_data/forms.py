"""The forms in which preferences come: pairs, rated responses, comparisons of summaries; all are read into pairs."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from prefopt.data import BadRow, ChatPair, DataError, Pair, SourceRow, TextPair, read_rows, to_pair
from prefopt.data.fields import Usage, holds
from prefopt.data.json_values import DoubledKeyError, json_value
from prefopt.data.messages import texts
from prefopt.data.report import column_label
from prefopt.data.rows import RowError
from prefopt.tasks.preference_data.sources import Longest, Source, as_text
from prefopt.tasks.preference_data.texts import template_slots
from prefopt.whole_files import publish_text

_LOG = logging.getLogger(__name__)

SLOTS = ("post", "title", "subreddit")
"""The slots that a prompt template may have."""

_HUMAN = "ref"
"""The policy under which the comparisons of summarize_from_feedback name the summary that the post's author wrote."""

_LISTED = 10
"""Bad rows that the message of an error lists."""

QUARANTINE = "bad-rows.jsonl"
"""The name of the file, in the material, of rows that were set aside."""


@final
@dataclass(frozen=True)
class Compared:
    """Two responses to a post, of which one is preferred.

    post        what the prompt is made of; the prompt itself, where no template is put around it
    references  responses that others are compared with: what people wrote, or else liked best of those in the row
    scores      of the chosen and the rejected response, where there are ratings
    """

    pair: Pair
    post: str
    references: tuple[str, ...]
    scores: tuple[float, float] | None = None

    def as_row(self) -> dict[str, Any]:
        """The pair as a row whose prompt is given, with the scores that `odpo` reads, where there are any."""
        parts = {name: getattr(self.pair, name) for name in ("prompt", "chosen", "rejected")}
        row: dict[str, Any] = {name: part if isinstance(part, str) else list(part) for name, part in parts.items()}
        if isinstance(self.pair, ChatPair):
            row |= self.pair.template_fields
        if self.scores is not None:
            row["score_chosen"], row["score_rejected"] = self.scores
        return row

    def as_prompt_row(self) -> dict[str, Any]:
        """The row of a held-out prompt; its `chosen`, which policies are compared with, is the first reference."""
        references = list(self.references)
        return {"prompt": self.as_row()["prompt"], "post": self.post, "references": references, "chosen": references[0]}


@final
class Template:
    """A prompt from a post. Raises ValueError for text that has no slot for the post, or has others than SLOTS."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.slots = template_slots(text, SLOTS, required=("post",))

    def prompt(self, fields: Mapping[str, object]) -> str:
        """The prompt of a row with these fields. Raises RowError where one that the template names is missing."""
        for slot in self.slots:
            if not isinstance(fields.get(slot), str) or not str(fields[slot]).strip():
                raise RowError(slot, f"found no {slot}, which the template names", "add it, or change the template")
        return self.text.format(**{slot: fields[slot] for slot in self.slots})


def read_compared(
    source: Source, template: Template, longest: Longest | None = None, *, quarantine: Path | None = None
) -> list[Compared]:
    """The pairs of a source, in whichever of the forms its rows are, that are in its part and short enough.

    Bad rows raise DataError, which lists the first ten with file and line. Where the source sets them aside, they go
    into the file `quarantine` instead, if there is one, in place of what it held. DataError too where no pair is left.
    Columns with text that nobody reads, and what is guessed, are logged with the number of their rows.
    """
    pairs: list[Compared] = []
    bad: list[BadRow] = []
    unread: Counter[str] = Counter()
    guessed: Counter[str] = Counter()
    count = 0
    for row in _rows(source):
        count += 1
        if isinstance(row, BadRow):
            bad.append(row)
            continue
        try:
            compared = list(_read(row, template, source.columns))
        except RowError as error:
            bad.append(row.bad(*error.report))
            continue
        for usage in (pair.pair.usage for pair in compared[:1]):
            spare = {name: value for name, value in row.fields.items() if name not in usage.fields and holds(value)}
            unread.update(column_label(name, has_text=True) for name, value in spare.items() if texts(value))
            guessed.update(usage.guessed)
        pairs += compared
    listing = "".join(f"\n  {row}" for row in bad[:_LISTED])
    listing += f"\n  ... and {len(bad) - _LISTED:,} more" if len(bad) > _LISTED else ""
    if bad and source.on_bad_rows == "stop":
        raise DataError(
            f"{source.name}: {len(bad):,} of {count:,} rows cannot be used; mend them, or set them aside with "
            f"on_bad_rows: quarantine{listing}"
        )
    if bad and quarantine is not None:
        publish_text("".join(json.dumps(dataclasses.asdict(row), default=str) + "\n" for row in bad), quarantine)
    for heading, counts in (("not used", unread), ("guessed", guessed)):
        if counts:
            named = "; ".join(f"{what} ({number:,} rows)" for what, number in counts.most_common())
            _LOG.warning("%s: %s: %s", source.name, heading, named)
    if not pairs:
        raise DataError(f"{source.name}: no usable pair in {count:,} rows{listing}")
    kept = [pair for pair in pairs if source.takes(pair.post) and (longest is None or longest.keeps(pair.pair))]
    if not kept:
        raise DataError(
            f"{source.name}: none of {len(pairs):,} pairs is in its `part` and as short as `longest` says; widen them"
        )
    return kept


def _rows(source: Source) -> Iterable[SourceRow | BadRow]:
    """The rows of a source; a JSON file that maps posts to ratings has a row for each post."""
    path = Path(source.name).expanduser()
    if path.suffix == ".json" and path.is_file():
        try:
            content = json_value(path.read_bytes())
        except DoubledKeyError as error:
            raise DataError(f"{path}: an object has the key {str(error)!r} twice; keep one of the two") from error
        except ValueError:
            content = None  # `read_rows` says what is wrong with it
        if isinstance(content, dict):
            return _by_post(path, content)
    return read_rows(source.name, split=source.split)


def _by_post(path: Path, content: Mapping[str, object]) -> Iterator[SourceRow | BadRow]:
    for number, (post, fields) in enumerate(content.items(), start=1):
        where = f"{path}, post {number}"
        if isinstance(fields, Mapping):
            yield SourceRow(where, {"prompt": post, **fields})
        else:
            yield BadRow(where, "", "found no object for a post", "give it `responses` and `rewards`", fields)


def _read(row: SourceRow, template: Template, columns: Mapping[str, str]) -> Iterable[Compared]:
    """The pairs of a row, whichever of the forms it has. Raises RowError."""
    for fields, read in _FORMS.items():
        if all(columns.get(field, field) in row.fields for field in fields):
            return read(row, template, columns)
    forms = "; ".join(", ".join(fields) for fields in _FORMS)
    raise RowError("", f"found the fields {', '.join(sorted(row.fields))}", f"give those of one of the forms: {forms}")


def _rated(row: SourceRow, template: Template, columns: Mapping[str, str]) -> Iterable[Compared]:
    """A prompt with rated responses: two that are rated unequally make a pair."""
    names = [columns.get(field, field) for field in ("responses", "rewards")]
    responses, ratings = (row.fields[name] for name in names)
    if not isinstance(responses, Sequence) or not all(isinstance(text, str) and text.strip() for text in responses):
        raise RowError(names[0], "found no list of responses", "give texts, none of them empty")
    if not isinstance(ratings, Sequence) or not all(isinstance(rating, int | float) for rating in ratings):
        raise RowError(names[1], "found no list of ratings", "give numbers")
    if len(responses) != len(ratings):
        counts = f"found {len(ratings)} ratings of {len(responses)} responses"
        raise RowError(names[1], counts, "give each response its rating")
    rated = list(zip(responses, ratings, strict=True))
    post = row.fields[columns.get("prompt", "prompt")]
    usage = Usage({*names, columns.get("prompt", "prompt"), *template.slots})
    prompt = template.prompt({**row.fields, "post": post})
    references = tuple(dict.fromkeys(text for text, rating in rated if rating == max(ratings)))
    return [
        Compared(_text_pair(row, prompt, post, better, worse, usage), str(post), references, (float(high), float(low)))
        for better, high in rated
        for worse, low in rated
        if high > low and better != worse
    ]


def _comparison(row: SourceRow, template: Template, columns: Mapping[str, str]) -> Iterable[Compared]:
    """A row of the comparisons of summarize_from_feedback: `info` of the post, two `summaries`, and the `choice`."""
    names = [columns.get(field, field) for field in ("info", "summaries", "choice")]
    info, summaries, choice = (row.fields[name] for name in names)
    if not isinstance(info, Mapping):
        raise RowError("info", "found no object", "give the post as `post` in it")
    summaries = summaries if isinstance(summaries, Sequence) else []
    values = (summary.get("text") for summary in summaries if isinstance(summary, Mapping))
    texts = [text for text in values if isinstance(text, str) and text.strip()]
    if not len(set(texts)) == len(summaries) == 2:
        raise RowError("summaries", "found no two different summaries with a `text`", "mend or remove the row")
    if choice not in (0, 1):
        raise RowError("choice", f"found the choice {choice!r}", "give 0 or 1, the index of the better summary")
    prompt = template.prompt(info)
    better, worse = texts[int(choice)], texts[1 - int(choice)]
    human = tuple(summary["text"] for summary in summaries if summary.get("policy") == _HUMAN)
    pair = _text_pair(row, prompt, info["post"], better, worse, Usage(set(names)))
    return [Compared(pair, str(info["post"]), human or (better,))]


def _pair(row: SourceRow, template: Template, columns: Mapping[str, str]) -> Iterable[Compared]:
    """A row that `prefopt.data.to_pair` reads; the template is put around a prompt of text, not around messages."""
    pair = to_pair(row, columns)
    if isinstance(pair, BadRow):
        raise RowError(pair.field, pair.problem, pair.remedy)
    if isinstance(pair.prompt, str) and not pair.prompt.strip():
        names = (columns.get(field, field) for field in ("prompt", "chosen"))
        field = next(name for name in names if name in row.fields)
        raise RowError(field, "found no prompt", "give the row one: held-out prompts are what a policy answers")
    post, references = as_text(pair.prompt), (as_text(pair.chosen),)
    usage = Usage(pair.usage.fields | set(template.slots), pair.usage.guessed)
    if not isinstance(pair, ChatPair):
        pair = _text_pair(row, template.prompt({**row.fields, "post": post}), post, pair.chosen, pair.rejected, usage)
    return [Compared(pair, post, references)]


_FORMS: Mapping[tuple[str, ...], Callable[[SourceRow, Template, Mapping[str, str]], Iterable[Compared]]] = {
    ("prompt", "responses", "rewards"): _rated,
    ("info", "summaries", "choice"): _comparison,
    ("chosen", "rejected"): _pair,
}
"""The fields that tell a form -> its reader."""


def _text_pair(row: SourceRow, prompt: str, post: object, better: str, worse: str, usage: Usage) -> TextPair:
    """The pair; after a template there is a space between prompt and response, where the data has none."""
    if prompt != post and not prompt[-1:].isspace():
        better, worse = (text if text[:1].isspace() else f" {text}" for text in (better, worse))
    return TextPair(prompt, better, worse, row, usage)
