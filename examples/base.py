"""The whole way from a classifier to a small, robust one and its file.

python examples/base.py
"""

import torch
from art.estimators.classification import PyTorchClassifier

from art_atmc import PGD, ATMCTrainer, CompressedModel, Quantization, Sparsity, compressible
from art_atmc.data import load, split_validation
from art_atmc.evaluation import evaluate, quick
from art_atmc.networks import digits_cnn

torch.manual_seed(0)
torch.set_num_threads(1)  # small networks run fastest on one thread

digits = load("digits")
x_train, y_train, x_val, y_val = split_validation(digits.x_train, digits.y_train, 0.1, seed=0)

model = digits_cnn()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
loss = torch.nn.CrossEntropyLoss()
classifier = PyTorchClassifier(model, loss, (1, 8, 8), 10, optimizer=optimizer, clip_values=(0, 1))

attack = PGD(eps=0.1, eps_step=0.05, max_iter=3)
constraints = [Sparsity(density=0.05), Quantization(bits=4)]
trainer = ATMCTrainer(classifier, attack, constraints, verbose=False)
trainer.fit(x_train, y_train, validation_data=(x_val, y_val), nb_epochs=8, batch_size=32)
robust = trainer.get_classifier()

weights = compressible(robust.model)
print(f"{weights.nnz()} of {weights.dense_size} weights are not zero")

result = evaluate(robust, digits.x_test[:100], digits.y_test[:100], suite=quick(eps=0.1), verbose=False)
print(f"clean accuracy {result.clean_accuracy:.2f}, under the worst of {len(result.attacks)} attacks", end=" ")
print(f"{result.robust_accuracy:.2f}")

size = trainer.compress(network="digits-cnn").save("digits.atmc")
restored = CompressedModel.load("digits.atmc").classifier()
assert (restored.predict(digits.x_test) == robust.predict(digits.x_test)).all()
print(f"digits.atmc takes {size} bytes")
