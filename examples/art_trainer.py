"""Constraints around one of ART's own trainers, which stays as it is.

python examples/art_trainer.py
"""

import torch
from art.attacks.evasion import ProjectedGradientDescent
from art.defences.trainer import AdversarialTrainer
from art.estimators.classification import PyTorchClassifier

from art_atmc import ATMCTrainer, Sparsity, compressible
from art_atmc.data import load
from art_atmc.networks import digits_cnn

torch.manual_seed(0)
torch.set_num_threads(1)

digits = load("digits")
model = digits_cnn()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
loss = torch.nn.CrossEntropyLoss()
classifier = PyTorchClassifier(model, loss, (1, 8, 8), 10, optimizer=optimizer, clip_values=(0, 1))

attack = ProjectedGradientDescent(classifier, eps=0.1, eps_step=0.05, max_iter=2, batch_size=64, verbose=False)
art_trainer = AdversarialTrainer(classifier, attack, ratio=0.5)  # half of each batch is attacked
trainer = ATMCTrainer(classifier, constraints=[Sparsity(density=0.1)], trainer=art_trainer)
trainer.fit(digits.x_train, digits.y_train, nb_epochs=5, batch_size=32)

robust = trainer.get_classifier()
weights = compressible(robust.model)
accuracy = (robust.predict(digits.x_test).argmax(axis=1) == digits.y_test).mean()
print(f"{weights.nnz()} of {weights.dense_size} weights are not zero, clean accuracy {accuracy:.2f}")
assert weights.nnz() <= 0.1 * weights.dense_size
