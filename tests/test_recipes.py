from __future__ import annotations

import pytest

from art_atmc import FixedSupport, Quantization, Sparsity
from art_atmc.experiments.recipes import RECIPES, Schedule, plan


def test_every_recipe_of_the_paper_is_there():
    assert set(RECIPES) == {"ND", "DA", "NAP", "AP", "AL0", "ALR", "ATMC-32", "ATMC-b"}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("epochs", [2, 5, 30])
def test_matched_epochs_are_the_same_for_all(recipe, epochs):
    chain = plan(recipe, 0.1, 4, 0, epochs).chain
    assert sum(stage.epochs for stage in chain) == epochs
    assert all(stage.lr == 1 for stage in chain)
    assert len(chain) == (1 if recipe in ("ND", "DA") else 2)
    assert len({stage.recipe.adversarial for stage in chain}) == 1


def test_the_reference_chains_its_stages():
    def chain(recipe):
        return [(s.recipe.name, s.epochs, s.lr) for s in plan(recipe, 0.1, 4, 0, 200, Schedule.REFERENCE).chain]

    assert chain("NAP") == [("ND", 200, 1.0), ("NAP", 200, 0.2)]
    assert chain("ALR") == [("DA", 200, 1.0), ("ALR", 200, 0.2)]
    assert chain("ATMC-b") == [("DA", 200, 1.0), ("AL0", 200, 0.2), ("ATMC-32", 200, 0.1), ("ATMC-b", 150, 0.1)]


def test_the_dense_part_is_shared_by_all_sizes():
    parts = {
        plan(recipe, d, b, 3, 8).before.name for recipe in ("AP", "AL0", "ATMC-b") for d in (0.1, 0.2) for b in (2, 8)
    }
    assert parts == {"DA-e4-s3"}
    names = {plan("ATMC-b", d, b, s, 8).name for d in (0.1, 0.2) for b in (2, 8) for s in (0, 1)}
    assert len(names) == 8


def test_constraints_are_those_of_the_method():
    kinds = {name: recipe.constraints(0.1, 4) for name, recipe in RECIPES.items()}
    assert kinds["DA"] == kinds["ND"] == []
    assert kinds["ATMC-b"] == [Sparsity(0.1), Quantization(4)]
    assert all(kinds[name] == [Sparsity(0.1)] for name in ("NAP", "AP", "AL0", "ALR", "ATMC-32"))
    pruned = {name for name, recipe in RECIPES.items() if "pruned_once" in repr(recipe.solver)}
    assert pruned == {"NAP", "AP", "ALR"}
    assert FixedSupport.__name__ in RECIPES["AP"].solver.__code__.co_names


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("XX", 0.1, 4, 0, 8), "there is no recipe 'XX'; the recipes are ND, DA"),
        (("AL0", 1.5, 4, 0, 8), "`density` must be in"),
        (("ATMC-b", 0.1, 40, 0, 8), "`bits` must be"),
        (("AL0", 0.1, 4, 0, 1), "`epochs` must be at least 2"),
        (("ALR", 1, 4, 0, 8), "below 1 for ALR"),
    ],
)
def test_what_is_out_of_range_is_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        plan(*arguments)
