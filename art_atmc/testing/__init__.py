"""A conformance kit for constraints, solvers, attacks and objectives, for the tests of their authors.

:func:`check_constraint`, :func:`check_solver`, :func:`check_attack` and :func:`check_objective` try the promises that
the rest of the package relies on, one *law* at a time, on something small. The first law that is broken raises an
``AssertionError`` that names it, for constraints and solvers with weights that break it. All are deterministic and need
torch only::

    def test_my_constraint_keeps_the_laws():
        check_constraint(MyConstraint(density=0.25))
"""

from art_atmc.testing.attack import check_attack, check_objective
from art_atmc.testing.constraint import check_constraint
from art_atmc.testing.solver import check_solver

__all__ = ["check_attack", "check_constraint", "check_objective", "check_solver"]
