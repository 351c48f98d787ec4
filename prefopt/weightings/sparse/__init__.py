"""SparsePO's weights: a small network reads the reference's hidden states and learns which tokens count."""

from __future__ import annotations

from prefopt.weightings.sparse.config import SparseWeighting
from prefopt.weightings.sparse.mask import SparseMask

__all__ = ["SparseMask", "SparseWeighting"]
