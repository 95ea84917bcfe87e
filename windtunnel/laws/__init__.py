"""Scaling laws and the evidence they are fitted to. numpy only; never torch."""

from windtunnel.laws.chinchilla import Chinchilla
from windtunnel.laws.law import Law, Sizes
from windtunnel.laws.observations import Observations
from windtunnel.laws.plain import PlainPowerLaw
from windtunnel.laws.power import PowerLaw
from windtunnel.laws.reading import read_runs

__all__ = ["Chinchilla", "Law", "Observations", "PlainPowerLaw", "PowerLaw", "Sizes", "read_runs"]
