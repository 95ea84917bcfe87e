"""Methods compared fairly: time to a goal with tuning counted, over several workloads. numpy only; never torch.

    runs = wt.fair.read_algoperf("logs/external_tuning")
    print(wt.compare_fairly(runs, wt.fair.ALGOPERF_GOALS))

The protocol is that of AlgoPerf (Dahl et al. 2306.07179) as its public documentation states it, which was read; the
paper was not. A room of its own beside `forecasts`: nothing is foretold here, and no law is fitted.
"""

from windtunnel.fair.compare import Comparison, compare_fairly
from windtunnel.fair.logs import ALGOPERF_GOALS, read_algoperf
from windtunnel.fair.profiles import profile, ratios, scores
from windtunnel.fair.timed import EXTERNAL, SELF_TUNING, Goal, Rules, Timed, goals_from, in_studies, timed

__all__ = ["ALGOPERF_GOALS", "EXTERNAL", "SELF_TUNING", "Comparison", "Goal", "Rules", "Timed", "compare_fairly"]
__all__ += ["goals_from", "in_studies", "profile", "ratios", "read_algoperf", "scores", "timed"]
