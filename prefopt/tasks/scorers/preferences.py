"""A linear reward of words that is learned here, from preference pairs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, final

from pydantic import Field

from prefopt.tasks.optional import needed
from prefopt.tasks.preference_data.forms import Template, read_compared
from prefopt.tasks.preference_data.sources import Longest, Rows, Source, as_text
from prefopt.tasks.scorers.base import Scorer

__all__ = ["PreferencesScorer"]


@final
class PreferencesScorer(Scorer):
    """a . x, where x is the TF-IDF vector of the response's words and pairs of words, scaled to length 1, so that more
    words alone do not make more reward. The prompt is not read.

    a is learned from preference pairs: it minimises -sum log sigmoid(a . (x_chosen - x_rejected)) with a penalty of
    |a|^2, the Bradley-Terry model as a logistic regression.

    data      preference pairs, in any of the forms that tasks read. Those that a task trains on or holds out must not
              be among them: `part` of a source keeps them apart. Bad rows that may be set aside are left out
    longest   most words of prompt and response of the pairs that are taken
    strength  of what the pairs say against the penalty: scikit-learn's C
    """

    name: Literal["preferences"] = "preferences"
    data: Rows
    longest: Longest = Longest()
    strength: float = Field(default=0.03, gt=0)

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        learned = _learned(self.data.model_dump_json(), self.longest, self.strength)
        return learned(responses) if responses else []


@functools.lru_cache(maxsize=4)
def _learned(source: str, longest: Longest, strength: float) -> Callable[[Sequence[str]], list[float]]:
    with needed("scorer preferences", "scikit-learn", "scorers"):
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression

    data = Source.model_validate_json(source)
    read = read_compared(data, Template("{post}"), longest)
    pairs = [each.pair for each in read]
    chosen, rejected = ([as_text(getattr(pair, side)) for pair in pairs] for side in ("chosen", "rejected"))
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True).fit(chosen + rejected)
    # Every other pair is turned round, as the regression needs both classes; without an intercept they say the same.
    turned = [1 if place % 2 else -1 for place in range(len(pairs))]
    differences: Any = (words.transform(chosen) - words.transform(rejected)).multiply([[sign] for sign in turned])
    reward = LogisticRegression(C=strength, fit_intercept=False, max_iter=1000).fit(differences.tocsr(), turned)
    return lambda responses: [float(value) for value in words.transform(list(responses)) @ reward.coef_[0]]
