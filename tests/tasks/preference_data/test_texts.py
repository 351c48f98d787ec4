"""Texts by path, and texts of templates."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from prefopt.data import DataError
from prefopt.tasks.preference_data.texts import SomeTexts, Templates, Texts, TextsOrTemplates


class Holder(BaseModel):
    either: TextsOrTemplates | None = None
    texts: SomeTexts | None = None


def test_texts_of_lines_files_and_rows(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("it  was good\n\nit was bad\nit  was good\n")
    assert Texts(source=str(tmp_path / "lines.txt")).read() == ["it  was good", "it was bad"]
    assert Texts(source=str(tmp_path / "lines.txt"), words=2).read() == ["it was"]
    (tmp_path / "folder" / "in").mkdir(parents=True)
    (tmp_path / "folder" / "in" / "b.txt").write_text("second\nreview\n")
    (tmp_path / "folder" / "a.txt").write_text("first review")
    assert Texts(source=str(tmp_path / "folder")).read() == ["first review", "second\nreview"]
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(tmp_path / "folder" / "a.txt", "a.txt")
        archive.writestr("b.txt", b"\xff bytes")
    assert Texts(source=str(tmp_path / "all.zip"), words=1).read() == ["first", "\N{REPLACEMENT CHARACTER}"]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"review": text}) + "\n" for text in ("one two", "three")))
    assert Texts(source=str(rows), column="review").read() == ["one two", "three"]
    with pytest.raises(DataError, match=r"rows.jsonl:1: found no field 'text', only review"):
        Texts(source=str(rows)).read()
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(DataError, match=r"empty.txt: found no text"):
        Texts(source=str(tmp_path / "empty.txt")).read()


def test_templates_are_filled_in_all_ways() -> None:
    templates = Templates(
        templates=["{who} saw a {what}.", "{who}, {who}"], fill={"who": ["A", "B"], "what": ["x", "y"]}
    )
    assert templates.read() == ["A saw a x.", "A saw a y.", "B saw a x.", "B saw a y.", "A, A", "B, B"]
    assert Templates(templates=["as it is", "as it is"]).read() == ["as it is"]


def test_a_field_takes_a_name_texts_or_templates() -> None:
    assert Holder(either="stanfordnlp/imdb", texts="a.txt") == Holder(
        either=Texts(source="stanfordnlp/imdb"), texts=Texts(source="a.txt")
    )
    held = Holder(either={"templates": ["{a}"], "fill": {"a": ["x"]}})
    assert isinstance(held.either, Templates)
    assert Holder.model_validate(held.model_dump(mode="json")) == held
    for value, message in (
        ({"templates": ["{a}"]}, "has a slot 'a', which `fill` does not have"),
        ({"source": "x", "word": 3}, "word"),
    ):
        with pytest.raises(ValidationError, match=message):
            Holder(either=value)
