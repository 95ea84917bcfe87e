"""The gallery: one published idea a file, each only states the idea."""

from windtunnel.ideas.muon import muon

__all__ = ["muon"]
