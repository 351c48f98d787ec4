"""The forms in which preferences come: pairs, rated responses, comparisons of summaries; all are read into pairs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import final

from prefopt.data import BadRow, ChatPair, DataError, Pair, SourceRow, TextPair
from prefopt.tasks.preference_data.sources import Longest, Source, as_text, read_pair, usable

__all__ = ["SLOTS", "Compared", "Template", "read_compared"]

SLOTS = ("post", "title", "subreddit")
"""What a prompt template may have a place for."""

_HUMAN = "ref"
"""The policy under which the comparisons of summarize_from_feedback name the summary that the post's author wrote."""


@final
@dataclass(frozen=True)
class Compared:
    """Two responses to a post, of which one is preferred.

    post        what the prompt is made of; the prompt itself, where no template is put around it
    references  responses that others are held against: what people wrote, or else liked best of those in the row
    scores      of the chosen and the rejected response, where there are ratings
    """

    pair: Pair
    post: str
    references: tuple[str, ...]
    scores: tuple[float, float] | None = None


@final
class Template:
    """A prompt from a post. Raises ValueError for text that has no place for the post, or has others than SLOTS."""

    def __init__(self, text: str) -> None:
        try:
            slots = [slot for _, slot, _, _ in Formatter().parse(text) if slot is not None]
        except ValueError as error:
            raise ValueError(f"template {text!r}: {error}") from error
        if unknown := [slot for slot in slots if slot not in SLOTS]:
            raise ValueError(f"template {text!r}: no place named {unknown[0]!r}; there are {', '.join(SLOTS)}")
        if "post" not in slots:
            raise ValueError(f"template {text!r}: it has no place for the {{post}}")
        self.text, self.slots = text, tuple(slots)

    def prompt(self, row: SourceRow, known: Mapping[str, object]) -> str | BadRow:
        """The prompt of a row, of which this is known; a BadRow where it lacks something that the template names."""
        for slot in self.slots:
            if not isinstance(known.get(slot), str) or not str(known[slot]).strip():
                return row.bad(slot, f"found no {slot}, which the template names", "add it, or change the template")
        return self.text.format(**{slot: known[slot] for slot in self.slots})


def read_compared(
    source: Source, template: Template, longest: Longest | None = None, *, folder: Path | None = None
) -> list[Compared]:
    """The pairs of a source, in whichever of the forms its rows are, that are in its part and short enough.

    Raises DataError for bad rows, unless the source lets them be set aside, which is in a file of the folder; and where
    no pair is left.
    """
    every = usable(
        _rows(source),
        lambda row: _compared(row, template, source.columns),
        description=source.name,
        on_bad_rows=source.on_bad_rows,
        folder=folder,
    )
    kept = [each for each in every if source.takes(each.post) and (longest is None or longest.keeps(each.pair))]
    if not kept:
        raise DataError(
            f"{source.name}: none of {len(every):,} pairs is in its `part` and as short as `longest` says; widen them"
        )
    return kept


def _rows(source: Source) -> Iterator[SourceRow | BadRow]:
    """The rows of a source; a JSON file that maps posts to ratings has a row for each post."""
    path = Path(source.name).expanduser()
    if path.suffix == ".json" and path.is_file():
        try:
            read = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            return source.rows()  # which says what is wrong with it
        if isinstance(read, dict):
            return _by_post(path, read)
    return source.rows()


def _by_post(path: Path, read: Mapping[str, object]) -> Iterator[SourceRow | BadRow]:
    for number, (post, fields) in enumerate(read.items(), start=1):
        where = f"{path}, post {number}"
        if isinstance(fields, Mapping):
            yield SourceRow(where, {"prompt": post, **fields})
        else:
            yield BadRow(where, "", "found no object for a post", "give it `responses` and `rewards`", fields)


def _compared(row: SourceRow, template: Template, columns: Mapping[str, str]) -> Iterable[Compared] | BadRow:
    """The pairs of a row, whichever of the forms it has."""
    for needed, read in _FORMS.items():
        if all(columns.get(field, field) in row.fields for field in needed):
            return read(row, template, columns)
    forms = "; ".join(", ".join(fields) for fields in _FORMS)
    return row.bad("", f"found the fields {', '.join(sorted(row.fields))}", f"give those of one of the forms: {forms}")


