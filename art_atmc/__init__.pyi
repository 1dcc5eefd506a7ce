"""The public names, each from the folder where it lives; ``__init__.py`` loads a name when it is first used."""

from .attacks import PGD as PGD
from .attacks import Problem as Problem
from .attacks import Recycled as Recycled
from .classifiers import CompressedClassifier as CompressedClassifier
from .compression import ADMM as ADMM
from .compression import Constraint as Constraint
from .compression import FixedSupport as FixedSupport
from .compression import ProjectedGradient as ProjectedGradient
from .compression import Quantization as Quantization
from .compression import Ramp as Ramp
from .compression import Solver as Solver
from .compression import Sparsity as Sparsity
from .compression import StraightThrough as StraightThrough
from .compression import Tightening as Tightening
from .compression import Weights as Weights
from .compression import compressible as compressible
from .compression import decompose as decompose
from .compression import enforced as enforced
from .compression import recompose as recompose
from .files import CompressedModel as CompressedModel
from .trainer import ATMCTrainer as ATMCTrainer
from .training import TRADES as TRADES
from .training import Adversarial as Adversarial
from .training import Natural as Natural
from .training import ObjectiveTrainer as ObjectiveTrainer

__version__: str
