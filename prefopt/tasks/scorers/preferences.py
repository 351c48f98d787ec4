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

    data      preference pairs, in any of the forms that tasks read, apart from those that a task trains on or holds
              out (see `part` of a source). Bad rows that may be set aside are left out
    longest   most words of prompt and response of the pairs that are taken
    strength  weight of the likelihood against the penalty: scikit-learn's C
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

    pairs = read_compared(Source.model_validate_json(source), Template("{post}"), longest)
    chosen = [as_text(compared.pair.chosen) for compared in pairs]
    rejected = [as_text(compared.pair.rejected) for compared in pairs]
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True).fit(chosen + rejected)
    # Every other pair is reversed, as the regression needs both classes; the likelihood is the same without intercept.
    turned = [1 if index % 2 else -1 for index in range(len(pairs))]
    differences: Any = (words.transform(chosen) - words.transform(rejected)).multiply([[sign] for sign in turned])
    reward = LogisticRegression(C=strength, fit_intercept=False, max_iter=1000).fit(differences.tocsr(), turned)
    return lambda responses: [float(value) for value in words.transform(list(responses)) @ reward.coef_[0]]
