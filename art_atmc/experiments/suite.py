"""What a network of an experiment is tested with."""

from __future__ import annotations

from typing import Final

from art_atmc.attacks.square import Square
from art_atmc.evaluation.suites import SUITES, Access, Attack, Suite, paper
from art_atmc.experiments.settings import Settings

__all__ = ["suite"]

QUERIES: Final = 100  # of Square: enough to show gradients that mislead


def suite(settings: Settings) -> Suite:
    """The suite of the settings' name, within their ball.

    ``pgd`` is one attack: PGD with a random start. ``test`` adds the paper's attack and a short Square, which needs no
    gradients.

    >>> [attack.name for attack in suite(Settings.resolved("digits", suite="test")).attacks]
    ['PGD-7', 'paper-7', 'Square-100']
    """
    eps, norm, steps = float(settings.eps), float(settings.norm), settings.test_max_iter
    if settings.suite in SUITES:
        return SUITES[settings.suite](eps, norm, steps)
    pgd = Attack(f"PGD-{steps}", settings.test_attack)
    if settings.suite == "pgd":
        return Suite("pgd", eps, norm, (pgd,))
    return Suite(
        "test",
        eps,
        norm,
        (pgd, paper(eps, norm, steps), Attack(f"Square-{QUERIES}", Square(eps, norm, QUERIES), Access.OUTPUTS)),
    )
