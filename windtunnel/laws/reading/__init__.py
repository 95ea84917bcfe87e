"""Reading anyone's runs: a table, or the export of a tracker, as Observations; or exactly what is wrong with it."""

from windtunnel.laws.reading.choosing import parse_columns
from windtunnel.laws.reading.runs import read_runs, read_targets

__all__ = ["parse_columns", "read_runs", "read_targets"]
