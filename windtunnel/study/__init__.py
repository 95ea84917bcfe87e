"""The frozen question (Study) and the main job that answers it: tune, train, fit, forecast, compare, report."""

from windtunnel.study.answer import Result
from windtunnel.study.plan import Plan
from windtunnel.study.question import Study

__all__ = ["Plan", "Result", "Study"]
