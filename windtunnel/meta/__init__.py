"""Meta-training of learned optimizers: particles in packs, evolution strategies, exact resume (public as wt.meta).

`MetaTraining` asks, `Task` is what is trained on, `Matrix` shows where the result holds. A study file whose `study` is
a MetaTraining is run by `windtunnel run`. The rules themselves are parts: windtunnel.parts.learned.
"""

from windtunnel.meta.local import Local, bytes_per_round, simulated
from windtunnel.meta.matrix import Filled, Matrix, Rule
from windtunnel.meta.task import Task
from windtunnel.meta.training import MetaTraining, Progress
from windtunnel.meta.unroll import Horizons

__all__ = [
    "Filled", "Horizons", "Local", "Matrix", "MetaTraining", "Progress", "Rule", "Task", "bytes_per_round", "simulated",
]  # fmt: skip