def _rated(row: SourceRow, template: Template, columns: Mapping[str, str]) -> Iterable[Compared] | BadRow:
    """A prompt with rated responses: two that are rated unequally make a pair."""
    names = [columns.get(field, field) for field in ("responses", "rewards")]
    summaries, ratings = (row.fields[name] for name in names)
    if not isinstance(summaries, Sequence) or not all(isinstance(each, str) and each.strip() for each in summaries):
        return row.bad(names[0], "found no list of responses", "give texts, none of them empty")
    if not isinstance(ratings, Sequence) or not all(isinstance(each, int | float) for each in ratings):
        return row.bad(names[1], "found no list of ratings", "give numbers")
    if len(summaries) != len(ratings):
        problem = f"found {len(ratings)} ratings of {len(summaries)} responses"
        return row.bad(names[1], problem, "give each response its rating")
    post = row.fields[columns.get("prompt", "prompt")]
    prompt = template.prompt(row, {**row.fields, "post": post})
    if isinstance(prompt, BadRow):
        return prompt
    best = max(ratings, default=0)
    references = tuple(dict.fromkeys(s for s, rating in zip(summaries, ratings, strict=True) if rating == best))
    rated = list(zip(summaries, ratings, strict=True))
    return [
        _text(row, prompt, str(post), better, worse, references, (float(high), float(low)))
        for better, high in rated
        for worse, low in rated
        if high > low and better != worse
    ]


def _comparison(row: SourceRow, template: Template, columns: Mapping[str, str]) -> Iterable[Compared] | BadRow:
    """A row of the comparisons of summarize_from_feedback: `info` of the post, two `summaries`, and the `choice`."""
    info, summaries, choice = (row.fields[columns.get(field, field)] for field in ("info", "summaries", "choice"))
    if not isinstance(info, Mapping):
        return row.bad("info", "found no object", "give the post as `post` in it")
    found = summaries if isinstance(summaries, Sequence) else []
    texts = [each["text"] for each in found if isinstance(each, Mapping) and isinstance(each.get("text"), str)]
    if len(texts) != 2 or len(found) != 2 or not all(text.strip() for text in texts) or texts[0] == texts[1]:
        return row.bad("summaries", "found no two different summaries with a `text`", "mend or remove the row")
    if choice not in (0, 1):
        return row.bad("choice", f"found the choice {choice!r}", "give 0 or 1, the place of the better summary")
    prompt = template.prompt(row, info)
    if isinstance(prompt, BadRow):
        return prompt
    better, worse = texts[int(choice)], texts[1 - int(choice)]
    written = tuple(each["text"] for each in found if each.get("policy") == _HUMAN)
    return [_text(row, prompt, str(info["post"]), better, worse, written or (better,))]


def _pair(row: SourceRow, template: Template, columns: Mapping[str, str]) -> Iterable[Compared] | BadRow:
    """A row that `prefopt.data.to_pair` reads; the template is put around a prompt of text, not around messages."""
    found = read_pair(row, columns)
    if isinstance(found, BadRow):
        return found
    (pair,) = found
    post = as_text(pair.prompt)
    references = (as_text(pair.chosen),)
    if isinstance(pair, ChatPair):
        return [Compared(pair, post, references)]
    prompt = template.prompt(row, {**row.fields, "post": post})
    if isinstance(prompt, BadRow):
        return prompt
    return [_text(row, prompt, post, pair.chosen, pair.rejected, references)]


_FORMS: Mapping[tuple[str, ...], Callable[[SourceRow, Template, Mapping[str, str]], Iterable[Compared] | BadRow]] = {
    ("prompt", "responses", "rewards"): _rated,
    ("info", "summaries", "choice"): _comparison,
    ("chosen", "rejected"): _pair,
}
"""The fields that a form is known by -> how it is read."""


def _text(
    row: SourceRow,
    prompt: str,
    post: str,
    better: str,
    worse: str,
    references: tuple[str, ...],
    scores: tuple[float, float] | None = None,
) -> Compared:
    """The pair; behind a template there is a space between prompt and response, where the data has none."""
    if prompt != post and not prompt[-1:].isspace():
        better, worse = (text if text[:1].isspace() else f" {text}" for text in (better, worse))
    return Compared(TextPair(prompt, better, worse, row), post, references, scores)
