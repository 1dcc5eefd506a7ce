"""Robust in half the time: one attack step a batch, from each example's own last perturbation.

python examples/recycled.py
"""

import time

import torch
from art.estimators.classification import PyTorchClassifier

from art_atmc import PGD, Adversarial, ObjectiveTrainer, Recycled
from art_atmc.data import load, split_validation
from art_atmc.evaluation import evaluate, quick
from art_atmc.networks import digits_cnn
from art_atmc.training import OneCycle

torch.set_num_threads(1)  # small networks run fastest on one thread

digits = load("digits")
x_train, y_train, x_val, y_val = split_validation(digits.x_train, digits.y_train, 0.1, seed=0)
eps = 0.1

for name, attack in {
    "seven steps from a random start": PGD(eps, 1.25 * eps / 7, max_iter=7),
    "one step from the last perturbation": Recycled(PGD(eps, eps / 3, max_iter=1)),
}.items():
    torch.manual_seed(0)
    model = digits_cnn()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    loss = torch.nn.CrossEntropyLoss()
    classifier = PyTorchClassifier(model, loss, (1, 8, 8), 10, optimizer=optimizer, clip_values=(0, 1))
    started = time.perf_counter()
    trainer = ObjectiveTrainer(classifier, Adversarial(attack), verbose=False)
    trainer.fit(x_train, y_train, nb_epochs=12, batch_size=64, scheduler=OneCycle())
    seconds = time.perf_counter() - started
    result = evaluate(classifier, digits.x_test[:200], digits.y_test[:200], suite=quick(eps=eps), verbose=False)
    print(f"{name}: clean {result.clean_accuracy:.2f}, robust {result.robust_accuracy:.2f}, {seconds:.0f} s")
