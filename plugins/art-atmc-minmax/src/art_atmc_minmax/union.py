"""The union of balls of several norms, as a suite."""

from __future__ import annotations

from collections.abc import Mapping

from art_atmc.attacks import APGD, PGD
from art_atmc.evaluation import Attack, Suite

__all__ = ["union"]


def union(balls: Mapping[float, float], pgd_iter: int = 20, apgd_iter: int = 50, restarts: int = 2) -> Suite:
    r"""Attacks within every one of several balls; the worst case is the accuracy over their union,

    .. math:: \frac1n \sum_i \min_p \; \min_{a} \bigl[ f(x_i^{a, p}) = y_i \bigr], \qquad
              x_i^{a, p} \in B_p(x_i, \epsilon_p) \cap [l, h] .

    In each ball there are PGD and APGD on the cross-entropy, with the restarts given. PGD for p = 1 is ART's, which is
    weak; there APGD, whose steps and projection are sparse, decides.

    :param balls: norm and radius of each.
    :raises ValueError: for no ball, and norms and radii out of range.

    >>> import math
    >>> [attack.name for attack in union({math.inf: 0.1, 2: 0.5}).attacks]
    ['inf APGD-CE-50', 'inf PGD-20', '2 APGD-CE-50', '2 PGD-20']
    """
    if not balls:
        raise ValueError("`balls` is empty; give the radius of at least one norm")
    lines = []
    for norm, eps in balls.items():
        name, ball = f"{float(norm):g}", (eps, norm)
        apgd, pgd = APGD(eps, norm, apgd_iter), PGD(eps, 2.5 * eps / pgd_iter, pgd_iter, norm)
        lines.append(Attack(f"{name} APGD-CE-{apgd_iter}", apgd, restarts=restarts, ball=ball))
        lines.append(Attack(f"{name} PGD-{pgd_iter}", pgd, restarts=restarts, ball=ball))
    norm, eps = next(iter(balls.items()))
    return Suite("union", eps, norm, lines)
