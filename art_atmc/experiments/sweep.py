"""Many points of one study: all of a grid, or those that a multi-objective search asks for.

Several processes may work on one folder at a time, and an interrupted sweep goes on where it stopped: every network has
a lock, and counts once its ``point.json`` is written.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from filelock import Timeout
from rich.console import Console

from art_atmc.experiments.point import Point
from art_atmc.experiments.recipes import RECIPES, Stage
from art_atmc.experiments.study import Study
from art_atmc.support.reading import readable

if TYPE_CHECKING:
    import optuna

__all__ = ["Search", "search", "sweep"]


def sweep(study: Study, stages: Sequence[Stage]) -> list[Point]:
    """Train and test every stage that has no point yet.

    Sizes that a recipe can't have are left out, and named on stderr before anything is trained. Networks that another
    process is training are waited for at the end; where it died, this one takes them over.

    :returns: the points of all stages that are possible, in their order.
    :raises ValueError: when none is.
    """
    stages = _possible(study, stages)
    study.prepare(stages)
    busy = []
    for stage in stages:
        try:
            with study.lock(stage).acquire(timeout=0):
                study.point(stage)
        except Timeout:  # noqa: PERF203
            busy.append(stage)
    for stage in busy:
        with study.lock(stage):
            study.point(stage)
    return [study.point(stage) for stage in stages]


def _possible(study: Study, stages: Sequence[Stage]) -> list[Stage]:
    reasons = {stage.name: study.impossible(stage) for stage in stages}
    left_out = "\n".join(f"{name} is left out: {reason}" for name, reason in reasons.items() if reason)
    possible = [stage for stage in stages if not reasons[stage.name]]
    if not possible:
        raise ValueError(f"no network can be trained:\n{left_out}")
    if left_out:
        Console(stderr=True).print(left_out, markup=False, soft_wrap=True)
    return possible


@final
@dataclasses.dataclass(frozen=True)
class Search:
    r"""A search for the trade-off of one recipe: small, accurate and robust at once.

    :param recipe: a compressing recipe of :data:`~art_atmc.experiments.RECIPES`.
    :param densities: least and greatest density, searched on a log scale.
    :param bits: least and greatest width of the codebook; not used by a recipe without one.
    :param trials: networks to train in all, by all processes together.
    :param seed: of the training of every network; the sampler's own random numbers differ by process.
    :raises ValueError: for a dense recipe and empty ranges.
    """

    recipe: str
    densities: tuple[float, float]
    bits: tuple[int, int] = (2, 8)
    trials: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES or not RECIPES[self.recipe].sparse:
            names = ", ".join(name for name, recipe in RECIPES.items() if recipe.sparse)
            raise ValueError(f"a search needs a recipe that compresses: {names}; got {self.recipe!r}")
        if not (0 < self.densities[0] <= self.densities[1] <= 1 and 1 <= self.bits[0] <= self.bits[1] <= 16):
            raise ValueError(
                f"a search needs 0 < least <= greatest <= 1 for densities and 1..16 for bits, got {self.densities} "
                f"and {self.bits}"
            )
        if self.trials < 1:
            raise ValueError(f"`trials` must be at least 1, got {self.trials}")


def search(study: Study, wanted: Search) -> list[Point]:
    """Search with Optuna's multi-objective sampler (TPE); its journal lies in the study's folder.

    What it minimises and maximises is the size of the file, and clean and robust accuracy *on validation data*; test
    figures play no part. A network that a killed process left unfinished is asked for again.

    :returns: the points of all finished trials, by size.
    :raises ImportError: without Optuna, naming the extra.
    :raises ValueError: when no network has the least density.
    """
    optuna = _optuna()
    smallest = study.stage(wanted.recipe, wanted.densities[0], wanted.bits[0], wanted.seed)
    study.prepare(_possible(study, [smallest]))
    trials = _trials(optuna, study.output / "journal.log", wanted)
    complete = optuna.trial.TrialState.COMPLETE
    for stage in _unfinished(study, wanted, trials):
        trials.enqueue_trial({"density": stage.density, "bits": stage.bits})
    points: dict[str, Point] = {}

    def objective(trial: Any) -> tuple[float, float, float]:
        density = round(trial.suggest_float("density", *wanted.densities, log=True), 6)
        bits = trial.suggest_int("bits", *wanted.bits) if RECIPES[wanted.recipe].coded else 32
        stage = study.stage(wanted.recipe, density, bits, wanted.seed)
        with study.lock(stage):
            point = points[stage.name] = study.point(stage)
        return math.log2(point.file_bytes), *point.validation

    while (left := wanted.trials - len(trials.get_trials(deepcopy=False, states=(complete,)))) > 0:
        trials.optimize(objective, n_trials=1)
        if left == 1:
            break
    for trial in trials.get_trials(deepcopy=False, states=(complete,)):
        stage = _stage_of(study, wanted, trial)
        points[stage.name] = study.point(stage)
    return sorted(points.values(), key=lambda point: point.file_bytes)


def _trials(optuna: Any, path: Path, wanted: Search) -> optuna.Study:
    """Those of the journal, which is made where there is none."""
    remedy = "delete it; finished networks are kept, and read when the search asks for them"
    with readable(path, "a journal of Optuna", remedy):
        try:
            return optuna.create_study(  # type: ignore[no-any-return]
                study_name=f"{wanted.recipe} {wanted.densities} {wanted.bits} {wanted.seed}",
                storage=optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path))),
                directions=["minimize", "maximize", "maximize"],
                sampler=optuna.samplers.TPESampler(n_startup_trials=max(4, wanted.trials // 4)),
                load_if_exists=True,
            )
        except (AssertionError, TypeError) as error:  # what Optuna raises for JSON that is none of its own
            raise ValueError(str(error)) from None


def _unfinished(study: Study, wanted: Search, trials: optuna.Study) -> list[Stage]:
    """Networks of trials that began, have no point, and that nobody works on."""
    began = (t for t in trials.get_trials(deepcopy=False) if "density" in t.params and not t.state.is_finished())
    left = []
    for stage in (_stage_of(study, wanted, trial) for trial in began):
        try:
            with study.lock(stage).acquire(timeout=0):
                if not study.finished(stage):
                    left.append(stage)
        except Timeout:  # noqa: PERF203
            continue
    return left


def _stage_of(study: Study, wanted: Search, trial: optuna.trial.FrozenTrial) -> Stage:
    return study.stage(wanted.recipe, round(trial.params["density"], 6), trial.params.get("bits", 32), wanted.seed)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ImportError("a search needs Optuna; pip install 'art-atmc[sweep]', or give a grid of sizes") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
