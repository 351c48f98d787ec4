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
    """Per token, [C]: maximum a and sum of exp(z - a) of the policy; of the reference, where there is a divergence, the
    same and the divergence's sum; and the sum of exp(z - a)^2, None where not asked for."""

    maximum: Tensor
    total: Tensor
    of_reference: tuple[Tensor, Tensor, Tensor] | None
    squares: Tensor | None


def _exponentials(logits: Tensor) -> tuple[Tensor, Tensor]:
    """a [C] and exp(z - a) [C, V]."""
    maximum = logits.amax(-1).clamp(min=torch.finfo(logits.dtype).min)  # not -inf, where a row holds nothing else
    return maximum, (logits - maximum[:, None]).exp()


def sums_of_logits(
    logits: Tensor, ref_logits: Tensor | None, divergence: StreamedDivergence | None, squares: bool
) -> _Sums:
    """The forward pass over z and r [C, V], or over z alone."""
    maximum, exps = _exponentials(logits)
    total = exps.sum(-1)
    of_squares, of_reference = exps.square().sum(-1) if squares else None, None
    if divergence is not None and ref_logits is not None:
        ref_maximum, ref_exps = _exponentials(ref_logits)
        ref_total = ref_exps.sum(-1)
        divergence_sum = divergence.block_forward(exps.T, ref_exps.T, (logits - ref_logits).T)
        of_reference = (ref_maximum, ref_total, divergence_sum)
    return _Sums(maximum, total, of_reference, of_squares)


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
        inputs, labels, divergence = self.inputs, self.inputs.labels[chunk, None], self.divergence
        value = collision = ref_log_z = None
        # Without a divergence the reference's logits are gone before the policy's are there.
        ref_logps = self._ref_logps(chunk) if divergence is None else None
        logits, ref_logits = self._logits(hidden, chunk)
        sums = self._run(sums_of_logits, logits, ref_logits, divergence, inputs.log_collision)
        log_z = LogNormaliser.from_blocks(sums.maximum[None], sums.total[None])
        if divergence is not None and ref_logits is not None and sums.of_reference is not None:
            ref_maximum, ref_total, divergence_sum = sums.of_reference
            ref_log_z = LogNormaliser.from_blocks(ref_maximum[None], ref_total[None])
            ref_logps = ref_log_z.subtracted_from(ref_logits.gather(-1, labels)[:, 0])
            scales = (_scale(log_z, sums.maximum)[None], _scale(ref_log_z, ref_maximum)[None])
            value = divergence.combine(divergence_sum[None], *scales, log_z.ratio(ref_log_z)).to(logits.dtype)
        if sums.squares is not None:
            collision = 2 * log_z.subtracted_from(sums.maximum) + sums.squares.log()
        logps = log_z.subtracted_from(logits.gather(-1, labels)[:, 0])
        saved = _Saved(sums, log_z, ref_log_z, value, [logits, ref_logits] if keep_logits else [])
        return ChunkStatistics(logps, ref_logps, value, collision), saved

    def backward(
        self, hidden: Tensor, chunk: slice, saved: _Saved, g_logps: Tensor, g_divergence: Tensor, total: HeadGradient
    ) -> Tensor:
        """-> [C, H]."""
        head, sums, log_z, ref_log_z = self.inputs.head, saved.sums, saved.log_normaliser, saved.ref_log_normaliser
        logits, ref_logits = saved.logits or self._logits(hidden, chunk)
        assert logits is not None
        of_divergence: tuple[Tensor, ...] = ()
        if ref_logits is not None and ref_log_z is not None and sums.of_reference is not None:
            assert saved.divergence is not None
            ref_maximum, *_ = sums.of_reference
            log_ratio = log_z.ratio(ref_log_z).to(logits.dtype)
            of_reference = (ref_logits, ref_maximum, _scale(ref_log_z, ref_maximum))
            of_divergence = (*of_reference, log_ratio, saved.divergence, g_divergence)
            del of_reference
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
        total.end_chunk()
        return d_product @ head.weight

    def _run(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        if not self._fuses:
            return function(*args, **kwargs)
        form = (type(self.divergence).__name__, self.inputs.head.weight.dtype, torch.is_inference_mode_enabled())
        return run_fused(function, form, *args, **kwargs)

    def _logits(self, hidden: Tensor, chunk: slice) -> tuple[Tensor, Tensor | None]:
        """z and, where there is a divergence, r, [C, V]."""
        inputs, logits = self.inputs, self.inputs.head.logits(hidden)
        if self.divergence is None or inputs.ref_head is None or inputs.ref_hidden is None:
            return logits, None
        return logits, inputs.ref_head.logits(inputs.ref_hidden[chunk])

    def _ref_logps(self, chunk: slice) -> Tensor | None:
        """log q of the labels, [C]; None without a reference."""
        inputs = self.inputs
        if inputs.ref_head is None or inputs.ref_hidden is None:
            return None
        logits = inputs.ref_head.logits(inputs.ref_hidden[chunk])
        sums = self._run(sums_of_logits, logits, None, None, False)
        log_z = LogNormaliser.from_blocks(sums.maximum[None], sums.total[None])
        return log_z.subtracted_from(logits.gather(-1, inputs.labels[chunk, None])[:, 0])


def _scale(log_normaliser: LogNormaliser, maximum: Tensor) -> Tensor:
    """exp(a) / Z, [C]."""
    return log_normaliser.subtracted_from(maximum).exp().to(maximum.dtype)
