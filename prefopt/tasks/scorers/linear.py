"""Linear scorers of words that are trained here: from labelled reviews, or from preference pairs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal, final

from pydantic import Field

from prefopt.tasks.optional import needed
from prefopt.tasks.preference_data.forms import Template, read_compared
from prefopt.tasks.preference_data.sources import Longest, Rows, Source, as_text
from prefopt.tasks.preference_data.texts import labelled
from prefopt.tasks.scorers.base import Scorer


@final
class ReviewsScorer(Scorer):
    """p(positive | response) = sigmoid(a . x + b), in [0, 1]: x is the TF-IDF vector of its words and pairs of words,
    (a, b) a logistic regression on labelled texts. The prompt is not read.

    reviews  labelled texts: a zip or folder of text files under pos/ and neg/, such as nltk's movie_reviews, or rows
             with a text and a label, from a file, folder or hub name
    split    of a hub data set
    text     column of the text
    label    column of the label: 1 and 0, true and false, or names such as positive and negative

    >>> ReviewsScorer(reviews="movie_reviews.zip").label
    'label'
    """

    name: Literal["reviews"] = "reviews"
    reviews: str
    split: str = "train"
    text: str = "text"
    label: str = "label"

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        if not responses:
            return []
        words, regression = _classifier(self.reviews, self.split, self.text, self.label)
        return [float(p) for p in regression.predict_proba(words.transform(list(responses)))[:, 1]]


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

    >>> PreferencesScorer(data="pairs.jsonl").data.split
    'train'
    """

    name: Literal["preferences"] = "preferences"
    data: Rows
    longest: Longest = Longest()
    strength: float = Field(default=0.03, gt=0)

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        if not responses:
            return []
        words, regression = _reward(self.data.model_dump_json(), self.longest, self.strength)
        return [float(value) for value in words.transform(list(responses)) @ regression.coef_[0]]


@functools.lru_cache(maxsize=4)
def _classifier(reviews: str, split: str, text: str, label: str) -> tuple[Any, Any]:
    words, regression = _models("reviews", C=10.0)
    texts, labels = labelled(reviews, split=split, text=text, label=label)
    if len(set(labels)) < 2:
        raise ValueError(f"scorer reviews: {reviews} has texts of one label only; it takes both to tell them apart")
    return words, regression.fit(words.fit_transform(texts), labels)


@functools.lru_cache(maxsize=4)
def _reward(source: str, longest: Longest, strength: float) -> tuple[Any, Any]:
    words, regression = _models("preferences", C=strength, fit_intercept=False)
    pairs = read_compared(Source.model_validate_json(source), Template("{post}"), longest)
    chosen = [as_text(compared.pair.chosen) for compared in pairs]
    rejected = [as_text(compared.pair.rejected) for compared in pairs]
    words.fit(chosen + rejected)
    # Every other pair is reversed, as the regression needs both classes; the likelihood is the same without intercept.
    signs = [1 if index % 2 else -1 for index in range(len(pairs))]
    differences: Any = (words.transform(chosen) - words.transform(rejected)).multiply([[sign] for sign in signs])
    return words, regression.fit(differences.tocsr(), signs)


def _models(scorer: str, **settings: Any) -> tuple[Any, Any]:
    """The vectoriser and the regression, untrained."""
    with needed(f"scorer {scorer}", "scikit-learn", "scorers"):
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression

    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    return words, LogisticRegression(max_iter=1000, **settings)
