from __future__ import annotations

import numpy as np
import pytest
import torch
from art.defences.preprocessor import FeatureSqueezing, LabelSmoothing
from art.preprocessing.preprocessing import PreprocessorPyTorch
from torch import nn

from art_atmc.classifiers.network import Network


@pytest.fixture
def x(digits):
    return torch.from_numpy(digits[0][:20])


@pytest.mark.parametrize(
    "preprocessing", [None, (0.0, 1.0), (0.5, 0.25), (np.array([0.3], np.float32), np.array([0.2], np.float32))]
)
def test_network_computes_what_the_classifier_predicts(make_classifier, x, preprocessing):
    classifier = make_classifier(preprocessing=preprocessing)
    network = Network(classifier, x[:2])
    assert np.allclose(network.evaluate(x).numpy(), classifier.predict(x.numpy()), atol=1e-5)


def test_numpy_preprocessing_is_applied_once(make_classifier, x):
    squeezing = FeatureSqueezing(clip_values=(0, 1), bit_depth=2)
    classifier = make_classifier(preprocessing_defences=squeezing)
    classifier.model.eval()
    expected = classifier.model(torch.from_numpy(squeezing(x.numpy())[0]).float())
    assert torch.allclose(Network(classifier, x[:2]).evaluate(x), expected, atol=1e-5)


def test_sequential_models_give_the_last_output_only(make_classifier, x):
    classifier = make_classifier(model=nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)))
    assert Network(classifier, x[:2])(x).shape == (20, 10)


class Viewing(nn.Module):
    """Flattens with .view(), which channels-last feature maps refuse."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.fc = nn.Linear(4 * 36, 10)

    def forward(self, x):
        seen.append(x.is_contiguous(memory_format=torch.channels_last) and x.stride(1) == 1)
        return self.fc(self.conv(x).view(len(x), -1))


seen: list[bool] = []


def test_channels_last_is_used_where_the_model_takes_it(make_classifier, x):
    classifier = make_classifier()
    layouts = []
    classifier.model.fc.register_forward_pre_hook(lambda *_: None)
    classifier.model.norm.register_forward_pre_hook(lambda _, args: layouts.append(args[0].stride(1) == 1))
    Network(classifier, x[:2])(x)
    assert layouts[-1]


def test_models_that_view_get_contiguous_images(make_classifier, x):
    classifier = make_classifier(model=Viewing())
    network = Network(classifier, x[:2])
    expected = classifier.model(x)
    assert torch.equal(network(x), expected)
    assert not seen[-1]


def test_probing_changes_neither_mode_nor_statistics(make_classifier, x):
    classifier = make_classifier()
    classifier.model.train()
    before = {k: v.clone() for k, v in classifier.model.state_dict().items()}
    Network(classifier, x[:2])
    assert classifier.model.training
    assert all(torch.equal(v, before[k]) for k, v in classifier.model.state_dict().items())


def test_label_changing_preprocessing_is_refused(make_classifier, x):
    classifier = make_classifier(preprocessing_defences=LabelSmoothing())
    with pytest.raises(ValueError, match=r"LabelSmoothing.*changes labels"):
        Network(classifier, x[:2])


class Shift(PreprocessorPyTorch):
    """Adds one; in training only, or in prediction only."""

    def __init__(self, apply_fit, apply_predict):
        super().__init__(device_type="cpu", is_fitted=True, apply_fit=apply_fit, apply_predict=apply_predict)

    def forward(self, x, y=None):
        return x + 1, y


@pytest.mark.parametrize(("in_training", "in_prediction"), [(True, False), (False, True), (True, True)])
def test_preprocessing_is_applied_in_the_modes_that_it_is_for(make_classifier, x, in_training, in_prediction):
    shift = Shift(apply_fit=in_training, apply_predict=in_prediction)
    classifier = make_classifier(model=nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), preprocessing_defences=shift)
    network = Network(classifier, x[:2])
    assert torch.allclose(network.train()(x), classifier.model(x + in_training), atol=1e-5)
    assert torch.allclose(network.eval()(x), classifier.model(x + in_prediction), atol=1e-5)


class ViewingInTraining(Viewing):
    """Its branch for training refuses channels-last feature maps, the one for evaluation takes them."""

    def forward(self, x):
        maps = self.conv(x)
        flat = maps.view(len(x), -1) if self.training else maps.reshape(len(x), -1)
        return self.fc(flat)


def test_channels_last_is_tried_in_training_mode_too(make_classifier, x):
    classifier = make_classifier(model=ViewingInTraining())
    network = Network(classifier, x[:2])
    assert network.train()(x).shape == (20, 10)
    assert torch.equal(network.eval()(x), classifier.model.eval()(x))


def test_trying_draws_no_random_number_and_keeps_statistics(make_classifier, x):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(144, 10))
    before, random = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    classifier = make_classifier(model=model)
    torch.set_rng_state(random)
    Network(classifier, x[:1])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training


class Answering(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.fc, self.answer = nn.Linear(64, 10), answer

    def forward(self, x):
        return self.answer(self.fc(x.flatten(1)))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda z: (z, z), r"one tensor of logits, got a tuple; .*forward takes them out"),
        (lambda z: {"logits": z, "loss": z.sum()}, "got a dict with logits, loss;"),
        (lambda z: z[:, :, None], r"logits of shape \(n, classes\), got \(2, 10, 1\) for 2 inputs"),
        (lambda z: z.sum(), r"got \(\) for 2 inputs"),
    ],
)
def test_a_model_that_returns_anything_but_logits_is_refused(make_classifier, x, answer, message):
    with pytest.raises(TypeError, match=message):
        Network(make_classifier(model=Answering(answer)), x[:2])
    Network(make_classifier(model=Answering(lambda z: z)), x[:2])
