"""The alternating steps of a student generator and a discriminator."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from art_atmc.support.numbers import Real, check_numbers
from art_atmc_gan.distillation import Distance
from art_atmc_gan.scales import Norm

__all__ = ["Collapse", "Game", "Rates"]


@final
@dataclasses.dataclass(frozen=True)
class Rates:
    """Learning rates at the start; all of them fall to zero along a cosine.

    :param weights: of Adam on the student's weights and biases.
    :param scales: of gradient descent with momentum 0.5 on the scales of its normalisation layers.
    :param discriminator: of Adam on the discriminator.
    """

    weights: float = 4e-4
    scales: float = 0.1
    discriminator: float = 4e-4

    def __post_init__(self) -> None:
        rate = Real("(0, inf)", "1e-4 to 1e-3 suits Adam, 0.1 the scales")
        check_numbers(self, weights=rate, scales=rate, discriminator=rate)


@final
class Game:
    r"""Steps of the minimax problem, without penalty and budget, which act inside the optimizers' steps.

    .. math:: L_G = \overline{(D(G(x)) - 1)^2} + \beta\, d(G(x), G_0(x)), \qquad
              L_D = \tfrac12 \overline{(D(G_0(x)) - 1)^2} + \tfrac12 \overline{D(G(x))^2}

    First the student steps down :math:`L_G`, its scales by their own optimizer, then the discriminator down
    :math:`L_D` on the same images.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        teacher: nn.Module,
        beta: float,
        distance: Distance,
        rates: Rates,
        nb_steps: int,
    ) -> None:
        self.generator, self.discriminator, self.teacher = generator.train(), discriminator.train(), teacher
        self.beta, self.distance = beta, distance
        scales = [m.weight for m in generator.modules() if isinstance(m, Norm) and m.affine]
        others = [p for p in generator.parameters() if all(p is not scale for scale in scales)]
        self.weights = torch.optim.Adam(others, lr=rates.weights, betas=(0.5, 0.999))
        # Without scales there is nothing to step, but an optimizer needs a parameter.
        self.scales = torch.optim.SGD(scales or [nn.Parameter(torch.zeros(0))], lr=rates.scales, momentum=0.5)
        self.judge = torch.optim.Adam(discriminator.parameters(), lr=rates.discriminator, betas=(0.5, 0.999))
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR
        self.schedules = [cosine(optimizer, nb_steps) for optimizer in (self.weights, self.scales, self.judge)]

    def step(self, x: Tensor) -> dict[str, float]:
        """One step of each side on a batch; losses, and the spread of the discriminator's scores."""
        with torch.no_grad():
            real = self.teacher(x)
        made = self.generator(x)
        self.discriminator.requires_grad_(False)
        adversarial, distance = (self.discriminator(made) - 1).square().mean(), self.distance(made, real)
        loss = adversarial + self.beta * distance
        self._check(loss, "generator")
        self.weights.zero_grad()
        self.scales.zero_grad()
        loss.backward()
        self.weights.step()
        self.scales.step()
        self.discriminator.requires_grad_(True)
        on_real, on_made = self.discriminator(real), self.discriminator(made.detach())
        judged = 0.5 * (on_real - 1).square().mean() + 0.5 * on_made.square().mean()
        self._check(judged, "discriminator")
        self.judge.zero_grad()
        judged.backward()
        self.judge.step()
        for schedule in self.schedules:
            schedule.step()
        scores = torch.cat([on_real.detach().flatten(), on_made.detach().flatten()])
        return {
            "adversarial": float(adversarial.detach()),
            "distance": float(distance.detach()),
            "discriminator": float(judged.detach()),
            "spread": float(scores.std()),
        }

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        """All that changes; the teacher and the distance stay."""
        networks = {"generator": self.generator, "discriminator": self.discriminator}
        optimizers = {"weights": self.weights, "scales": self.scales, "judge": self.judge}
        return networks | optimizers | {f"schedule {i}": schedule for i, schedule in enumerate(self.schedules)}

    def _check(self, loss: Tensor, who: str) -> None:
        if not loss.isfinite():
            raise FloatingPointError(
                f"the {who}'s loss is {float(loss.detach())}; its weights are those before this step; lower the rates, "
                "or `beta`"
            )


@final
class Collapse:
    """Notices a discriminator that tells nothing: its scores are the same whatever it sees, or its loss is zero.

    :param patience: steps in a row before it is said, once.
    """

    def __init__(self, patience: int = 50) -> None:
        self.patience = patience
        self._blind = self._perfect = 0
        self._said = False

    def state_dict(self) -> dict[str, Any]:
        return {"blind": self._blind, "perfect": self._perfect, "said": self._said}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._blind, self._perfect, self._said = state["blind"], state["perfect"], state["said"]

    def look(self, figures: dict[str, float]) -> None:
        self._blind = self._blind + 1 if figures["spread"] < 1e-3 else 0
        self._perfect = self._perfect + 1 if figures["discriminator"] < 1e-3 else 0
        if not self._said and max(self._blind, self._perfect) >= self.patience:
            self._said = True
            what = "gives the same scores to all images" if self._blind >= self.patience else "makes no error any more"
            warnings.warn(
                f"the discriminator has collapsed: for {self.patience} steps it {what}, so that the student learns "
                "from the distance to its teacher alone; lower its rate, or begin with a fresh one",
                stacklevel=4,
            )
