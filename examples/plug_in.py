"""A constraint of a plug-in, art-atmc-structured: half of the filters are dropped, then taken out of the network.

pip install ./plugins/art-atmc-structured
python examples/plug_in.py
"""

import torch
from art.estimators.classification import PyTorchClassifier
from art_atmc_structured import FilterSparsity, remove_filters

from art_atmc import PGD, ATMCTrainer
from art_atmc.data import load
from art_atmc.networks import digits_cnn

torch.manual_seed(0)
torch.set_num_threads(1)

digits = load("digits")
model = digits_cnn()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
loss = torch.nn.CrossEntropyLoss()
classifier = PyTorchClassifier(model, loss, (1, 8, 8), 10, optimizer=optimizer, clip_values=(0, 1))

trainer = ATMCTrainer(
    classifier,
    PGD(eps=0.1, eps_step=0.05, max_iter=3),
    [FilterSparsity(density=0.5)],  # or by name, where the plug-in is installed: ["filter-sparsity:density=0.5"]
    factored=False,  # filters are rows of the weights themselves, not of their factors
    verbose=False,
)
trainer.fit(digits.x_train, digits.y_train, nb_epochs=4, batch_size=32)
robust = trainer.get_classifier()

removal = remove_filters(robust.model, torch.from_numpy(digits.x_test[:16]))
before, after = removal.parameters
print(f"{before} parameters before, {after} after; the outputs differ by at most {removal.difference:.0e}")
for layer, (wide, narrow) in removal.widths.items():
    print(f"{layer}: {wide} -> {narrow} outputs")
assert after < before
