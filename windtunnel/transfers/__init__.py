"""Which parametrization carries a hyperparameter up a ladder: recipes.py and loop.py train, carried.py judges."""

from windtunnel.transfers.carried import Carried, Comparison, judged
from windtunnel.transfers.loop import transfer_check
from windtunnel.transfers.recipes import compare_parametrizations

__all__ = ["Carried", "Comparison", "compare_parametrizations", "judged", "transfer_check"]
