r"""A network for images: a chain of named layers.

A network maps images in :math:`[0, 1]`, shaped (N, C, H, W), to logits of shape (N, ``nb_classes``). Its *dense size*
is 32 bits for each convolution and linear weight; biases and batch normalisation are not counted, as in the paper
(Gui et al., NeurIPS 2019, Table 1). Weights are drawn by torch's layers, so ``torch.manual_seed`` fixes them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import final

from torch import Tensor, nn

from art_atmc.support.numbers import Whole

__all__ = ["ImageNetwork", "head"]


@final
class ImageNetwork(nn.Module):
    r"""A chain of named layers, :math:`x \mapsto (f_n \circ \dots \circ f_1)(x)`.

    The chain is inside the module rather than the module itself, because ART returns every layer's output of a model
    that is an ``nn.Sequential``.

    :param input_shape: (C, H, W) of the images that the network is made for.
    :param layers: the layers by name, in order.

    >>> from art_atmc.networks import lenet
    >>> lenet().input_shape, list(lenet().layers._modules)[:3]
    ((1, 28, 28), ['conv1', 'pool1', 'conv2'])
    """

    def __init__(self, input_shape: tuple[int, int, int], layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.input_shape = input_shape
        self.layers = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


def head(features: int, nb_classes: int) -> nn.Linear:
    """The last layer: logits of the classes.

    :raises ValueError: when ``nb_classes`` is below 2.
    """
    return nn.Linear(features, Whole(2, None, "give the number of classes of the data").plain("nb_classes", nb_classes))
