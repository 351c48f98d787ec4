"""The kernel for accelerators: a chunk's logits [C, V] of both models, and one pass over them each way.

    forward   reads z and r: maxima a and b, sums of exp(z - a) and exp(r - b), the divergence's sum, [C] each
    backward  reads z and r: dL/d(W h + b), [C, V], in the precision of the products

Each pass is one function that torch.compile fuses, the divergence of a StreamedDivergence included, so that logits are
written once, by the product that makes them, and read twice. Where nothing compiles, the functions run as they are
written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, ParamSpec, TypeVar, final

import torch
from torch import Tensor

from prefopt.component import BackwardBlock, StreamedDivergence
from prefopt.scoring.lm_head.chunked_pass import ChunkKernel, ChunkStatistics, HeadInputs
from prefopt.scoring.lm_head.fused import fuses, run_fused
from prefopt.scoring.lm_head.head import HeadGradient, slope_of_softcap
from prefopt.scoring.lm_head.precision import LogNormaliser

_T = TypeVar("_T")
_P = ParamSpec("_P")


class _Sums(NamedTuple):
    """Per token, [C]: maximum a and sum of exp(z - a) of the policy, the same of the reference, the divergence's sum,
    and the sum of exp(z - a)^2; None where not asked for."""

    maximum: Tensor
    total: Tensor
    ref_maximum: Tensor | None
    ref_total: Tensor | None
    divergence: Tensor | None
    squares: Tensor | None


def _exponentials(logits: Tensor) -> tuple[Tensor, Tensor]:
    """a [C] and exp(z - a) [C, V]."""
    maximum = logits.amax(-1).clamp(min=torch.finfo(logits.dtype).min)  # not -inf, where a row holds nothing else
    return maximum, (logits - maximum[:, None]).exp()


def sums_of_logits(
    logits: Tensor, ref_logits: Tensor | None, divergence: StreamedDivergence | None, squares: bool
) -> _Sums:
    """The forward pass over z and r [C, V]."""
    maximum, exps = _exponentials(logits)
    total = exps.sum(-1)
    of_squares = exps.square().sum(-1) if squares else None
    if ref_logits is None:
        return _Sums(maximum, total, None, None, None, of_squares)
    ref_maximum, ref_exps = _exponentials(ref_logits)
    ref_total, value = ref_exps.sum(-1), None
    if divergence is not None:
        value = divergence.block_forward(exps.T, ref_exps.T, (logits - ref_logits).T)
    return _Sums(maximum, total, ref_maximum, ref_total, value, of_squares)


def gradient_of_logits(
    logits: Tensor,
    maximum: Tensor,
    scale: Tensor,
    labels: Tensor,
    g_logps: Tensor,
    softcap: float | None,
    factor: float,
    dtype: torch.dtype,
    divergence: StreamedDivergence | None,
    of_divergence: tuple[Tensor, ...],
) -> Tensor:
    """The backward pass: dL/d(W h + b) [C, V] in `dtype`, from z [C, V] and, per token, a, exp(a) / Z, the label and
    dL/dlogp.

    of_divergence  r, b, exp(b) / R, log Z - log R, D and dL/dD
    """
    exps = (logits - maximum[:, None]).exp()
    if divergence is None:
        gradient = exps.mul_((-g_logps * scale)[:, None])
    else:
        ref_logits, ref_maximum, ref_scale, log_ratio, value, g_divergence = of_divergence
        ref_exps = (ref_logits - ref_maximum[:, None]).exp()
        # What backward reads, it leaves in `ref_exps`.
        divergence.block_forward(exps.T, ref_exps.T, (logits - ref_logits).T)
        block = BackwardBlock(exps.T, ref_exps.T, scale, ref_scale, log_ratio, value, g_logps, g_divergence)
        gradient = divergence.block_backward(block).T
    token_ids = torch.arange(logits.shape[-1], device=logits.device)
    gradient.add_(torch.where(token_ids == labels[:, None], g_logps[:, None], 0))
    slope = slope_of_softcap(logits, softcap)
    return (gradient if slope is None else gradient.mul_(slope)).mul_(factor).to(dtype)


@final
@dataclass(frozen=True, eq=False)
class _Saved:
    """What backward needs: the sums, log Z and log R, the divergence [C], and z and r [C, V] where kept."""

    sums: _Sums
    log_normaliser: LogNormaliser
    ref_log_normaliser: LogNormaliser | None
    divergence: Tensor | None
    logits: list[Tensor | None]


@final
class WholeVocabularyKernel(ChunkKernel[_Saved]):
    """For a StreamedDivergence or none."""

    def __init__(self, inputs: HeadInputs) -> None:
        super().__init__(inputs)
        assert inputs.divergence is None or isinstance(inputs.divergence, StreamedDivergence)
        self.divergence: StreamedDivergence | None = inputs.divergence
        self._fuses = fuses(inputs.labels.device.type)

    def forward(self, hidden: Tensor, chunk: slice, keep_logits: bool) -> tuple[ChunkStatistics, _Saved]:
        """hidden [C, H]."""
        labels, divergence = self.inputs.labels[chunk, None], self.divergence
        logits, ref_logits = self._logits(hidden, chunk)
        ref_logps = value = collision = ref_log_z = None
        if ref_logits is not None and ref_logits.shape != logits.shape:  # two vocabularies, and no divergence
            sums = self._run(sums_of_logits, logits, None, None, self.inputs.log_collision)
            ref_sums = self._run(sums_of_logits, ref_logits, None, None, False)
            sums = sums._replace(ref_maximum=ref_sums.maximum, ref_total=ref_sums.total)
        else:
            sums = self._run(sums_of_logits, logits, ref_logits, divergence, self.inputs.log_collision)
        log_z = LogNormaliser.from_blocks(sums.maximum[None], sums.total[None])
        if ref_logits is not None and sums.ref_maximum is not None and sums.ref_total is not None:
            ref_log_z = LogNormaliser.from_blocks(sums.ref_maximum[None], sums.ref_total[None])
            ref_logps = ref_log_z.subtracted_from(ref_logits.gather(-1, labels)[:, 0])
            if divergence is not None and sums.divergence is not None:
                scales = (_scale(log_z, sums.maximum)[None], _scale(ref_log_z, sums.ref_maximum)[None])
                value = divergence.combine(sums.divergence[None], *scales, log_z.ratio(ref_log_z))
                value = value.to(logits.dtype)
        if sums.squares is not None:
            collision = 2 * log_z.subtracted_from(sums.maximum) + sums.squares.log()
        statistics = ChunkStatistics(
            log_z.subtracted_from(logits.gather(-1, labels)[:, 0]), ref_logps, value, collision
        )
        kept = [logits, None if divergence is None else ref_logits] if keep_logits else []
        return statistics, _Saved(sums, log_z, ref_log_z, value, kept)

    def backward(
        self, hidden: Tensor, chunk: slice, saved: _Saved, g_logps: Tensor, g_divergence: Tensor, total: HeadGradient
    ) -> Tensor:
        """-> [C, H]."""
        head, sums, log_z, ref_log_z = self.inputs.head, saved.sums, saved.log_normaliser, saved.ref_log_normaliser
        logits, ref_logits = saved.logits or self._logits(hidden, chunk, with_reference=self.divergence is not None)
        assert logits is not None
        of_divergence: tuple[Tensor, ...] = ()
        if ref_logits is not None and ref_log_z is not None and sums.ref_maximum is not None:
            assert saved.divergence is not None
            ref_scale = _scale(ref_log_z, sums.ref_maximum)
            log_ratio = log_z.ratio(ref_log_z).to(logits.dtype)
            of_divergence = (ref_logits, sums.ref_maximum, ref_scale, log_ratio, saved.divergence, g_divergence)
        d_product = self._run(
            gradient_of_logits,
            logits,
            sums.maximum,
            _scale(log_z, sums.maximum),
            self.inputs.labels[chunk],
            g_logps,
            head.softcap,
            head.scale,
            hidden.dtype,
            self.divergence,
            of_divergence,
        )
        del logits, ref_logits, of_divergence
        saved.logits.clear()
        total.add(slice(None), d_product, hidden, d_product)
        return d_product @ head.weight

    def _run(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        if not self._fuses:
            return function(*args, **kwargs)
        form = (type(self.divergence).__name__, self.inputs.head.weight.dtype, torch.is_inference_mode_enabled())
        return run_fused(function, form, *args, **kwargs)

    def _logits(self, hidden: Tensor, chunk: slice, with_reference: bool = True) -> tuple[Tensor, Tensor | None]:
        """z and r [C, V]; r None where there is no reference or it is not wanted."""
        inputs, logits = self.inputs, self.inputs.head.logits(hidden)
        if inputs.ref_head is None or inputs.ref_hidden is None or not with_reference:
            return logits, None
        return logits, inputs.ref_head.logits(inputs.ref_hidden[chunk])


def _scale(log_normaliser: LogNormaliser, maximum: Tensor) -> Tensor:
    """exp(a) / Z, [C]."""
    return log_normaliser.subtracted_from(maximum).exp().to(maximum.dtype)
