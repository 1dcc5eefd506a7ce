"""Constraints around a training loop of your own: the loop does not know of them.

python examples/own_loop.py
"""

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from art_atmc import PGD, Problem, Quantization, Ramp, Sparsity, StraightThrough, compressible, decompose, enforced
from art_atmc.data import load
from art_atmc.networks import digits_cnn

torch.manual_seed(0)
torch.set_num_threads(1)

digits = load("digits")
images = TensorDataset(torch.from_numpy(digits.x_train), torch.from_numpy(digits.y_train))

model = decompose(digits_cnn())  # each weight W becomes (I + U) V + C; leave this out to constrain W itself
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)  # built afterwards, so that it trains the factors
weights = compressible(model)
solvers = [  # the support first, the codebook on it second; ramps count optimizer steps
    StraightThrough(weights, Sparsity(density=0.1), ramp=Ramp(0, 120)),  # the density falls from 1 to 0.1
    StraightThrough(weights, Quantization(bits=4), ramp=Ramp(120, 120)),  # on a support that has settled
]

attack = PGD(eps=0.1, eps_step=0.05, max_iter=3)
problem = Problem(model, clip_values=digits.clip_values)
with enforced(optimizer, solvers):  # at the end of the block every constraint holds, or an error says which does not
    for _ in range(5):
        for x, y in DataLoader(images, batch_size=32, shuffle=True):
            adversarial = attack(problem, x, y)
            optimizer.zero_grad()
            cross_entropy(model(adversarial), y).backward()
            optimizer.step()

most = max(int(weight[weight != 0].unique().numel()) for weight in weights.values())
print(f"{weights.nnz()} of {weights.dense_size} weights are not zero; at most {most} values a tensor")
assert weights.nnz() <= 0.1 * weights.dense_size
assert most <= 16

model.eval()
with torch.no_grad():
    correct = model(torch.from_numpy(digits.x_test)).argmax(dim=1) == torch.from_numpy(digits.y_test)
print(f"clean accuracy {correct.float().mean():.2f}")
