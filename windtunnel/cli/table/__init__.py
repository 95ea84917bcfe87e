"""What `windtunnel fit` does with a table of runs: group, fit, forecast, compare, and say it in words or JSON."""
