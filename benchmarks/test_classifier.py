"""A query of one example, as black-box attacks make by the thousand: factors against the dense network in ART."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_atmc import CompressedClassifier, decompose, recompose
from art_atmc.compression.factors import decomposed
from art_atmc.networks import digits_cnn, lenet

QUERIES = 200


def classifiers(make, shape):
    """The same weights in factors, all of which are in use, and dense."""
    torch.manual_seed(0)
    model = decompose(make())
    with torch.no_grad():
        for layer, local in decomposed(model).values():
            for factor in layer.parametrizations[local].parameters():
                factor.add_(0.01 * torch.randn_like(factor) * (torch.rand_like(factor) < 0.05))
    settings = {"loss": nn.CrossEntropyLoss(), "input_shape": shape, "nb_classes": 10, "device_type": "cpu"}
    plain = PyTorchClassifier(recompose(copy.deepcopy(model)), **settings)
    return CompressedClassifier(model, **settings), plain


@pytest.mark.parametrize("method", ["predict", "loss_gradient"])
@pytest.mark.parametrize(("make", "shape"), [(digits_cnn, (1, 8, 8)), (lenet, (1, 28, 28))])
def test_a_query_costs_no_more_than_that_of_the_dense_network(compare, make, shape, method):
    x = np.random.default_rng(0).random((1, *shape), dtype=np.float32)
    arguments = (x,) if method == "predict" else (x, np.eye(10, dtype=np.float32)[:1])
    ours, theirs = classifiers(make, shape)
    np.testing.assert_allclose(getattr(ours, method)(*arguments), getattr(theirs, method)(*arguments), atol=1e-5)

    def queries(classifier):
        for _ in range(QUERIES):
            getattr(classifier, method)(*arguments)

    compare(
        f"{QUERIES} x {method}, {make.__name__}", lambda: queries(ours), lambda: queries(theirs), at_most=1.5, rounds=5
    )
