"""The conformance suite behind `windtunnel check`: what an idea must keep so that its forecast can be believed.

A check is a function of a Subject (one idea beside a tiny base recipe) and returns a Finding. No check knows an idea or
a part by name; where one would need to, a slot of the recipe is missing.
"""

from windtunnel.conformance.finding import Finding, Mark, Place, Report
from windtunnel.conformance.subject import Subject, ideas_of
from windtunnel.conformance.suite import SUITE, Check, findings, report

__all__ = ["SUITE", "Check", "Finding", "Mark", "Place", "Report", "Subject", "findings", "ideas_of", "report"]
