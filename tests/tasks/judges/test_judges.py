"""Judges: what they make of two responses, and how they are named in a suite."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from prefopt.tasks.judges import AnyJudge, ScorerJudge, resolve_judge
from prefopt.tasks.scorers import WordsScorer

GOOD, MIXED, BAD = " a wonderful film", " a wonderful but terrible and boring film", " a terrible film"


class Holder(BaseModel):
    judge: AnyJudge = None


def test_a_scorer_judges_by_the_difference_of_two_scores() -> None:
    prompts, ours, theirs = ["It was"] * 4, [GOOD, BAD, MIXED, BAD], [BAD, GOOD, MIXED, MIXED]
    assert ScorerJudge(scorer="words").win_rates(prompts, ours, theirs) == [1, 0, 0.5, 0]
    # 2/3 apart
    assert ScorerJudge(scorer="words", margin=0.7).win_rates(prompts, ours, theirs) == [1, 0, 0.5, 0.5]
    assert ScorerJudge(scorer="words").win_rates([], [], []) == []


def test_a_scorer_that_cannot_score_is_found_out_before_training() -> None:
    ScorerJudge(scorer="words").check()
    with pytest.raises(OSError, match=r"nowhere.yaml"):
        ScorerJudge(scorer={"name": "words", "file": "nowhere.yaml"}).check()


def test_judges_are_told_by_their_fields_and_come_back_from_what_they_are_written_as() -> None:
    judge = resolve_judge({"scorer": "words", "margin": 0.2})
    assert judge == ScorerJudge(scorer=WordsScorer(), margin=0.2) == resolve_judge(judge)
    assert Holder(judge=judge).model_dump(mode="json")["judge"]["scorer"]["name"] == "words"
    assert Holder.model_validate(Holder(judge=judge).model_dump(mode="json")).judge == judge
    assert Holder().judge is Holder(judge=None).judge is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("words", "a judge is a mapping with one of scorer, endpoint"),
        ({"margin": 0.1}, "a judge is a mapping with one of scorer, endpoint"),
        ({"scorer": "wordz"}, "scorer: no Scorer named 'wordz'. Did you mean 'words'"),
        ({"scorer": "words", "margins": 0.1}, "margins: no such field in ScorerJudge. Did you mean 'margin'"),
    ],
)
def test_a_judge_that_cannot_be_had_is_named(value: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Holder(judge=value)
