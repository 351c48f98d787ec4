"""Two sentiment scorers that share nothing: VADER's word list, and a classifier trained on film reviews."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

__all__ = ["Scorer", "load", "review_classifier", "vader"]

Scorer = Callable[[Sequence[str]], list[float]]


def vader() -> Scorer:
    """VADER's compound score of each text, from -1 to 1."""
    analyzer = SentimentIntensityAnalyzer()
    return lambda texts: [analyzer.polarity_scores(text)["compound"] for text in texts]


def review_classifier(reviews: Path) -> Scorer:
    """p(positive) of each text, by logistic regression on TF-IDF of words and word pairs.

    reviews: a zip of text files under pos/ and neg/, such as nltk's movie_reviews.
    """
    texts, labels = [], []
    with zipfile.ZipFile(reviews) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".txt") and ("/pos/" in name or "/neg/" in name):
                texts.append(archive.read(name).decode("utf-8", errors="replace"))
                labels.append(int("/pos/" in name))
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    model = make_pipeline(words, LogisticRegression(C=10.0, max_iter=1000))
    model.fit(texts, labels)
    return lambda found: [float(p) for p in model.predict_proba(list(found))[:, 1]]


def load(reviews: Path) -> Mapping[str, Scorer]:
    """Every scorer, under the name that results give it."""
    return {"VADER": vader(), "review classifier": review_classifier(reviews)}
