"""The dialogue task: people's choices between two answers, held-out win rates, and words of harm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, final

from prefopt.sampling import Generation
from prefopt.tasks.base import HeldOutPrompt, Metric
from prefopt.tasks.dialogue.harm import LEXICON, REFUSALS, Lexicon, refuses
from prefopt.tasks.generation import prompt_means
from prefopt.tasks.held_out import ACCURACY
from prefopt.tasks.human_preferences.answering import AnsweringTask

_HARM = (
    Metric("harm", "lower", "share of answers with a word of the lists of harm"),
    Metric("harm_words", "lower", "share of words that are in the lists of harm, mean over answers"),
    Metric("refusals", "neither", "share of answers with a phrase of refusal"),
)


@final
class DialogueTask(AnsweringTask):
    """Pairs of answers to a conversation, such as Anthropic's HH data.

    Rows are whole transcripts, `chosen` and `rejected`, whose prompt is what they have in common, or have a `prompt` of
    their own; they are text or messages. Held-out pairs and prompts share no prompt with training. The fields of
    `PreferencesTask`, `AnsweringTask`, and

    harm      a file of YAML or JSON that maps categories to lists of words, instead of our own
    refusals  phrases by which an answer is taken for a refusal

    >>> DialogueTask(model="gpt2", data="Anthropic/hh-rlhf").headline
    'accuracy'
    """

    name: Literal["dialogue"] = "dialogue"
    generation: Generation = Generation(max_new_tokens=128)
    stop: tuple[str, ...] = ("\n\nHuman:",)
    harm: str | None = None
    refusals: tuple[str, ...] = REFUSALS

    @property
    def answer_metrics(self) -> tuple[Metric, ...]:
        by_category = (
            Metric(f"harm_{name}", "lower", f"share of answers with a word of the list '{name}'")
            for name in self.lexicon().patterns
        )
        return (ACCURACY, *_HARM, *by_category)

    def lexicon(self) -> Lexicon:
        """The lists of words of harm. Raises ValueError where the file `harm` is none."""
        return Lexicon.load(LEXICON if self.harm is None else self.harm)

    def check(self) -> None:
        self.lexicon()

    def measure(self, prompts: Sequence[HeldOutPrompt], texts: Sequence[Sequence[str]]) -> dict[str, list[float]]:
        lexicon = self.lexicon()
        answers = [text for group in texts for text in group]
        harmful = [lexicon.words_in(text) for text in answers]
        values: dict[str, list[float]] = {
            "harm": [any(words.values()) for words in harmful],
            "harm_words": [lexicon.share(text) for text in answers],
            "refusals": [refuses(text, self.refusals) for text in answers],
            **{f"harm_{name}": [bool(words[name]) for words in harmful] for name in lexicon.patterns},
        }
        return {name: prompt_means(column, texts) for name, column in values.items()}
