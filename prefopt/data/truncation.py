"""A pair in tokens, and its truncation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from prefopt.data.rows import BadRow, SourceRow

_PROMPT_SHARE = 4
"""The prompt keeps one in so many of the tokens of max_length, however long the responses are."""


@dataclass(frozen=True)
class EncodedPair:
    """Token ids of a pair; none of the three is empty, and the two responses differ.

    prompt_lost, chosen_lost, rejected_lost  tokens that were cut
    boundary_moved   the tokenizer merges the end of the prompt with the beginning of a response, so that the responses
                     hold the last characters of the prompt
    chosen_masked, rejected_masked  positions in the response of the turns of others, which are not its own tokens
    columns          the extra columns, by the keys of PreferenceBatch.columns
    left_out, guessed  in words, what of the row is not in the tokens, and what was guessed
    """

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    prompt_lost: int = 0
    chosen_lost: int = 0
    rejected_lost: int = 0
    boundary_moved: bool = False
    chosen_masked: list[int] = field(default_factory=list)
    rejected_masked: list[int] = field(default_factory=list)
    columns: Mapping[str, float | list[float]] = field(default_factory=dict)
    left_out: set[str] = field(default_factory=set)
    guessed: set[str] = field(default_factory=set)

    @property
    def prompt_truncated(self) -> bool:
        """Whether the prompt was cut at its beginning."""
        return self.prompt_lost > 0

    @property
    def chosen_truncated(self) -> bool:
        """Whether the chosen response was cut at its end."""
        return self.chosen_lost > 0

    @property
    def rejected_truncated(self) -> bool:
        """Whether the rejected response was cut at its end."""
        return self.rejected_lost > 0

    @property
    def is_truncated(self) -> bool:
        """Whether any of the three was cut."""
        return self.prompt_truncated or self.chosen_truncated or self.rejected_truncated

    @property
    def is_identical(self) -> bool:
        """Whether the two responses are the same tokens, without those of the turns of others."""
        sides = ((self.chosen_ids, set(self.chosen_masked)), (self.rejected_ids, set(self.rejected_masked)))
        chosen, rejected = ([t for i, t in enumerate(ids) if i not in masked] for ids, masked in sides)
        return chosen == rejected

    @property
    def counts(self) -> dict[str, int]:
        """What the pair adds to the counts of a DataReport."""
        masked = len(self.chosen_masked) + len(self.rejected_masked)
        return {
            "prompts_truncated": self.prompt_truncated,
            "prompt_tokens_cut": self.prompt_lost,
            "responses_truncated": self.chosen_truncated or self.rejected_truncated,
            "response_tokens_cut": self.chosen_lost + self.rejected_lost,
            "boundaries_moved": self.boundary_moved,
            "turns_masked": masked > 0,
            "masked_tokens": masked,
        }


@dataclass(frozen=True)
class TooLong(BadRow):
    """A row whose pair would have to be cut, where `on_too_long` does not allow it."""

    @classmethod
    def from_sizes(
        cls, row: SourceRow, pair: EncodedPair, max_length: int | None, max_prompt_length: int | None
    ) -> Self:
        """From the pair before any cut."""
        prompt, longer = len(pair.prompt_ids), max(len(pair.chosen_ids), len(pair.rejected_ids))
        limits = {"max_length": max_length, "max_prompt_length": max_prompt_length}
        allowed = ", ".join(f"{name} {limit}" for name, limit in limits.items() if limit is not None)
        problem = f"found a prompt of {prompt} tokens and a longer response of {longer}, over {allowed}"
        remedy = "raise the limit, or choose on_too_long: truncate or drop"
        return cls(row.where, "", problem, remedy, row.fields)


def truncated(
    pair: EncodedPair, bos: int | None, max_length: int | None, max_prompt_length: int | None
) -> EncodedPair | None:
    """The pair within the limits; None where its responses are the same tokens then.

    The prompt is cut at its beginning, down to a quarter of max_length, then each response at its end.
    """
    prompt, limit = pair.prompt_ids, None
    if max_prompt_length is not None:
        prompt = cut_left(prompt, max_prompt_length, bos)
    if max_length is not None:
        room = max_length - max(len(pair.chosen_ids), len(pair.rejected_ids))
        prompt = cut_left(prompt, max(room, max_length // _PROMPT_SHARE, 1), bos)
        limit = max_length - len(prompt)
    chosen, rejected = pair.chosen_ids[:limit], pair.rejected_ids[:limit]
    cut = replace(
        pair,
        prompt_ids=prompt,
        chosen_ids=chosen,
        rejected_ids=rejected,
        prompt_lost=len(pair.prompt_ids) - len(prompt),
        chosen_lost=len(pair.chosen_ids) - len(chosen),
        rejected_lost=len(pair.rejected_ids) - len(rejected),
        chosen_masked=[position for position in pair.chosen_masked if position < len(chosen)],
        rejected_masked=[position for position in pair.rejected_masked if position < len(rejected)],
    )
    return None if cut.is_identical else cut


def cut_left(prompt: Sequence[int], limit: int, bos: int | None) -> list[int]:
    """The last `limit` tokens of the prompt; a BOS at its front is kept, since models rely on it."""
    if len(prompt) <= limit:
        return list(prompt)
    if limit >= 2 and prompt[0] == bos:
        return [prompt[0], *prompt[1 - limit :]]
    return list(prompt[-limit:])
