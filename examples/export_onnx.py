"""ONNX out of the compressed file, run without torch and art-atmc by onnxruntime.

pip install -c constraints.txt '.[onnx]'
python examples/export_onnx.py
"""

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from art.estimators.classification import PyTorchClassifier

from art_atmc import PGD, ATMCTrainer, CompressedModel, Quantization, Sparsity
from art_atmc.data import load
from art_atmc.files.onnx import export
from art_atmc.networks import digits_cnn

torch.manual_seed(0)
torch.set_num_threads(1)

digits = load("digits")
model = digits_cnn()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
loss = torch.nn.CrossEntropyLoss()
classifier = PyTorchClassifier(model, loss, (1, 8, 8), 10, optimizer=optimizer, clip_values=(0, 1))
constraints = [Sparsity(density=0.05), Quantization(bits=4)]
trainer = ATMCTrainer(classifier, PGD(eps=0.1, eps_step=0.05, max_iter=3), constraints, verbose=False)
trainer.fit(digits.x_train, digits.y_train, nb_epochs=5, batch_size=32)

trainer.compress(network="digits-cnn").save("digits.atmc")
export(CompressedModel.load("digits.atmc"), Path("digits.onnx"))  # or: art-atmc export digits.atmc --output digits.onnx

session = onnxruntime.InferenceSession("digits.onnx", providers=["CPUExecutionProvider"])
[logits] = session.run(None, {"input": digits.x_test})
difference = np.abs(logits - trainer.get_classifier().predict(digits.x_test)).max()
print(f"clean accuracy {(logits.argmax(axis=1) == digits.y_test).mean():.2f}")
print(f"digits.atmc {Path('digits.atmc').stat().st_size} bytes, digits.onnx {Path('digits.onnx').stat().st_size} bytes")
assert difference < 1e-4
