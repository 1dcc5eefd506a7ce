"""What the tensors of a file must be before anything is made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from art_atmc.compression.factors import LowRankPlusSparse
from art_atmc.files.encoding import DTYPES, EncodedTensor
from art_atmc.files.index import Index

__all__ = ["check_kinds", "check_products"]

PRODUCT: Final = 1 << 8
"""Multiply-adds to form weights from factors, for each byte of `max_bytes`: some seconds a gigabyte."""


def check_kinds(index: Index, tensors: Mapping[str, EncodedTensor]) -> None:
    """Refuse factors that have no product, and weights that are no real numbers."""
    if whole := [name for name in index.compressed if not DTYPES[tensors[name].dtype].is_floating_point]:
        raise ValueError(f"constraints hold for floating-point weights only, not for {whole[:5]}")
    for name in index.factored:
        U, V, C = (tensors[f"{name}.{factor}"] for factor in LowRankPlusSparse.names)
        rows, columns = C.shape[:1], (math.prod(C.shape[1:]),)
        square = min(rows, columns)
        shapes = (square * 2, rows + columns) if rows <= columns else (rows + columns, square * 2)
        fit = (U.shape, V.shape) == shapes and U.dtype == V.dtype == C.dtype
        if len(C.shape) < 2 or not fit or not DTYPES[C.dtype].is_floating_point:
            raise ValueError(f"the factors of `{name}` do not fit one another")


def check_products(index: Index, tensors: Mapping[str, EncodedTensor], max_bytes: int) -> None:
    """Refuse factors whose products would take longer than all else that ``max_bytes`` allows."""
    work = 0
    for name in index.factored:
        full = tensors[f"{name}.C"].shape
        work += full[0] * math.prod(full[1:]) * min(full[0], math.prod(full[1:]))
    if work > PRODUCT * max_bytes:
        raise ValueError(f"its factors take {work} multiply-adds to multiply; raise `max_bytes` if you trust it")
