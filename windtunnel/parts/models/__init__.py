"""Stock models: plain torch modules built from a Rung."""

from windtunnel.parts.models.cnn import CNN
from windtunnel.parts.models.experts import Experts
from windtunnel.parts.models.mlp import MLP
from windtunnel.parts.models.own import Own
from windtunnel.parts.models.transformer import GELU, RMSNorm, SwiGLU, Transformer

__all__ = ["CNN", "GELU", "MLP", "Experts", "Own", "RMSNorm", "SwiGLU", "Transformer"]
