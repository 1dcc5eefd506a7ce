"""A network and data of your own: any torch module, any DataLoader of (images, labels).

python examples/own_network_and_data.py
"""

import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from art_atmc import PGD, ATMCTrainer, CompressedModel, Sparsity, compressible


def stripes(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Colour images of 16 x 16 pixels under noise, with horizontal, vertical or diagonal stripes: three classes."""
    generator = torch.Generator().manual_seed(seed)
    row, column = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    patterns = torch.stack([row, column, row + column]) // 2 % 2
    labels = torch.randint(3, (n,), generator=generator)
    colours = torch.rand(n, 3, 1, 1, generator=generator)
    noise = 0.2 * torch.rand(n, 3, 16, 16, generator=generator)
    return (0.8 * colours * patterns[labels][:, None] + noise).float(), labels


class SmallNet(nn.Module):
    """Logits of images in [0, 1]; normalisation of the inputs is part of the network."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.body = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16 * 8 * 8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stem((x - 0.5) / 0.25)).relu()
        x = x + self.body(x).relu()
        return self.head(x.flatten(1))


torch.manual_seed(0)
torch.set_num_threads(1)

model = SmallNet()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
classifier = PyTorchClassifier(
    model, nn.CrossEntropyLoss(), input_shape=(3, 16, 16), nb_classes=3, optimizer=optimizer, clip_values=(0, 1)
)
trainer = ATMCTrainer(
    classifier,
    PGD(eps=8 / 255, eps_step=4 / 255, max_iter=3),
    [Sparsity(density=0.1)],
    ignore=["stem"],  # by the names of the module; the stem stays dense and counts towards nothing
    verbose=False,
)
loader = DataLoader(TensorDataset(*stripes(900, seed=0)), batch_size=32, shuffle=True)
trainer.fit_generator(loader, nb_epochs=4)

robust = trainer.get_classifier()
x, y = (part.numpy() for part in stripes(300, seed=1))
weights = compressible(robust.model, ignore=["stem"])
print(f"clean accuracy {(robust.predict(x).argmax(axis=1) == y).mean():.2f}")
print(f"{weights.nnz()} of {weights.dense_size} weights are not zero: {', '.join(weights)}")

# The file holds no code. To read it back, hand it a fresh network of yours.
trainer.compress().save("stripes.atmc")
restored = CompressedModel.load("stripes.atmc").restore(SmallNet())
with torch.no_grad():
    assert (restored.eval()(torch.from_numpy(x)).argmax(dim=1).numpy() == robust.predict(x).argmax(axis=1)).all()
