"""Texts from files, data sets or templates, labelled texts, and the slots of templates."""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Iterable, Iterator
from itertools import product
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Self, final

from pydantic import BeforeValidator, Field, model_validator

from prefopt.data import BadRow, DataError, read_rows
from prefopt.validation import Settings

_LABELS = {"1": 1, "true": 1, "pos": 1, "positive": 1, "0": 0, "false": 0, "neg": 0, "negative": 0}


@final
class Texts(Settings):
    """Texts, read from a source.

    source  a text file, one text a line; a zip or folder of text files, each a text, such as nltk's movie_reviews; or
            rows: a file, folder or hub name that `prefopt.data.read_rows` takes
    split   split of a hub data set
    column  field of the rows that holds the text
    words   words to which a text is truncated, joined by single spaces; null: the text is not changed
    """

    source: str
    split: str = "train"
    column: str = "text"
    words: int | None = Field(default=None, ge=1)

    def read(self) -> list[str]:
        """Every different text once, in the source's order. Raises DataError where there is none."""
        texts = list(dict.fromkeys(filter(None, map(self._cut, self._whole()))))
        if not texts:
            raise DataError(f"{self.source}: found no text")
        return texts

    def _cut(self, text: str) -> str:
        return text.strip() if self.words is None else " ".join(text.split()[: self.words])

    def _whole(self) -> Iterator[str]:
        path = Path(self.source).expanduser()
        if path.is_file() and path.suffix == ".txt":
            return iter(path.read_text(encoding="utf-8").splitlines())
        if files := _text_files(path):
            return (text for _, text in files)
        return (str(fields[self.column]) for fields in rows_with(self.source, self.split, (self.column,)))


@final
class Templates(Settings):
    """Texts made of templates with slots, all combinations.

    templates  such as "One day, {name} saw a {thing}."
    fill       slot -> what is put there

    >>> Templates(templates=["{who} ran.", "{who} sat."], fill={"who": ["Ann", "Ben"]}).read()
    ['Ann ran.', 'Ben ran.', 'Ann sat.', 'Ben sat.']
    """

    templates: tuple[str, ...] = Field(min_length=1)
    fill: dict[str, tuple[str, ...]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _can_be_filled(self) -> Self:
        for template in self.templates:
            if absent := [slot for slot in template_slots(template) if slot not in self.fill]:
                raise ValueError(f"the template {template!r} has a slot {absent[0]!r}, which `fill` does not have")
        return self

    def read(self) -> list[str]:
        """Every different text once."""
        texts = (
            template.format(**dict(zip(slots, values, strict=True)))
            for template, slots in zip(self.templates, map(template_slots, self.templates), strict=True)
            for values in product(*(self.fill[slot] for slot in slots))
        )
        return list(dict.fromkeys(texts))


def _source(value: object) -> object:
    """A path or name stands for the texts there."""
    return {"source": value} if isinstance(value, str) else value


def _either(value: object) -> object:
    """Templates where there are any, else texts: told apart before they are validated, so that errors are of one."""
    if isinstance(value, dict) and "templates" in value:
        return Templates.model_validate(value)
    return Texts.model_validate(_source(value)) if isinstance(value, dict | str) else value


SomeTexts = Annotated[Texts, BeforeValidator(_source, json_schema_input_type=str | Texts)]
TextsOrTemplates = Annotated[
    Texts | Templates, BeforeValidator(_either, json_schema_input_type=str | Texts | Templates)
]


def labelled(source: str, *, split: str, text: str, label: str) -> tuple[list[str], list[int]]:
    """Texts and their labels, 1 for positive and 0 for negative.

    source: a zip or folder of text files under pos/ and neg/, or rows with the columns `text` and `label`. Raises
    DataError where it is neither, or where a label is unknown.
    """
    if files := _text_files(Path(source).expanduser()):
        folders = [[part for part in name.split("/")[:-1] if part in ("pos", "neg")] for name, _ in files]
        pairs = [(content, sides[-1]) for (_, content), sides in zip(files, folders, strict=True) if sides]
        if not pairs:
            raise DataError(f"{source}: found text files, but none under pos/ or neg/")
    else:
        pairs = [(str(fields[text]), str(fields[label])) for fields in rows_with(source, split, (text, label))]
    if unknown := [side for _, side in pairs if side.lower() not in _LABELS]:
        raise DataError(f"{source}: found the label {unknown[0]!r}; labels are {', '.join(_LABELS)}")
    return [content for content, _ in pairs], [_LABELS[side.lower()] for _, side in pairs]


def rows_with(source: str, split: str, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The rows of a source, all of which have these columns. Raises DataError where one does not, or is no row."""
    for row in read_rows(source, split=split):
        if isinstance(row, BadRow):
            raise DataError(str(row))
        if absent := [column for column in columns if column not in row.fields]:
            raise DataError(f"{row.where}: found no field {absent[0]!r}, only {', '.join(sorted(row.fields))}")
        yield dict(row.fields)


def template_slots(template: str, allowed: Collection[str] | None = None, required: Iterable[str] = ()) -> list[str]:
    """The names in braces, each once. Raises ValueError where braces do not match, or names are other than these."""
    try:
        slots = list(dict.fromkeys(slot for _, slot, _, _ in Formatter().parse(template) if slot is not None))
    except ValueError as error:
        raise ValueError(f"template {template!r}: {error}; write a brace that is meant as {{{{ or }}}}") from error
    if unknown := [slot for slot in slots if allowed is not None and slot not in allowed]:
        raise ValueError(
            f"template {template!r}: no slot is named {unknown[0]!r}; slots are {', '.join(allowed or ())}"
        )
    if missing := [slot for slot in required if slot not in slots]:
        raise ValueError(f"template {template!r}: it has no slot {{{missing[0]}}}")
    return slots


def _text_files(path: Path) -> list[tuple[str, str]]:
    """Name and content of every text file in a zip or folder, by name; none where it is neither."""
    if path.is_file() and path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            names = sorted(name for name in archive.namelist() if name.endswith(".txt"))
            return [(name, archive.read(name).decode("utf-8", errors="replace")) for name in names]
    files = sorted(path.rglob("*.txt")) if path.is_dir() else []
    return [(f.relative_to(path).as_posix(), f.read_text(encoding="utf-8", errors="replace")) for f in files]
