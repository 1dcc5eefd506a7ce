"""A conformance kit for constraints and solvers, for the tests of their authors.

:func:`check_constraint` and :func:`check_solver` try the promises that the rest of the package relies on, one *law*
at a time, on small weights first. The first law that is broken raises an ``AssertionError`` that names it and shows
weights that break it. Both are deterministic and need torch only::

    def test_my_constraint_keeps_the_laws():
        check_constraint(MyConstraint(density=0.25))
"""

from art_atmc.testing.constraint import check_constraint
from art_atmc.testing.solver import check_solver

__all__ = ["check_constraint", "check_solver"]
