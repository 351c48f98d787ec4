"""A classifier of sentiment that is trained here, on labelled reviews."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal, final

from prefopt.tasks.optional import needed
from prefopt.tasks.preference_data.texts import labelled
from prefopt.tasks.scorers.base import Scorer

__all__ = ["ReviewsScorer"]


@final
class ReviewsScorer(Scorer):
    """p(positive | response) = sigmoid(a . x + b), in [0, 1]: x is the TF-IDF vector of its words and pairs of words,
    (a, b) a logistic regression on labelled texts. The prompt is not read.

    reviews  labelled texts: a zip or folder of text files under pos/ and neg/, such as nltk's movie_reviews, or rows
             with a text and a label, from a file, folder or hub name
    split    of a hub data set
    text     column of the text
    label    column of the label: 1 and 0, true and false, or names such as positive and negative
    """

    name: Literal["reviews"] = "reviews"
    reviews: str
    split: str = "train"
    text: str = "text"
    label: str = "label"

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        if not responses:
            return []
        model = _trained(self.reviews, self.split, self.text, self.label)
        return [float(p) for p in model.predict_proba(list(responses))[:, 1]]


@functools.lru_cache(maxsize=4)
def _trained(reviews: str, split: str, text: str, label: str) -> Any:
    with needed("scorer reviews", "scikit-learn", "scorers"):
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

    texts, labels = labelled(reviews, split=split, text=text, label=label)
    if len(set(labels)) < 2:
        raise ValueError(f"scorer reviews: {reviews} has texts of one label only; it takes both to tell them apart")
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    return make_pipeline(words, LogisticRegression(C=10.0, max_iter=1000)).fit(texts, labels)
