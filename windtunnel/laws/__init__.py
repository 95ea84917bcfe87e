"""Scaling laws and the evidence they are fitted to. numpy and scipy only; never torch."""

from windtunnel.laws.annealing import AnnealingArea
from windtunnel.laws.batch import BatchTerms, CriticalBatch
from windtunnel.laws.broken import BrokenPowerLaw
from windtunnel.laws.candidates import candidates
from windtunnel.laws.chinchilla import Chinchilla
from windtunnel.laws.curves import Curve
from windtunnel.laws.experts import EffectiveExperts, JointExperts, SparseExperts
from windtunnel.laws.fitting import LawFit, fit_law
from windtunnel.laws.kaplan import Kaplan
from windtunnel.laws.law import Law, Sizes
from windtunnel.laws.mixture import MixtureFit, best_mixture, fit_mixture
from windtunnel.laws.multipower import MultiPower
from windtunnel.laws.observations import Observations
from windtunnel.laws.plain import PlainPowerLaw
from windtunnel.laws.power import PowerLaw
from windtunnel.laws.power_schedule import PowerScheduleFit, fit_power_schedule
from windtunnel.laws.reading import read_runs, read_targets
from windtunnel.laws.repeated import EffectiveTokens, Overfitted
from windtunnel.laws.shifted import ShiftedPowerLaw
from windtunnel.laws.surface import Surface
from windtunnel.laws.surface_fit import fit_surface
from windtunnel.laws.task import TaskFit, fit_task
from windtunnel.laws.two_stage import Adapted, HeadStart, Transferred

__all__ = ["Adapted", "AnnealingArea", "BatchTerms", "BrokenPowerLaw", "Chinchilla", "CriticalBatch", "Curve"]
__all__ += ["EffectiveExperts", "EffectiveTokens", "HeadStart", "JointExperts", "Kaplan", "Law", "LawFit"]
__all__ += ["MixtureFit", "MultiPower", "Observations", "Overfitted", "PlainPowerLaw", "PowerLaw", "ShiftedPowerLaw"]
__all__ += ["Sizes", "SparseExperts", "Surface", "TaskFit", "Transferred", "best_mixture", "candidates", "fit_law"]
__all__ += ["PowerScheduleFit", "fit_mixture", "fit_power_schedule", "fit_surface", "fit_task", "read_runs"]
__all__ += ["read_targets"]
