"""Fewer operations for the same outputs."""

from __future__ import annotations

from art_atmc.inference.optimize import MultiplyAdds, multiply_adds, optimized, run_factors

__all__ = ["MultiplyAdds", "multiply_adds", "optimized", "run_factors"]
