"""The layout of a model's pairs: what is faster, once it is proven to agree with the plain forward pass."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Sequence
from typing import final

import torch

from prefopt.scoring.forward import causal_lm
from prefopt.scoring.probes import probe_batch, usable_token_ids
from prefopt.scoring.proof import Disagreement, Role, disagreement
from prefopt.scoring.rows.layout import Layout, longest_row
from prefopt.scoring.rows.limits import RowLimits, best_layout, position_table
from prefopt.scoring.rows.packing import first_fit, two_in_a_row
from prefopt.tokens import PreferenceBatch

_LOG = logging.getLogger(__name__)

_MAX_PAIRS = 4
"""Pairs of the first batch that are compared."""

_EVERY = 500
"""Batches of training from one comparison of a pair to the next."""

_SHORTEST = 8
"""Shortest attention window in which made-up pairs share rows."""


@final
class LayoutChoice:
    """uses_plain_forward  whether models are called in full, logits and all; None before the first batch
    shares             whether pairs may share rows, where that is less work
    """

    def __init__(self) -> None:
        self.uses_plain_forward: bool | None = None
        self.shares = False
        self._limits = self._model_limits = RowLimits(attention_window=0, max_positions=0)
        self._longest = 0
        self._proves_longer = False
        self._batches = 0
        self._is_later = False

    def layout(self, batch: PreferenceBatch, hidden_size: int) -> Layout:
        """The layout of least work among those that are right for the models."""
        if not self.shares or longest_row(batch) > self._longest:
            return Layout.two_rows(batch)
        return best_layout(batch, hidden_size, self._limits)

    def is_due(self, batch: PreferenceBatch, *, training: bool) -> bool:
        """Whether to `verify`: on the first batch, on every 500th of training, and where pairs might share rows but are
        longer than what was proven."""
        self._batches += training
        return self.uses_plain_forward is None or (training and self._batches % _EVERY == 0) or self._is_longer(batch)

    def verify(self, batch: PreferenceBatch, roles: Sequence[Role], *, share: bool, max_length: int | None) -> None:
        """Choose the fastest of what agrees with the plain forward pass in all models; warn of what does not.

        share       whether shared rows are considered
        max_length  tokens of the longest prompt and response to come; None: those of this batch

        First, pairs are compared that are made up, as long as they may get and with adapters off their initial values,
        since pairs that are short or alike say nothing of others; then a few of the batch. Later it is one pair. The
        number of passes depends on the models alone: processes that wait for each other in every pass may have
        different batches. Torch's random state stays as it is.

        Raises ValueError where log-probabilities depend on padding, RuntimeError where a later batch disagrees in the
        head.
        """
        devices = {parameter.device for role in roles for parameter in role.model.parameters()}
        with torch.random.fork_rng(devices=[device for device in devices if device.type == "cuda"]):
            longest = longest_row(batch)
            self._is_later = self.uses_plain_forward is not None
            if self.uses_plain_forward is None:
                models = [causal_lm(role.model) for role in roles]
                self.uses_plain_forward, self.shares = False, share
                self._limits = self._model_limits = RowLimits.from_models(models)
                self._proves_longer = not (torch.distributed.is_available() and torch.distributed.is_initialized())
                max_length = int(max(longest, min(max_length or 0, *map(position_table, models))))
                _LOG.info(
                    "comparing the fast path with plain calls of the model, once, on rows of up to %d tokens: it takes "
                    "as long as several batches",
                    max_length,
                )
                try:
                    self._compare_made_up(roles, max_length)
                except torch.OutOfMemoryError:
                    if max_length == longest:
                        raise
                    self._warn(f"rows of {max_length} tokens do not fit", f"proven for {longest} tokens of a row only")
                    self._compare_made_up(roles, longest)
                if not self.uses_plain_forward:
                    self._compare(roles, _sample(batch, _MAX_PAIRS))
            elif self._is_longer(batch):
                self._compare_made_up(roles, 2 ** math.ceil(math.log2(longest)))
            elif not self.uses_plain_forward:
                self._compare(roles, _sample(batch, 1))

    def _is_longer(self, batch: PreferenceBatch) -> bool:
        if not self.shares or not self._proves_longer or longest_row(batch) <= self._longest:
            return False
        return int(batch.lengths.max()) <= self._model_limits.attention_window

    def _compare_made_up(self, roles: Sequence[Role], longest: int) -> None:
        """Compare pairs of rows of up to `longest` tokens. From then on no longer ones are shared."""
        token_ids = usable_token_ids(causal_lm(role.model) for role in roles)
        device = next(roles[0].model.parameters()).device
        window, positions = self._model_limits
        # Beyond its window a row is not shared, but padded. Some models take no row longer than their positions.
        sizes = [
            (longest, 2 * longest - 1),
            (min(longest, window - 1), window),
            (min(longest, positions - 1), positions),
        ]
        sizes = [size for size in sizes if size <= sizes[0]]
        refusal = None
        for length, widest in sizes:
            shares = self.shares and _SHORTEST <= widest <= window
            # Where a model chooses (experts, keys), rounding may turn a choice that is close, but not in two draws.
            for seed in (0, 1):
                batch = probe_batch(token_ids, int(length), int(widest), seed=seed).to(device)
                placement = first_fit(batch.lengths.tolist(), int(min(positions, widest))) if shares else None
                result = disagreement(roles, batch, placement, made_up=True)
                if result == Disagreement():
                    break
            if result.padding:
                raise ValueError(result.padding)
            if result.head:
                self._call_plainly(result.head)
                return
            if placement and not result.sharing:
                self._longest = int(length)
                self._limits = RowLimits(widest, min(positions, widest) if any(placement.starts) else 0)
                break
            refusal = refusal or result.sharing
        if refusal:
            self._proves_longer = False
            self.shares = self._longest > 0
            longer = f" longer than {self._limits.attention_window:.0f} tokens" if self.shares else ""
            self._warn(f"{refusal}. Giving each response{longer} a row of its own", "computing every prompt twice")
        elif self._longest == 0:
            self._longest = _SHORTEST  # of models whose window is shorter, rows of the batches alone are compared

    def _compare(self, roles: Sequence[Role], batch: PreferenceBatch) -> None:
        """Compare the pairs of a batch in the rows that they are given."""
        lengths, placement = batch.lengths.tolist(), None
        is_proven = longest_row(batch) <= self._longest and max(lengths) <= self._limits.attention_window
        if self.shares and (is_proven or max(lengths) > self._model_limits.attention_window):
            placement = two_in_a_row(lengths, self._limits.max_positions)
        result = disagreement(roles, batch, placement)
        sharing = result.sharing
        if sharing:
            result = disagreement(roles, batch, None)
        if result.head:
            self._call_plainly(result.head)
        elif sharing:
            self.shares = False
            self._warn(f"{sharing}. Giving each response a row of its own", "computing every prompt twice")

    def _call_plainly(self, finding: str) -> None:
        if self._is_later:
            raise RuntimeError(
                f"{finding}, at batch {self._batches} of training and not at the first. Resume from the last "
                "checkpoint: the models are compared anew, and called plainly"
            )
        self.uses_plain_forward, self.shares = True, False
        self._warn(f"{finding}. Calling the models plainly", "slower and with full logits")

    def _warn(self, finding: str, price: str) -> None:
        when = f" This was found at batch {self._batches}, and not before." if self._is_later else ""
        warnings.warn(f"{finding} from now on: right, but {price}.{when}", stacklevel=6)


def _sample(batch: PreferenceBatch, pairs: int) -> PreferenceBatch:
    """At most so many pairs, evenly spaced by length from the longest to the shortest."""
    if batch.pairs <= pairs:
        return batch
    ranks = torch.linspace(batch.pairs - 1, 0, pairs, device=batch.rows.device).round().long()
    kept = batch.lengths.argsort(stable=True)[ranks].sort().values
    return PreferenceBatch.from_mapping({name: values[kept] for name, values in batch.as_mapping().items()})
