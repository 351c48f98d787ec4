"""The generated corpus: determined by its seed, both sides alike, prompts that begin its sentences."""

from __future__ import annotations

from prefopt.data.token_texts import token_texts
from prefopt.tasks.models import word_tokenizer
from prefopt.tasks.scorers.corpus import corpus_prompts, corpus_reviews
from prefopt.tasks.scorers.words import WORDS


def test_the_corpus_is_determined_by_its_seed() -> None:
    assert corpus_reviews(50, seed=3) == corpus_reviews(50, seed=3) != corpus_reviews(50, seed=4)
    assert corpus_prompts(3) == corpus_prompts(3) != corpus_prompts(4)
    assert sorted(corpus_prompts(3)) == sorted(set(corpus_prompts(4)))


def test_reviews_are_as_often_positive_as_negative() -> None:
    scores = [WORDS.score(review) for review in corpus_reviews(2000, seed=0)]
    assert abs(sum(scores) / len(scores)) < 0.06
    assert sum(score > 0.5 for score in scores) > 500
    assert sum(score < -0.5 for score in scores) > 500


def test_prompts_are_neutral_and_begin_sentences_of_the_corpus() -> None:
    prompts = corpus_prompts(0)
    text = " ".join(corpus_reviews(5000, seed=0))
    assert all(WORDS.score(prompt) == 0 and not prompt.endswith((" ", ".")) for prompt in prompts)
    assert sum(prompt + " " in text for prompt in prompts) > 0.95 * len(prompts)


def test_the_grammar_is_what_it_was() -> None:
    assert (len(WORDS.positive), len(WORDS.negative), len(corpus_prompts(0))) == (26, 26, 432)
    assert corpus_reviews(1, seed=0) == ["The scenery delighted my sister. It runs for about two hours."]


def test_the_tokenizer_of_words_gives_every_review_back() -> None:
    reviews = corpus_reviews(300, seed=0)
    tokenizer = word_tokenizer(reviews, positions=256)
    for review in reviews[:50]:
        ids = tokenizer(review)["input_ids"]
        assert tokenizer.decode(ids) == review
        assert "".join(token_texts(ids[:3], ids[3:], tokenizer)) == review[len(tokenizer.decode(ids[:3])) :]
    ids = tokenizer("The film was dull.")["input_ids"]
    assert token_texts(ids[:2], ids[2:], tokenizer) == [" was", " dull", "."]
