from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from art_atmc import Sparsity, compressible
from art_atmc.experiments.low_rank import low_rank_, ranks


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 8, 3), nn.Flatten(), nn.Linear(72, 30), nn.ReLU(), nn.Linear(30, 60))


def weights_of(model):
    return [layer.weight.detach().flatten(1) for layer in (model[0], model[2], model[4])]


def test_factors_are_the_best_approximation_of_their_rank():
    model, before = network(), weights_of(network())
    low_rank_(model, density=0.3)
    for old, new in zip(before, weights_of(model), strict=True):
        rank = int(torch.linalg.matrix_rank(new, tol=1e-4))
        left, values, right = torch.linalg.svd(old, full_matrices=False)
        best = left[:, :rank] * values[:rank] @ right[:rank]
        assert torch.allclose(new, best, atol=1e-5)
        assert rank < min(old.shape)


def test_factors_keep_the_budget_of_all_recipes_and_nearly_use_it():
    model = network()
    low_rank_(model, density=0.3)
    weights = compressible(model)
    budget = Sparsity(0.3).budget(weights)
    assert budget - 102 <= weights.nnz() <= budget  # 102 is the cost of one more rank of the largest layer
    assert Sparsity(0.3).violation(weights) == 0


def test_ranks_are_the_largest_singular_values_of_all_layers_together():
    singular = {"a": torch.tensor([9.0, 5.0, 4.0, 1.0]), "b": torch.tensor([7.0, 6.0, 0.5])}
    costs = {"a": 3, "b": 3}
    for budget in range(6, 22):
        kept = ranks(singular, costs, budget)
        used = sum(kept[name] * costs[name] for name in kept)
        assert used <= budget
        feasible = [
            (float(singular["a"][:i].square().sum() + singular["b"][:j].square().sum()))
            for i, j in itertools.product(range(1, 5), range(1, 4))
            if 3 * (i + j) <= budget
        ]
        energy = sum(float(singular[name][: kept[name]].square().sum()) for name in kept)
        assert energy == pytest.approx(max(feasible))


def test_a_budget_below_rank_one_is_refused():
    with pytest.raises(ValueError, match="rank 1 in every layer, but the budget is 22; raise the density"):
        low_rank_(network(), density=0.0056)
    with pytest.raises(ValueError, match="keeps none"):
        low_rank_(network(), density=1e-6)
