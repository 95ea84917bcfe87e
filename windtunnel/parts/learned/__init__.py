"""Learned optimizers: what they see, their little network, their weights, and the parts that use them.

The parts are named in `docs/learned-optimizers.md`; each is imported from its own file.
"""
