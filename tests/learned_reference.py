"""small_fc in float64, straight from the specification (2203.11860, Google's adafac_mlp_lopt): one tensor, no folding.

Slow and plain on purpose: every feature is made for every entry, then normalised, then multiplied.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Tree = dict[str, np.ndarray]
TIMES = np.array([1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5])


def first(shape: tuple[int, ...]) -> Tree:
    """Accumulators from zero."""
    zeros = np.zeros((3, *shape))
    state = {"m": zeros.copy(), "v": np.zeros(shape), "t": np.zeros(())}
    if len(shape) < 2:
        return state | {"V": zeros.copy()}
    d0, d1 = sides(shape)
    return state | {"R": np.zeros((3, *np.delete(shape, d0))), "C": np.zeros((3, *np.delete(shape, d1)))}


def sides(shape: tuple[int, ...]) -> tuple[int, int]:
    """Largest and second largest axis; among equals the later one is the largest."""
    order = np.argsort(np.array(shape), kind="stable")
    return int(order[-1]), int(order[-2])


def step(
    net: Mapping[str, np.ndarray], decays: Mapping[str, np.ndarray], p: np.ndarray, g: np.ndarray, state: Tree,
    *, clipped: bool = False, second_eps: float = 1e-6, eps: float = 1e-5, times: bool = True,
) -> tuple[np.ndarray, Tree]:  # fmt: skip
    """(direction x exp(0.001 magnitude), state): what is multiplied by the rate and taken off the weights."""
    m = np.stack([b * old + (1 - b) * g for b, old in zip(decays["momentum"], state["m"], strict=True)])
    v = decays["rms"][0] * state["v"] + (1 - decays["rms"][0]) * g**2
    new = {"m": m, "v": v, "t": state["t"] + 1}
    rsv = 1 / np.sqrt(v + second_eps)
    if g.ndim < 2:
        new["V"] = V = np.stack(
            [b * old + (1 - b) * (g**2 + 1e-30) for b, old in zip(decays["factored"], state["V"], strict=True)]
        )
        factored = [g / np.sqrt(np.maximum(x + 1e-9, 1e-9)) for x in V]
        R = C = list(V)
        moved = [mk * (x + 1e-6) ** -0.5 for mk, x in zip(m, V, strict=True)]
    else:
        d0, d1 = sides(g.shape)
        square = g**2 + 1e-30
        new["R"] = np.stack(
            [b * r + (1 - b) * square.mean(d0) for b, r in zip(decays["factored"], state["R"], strict=True)]
        )
        new["C"] = np.stack(
            [b * c + (1 - b) * square.mean(d1) for b, c in zip(decays["factored"], state["C"], strict=True)]
        )
        R = [np.broadcast_to(np.expand_dims(r, d0), g.shape) for r in new["R"]]
        C = [np.broadcast_to(np.expand_dims(c, d1), g.shape) for c in new["C"]]
        means = [np.expand_dims(r.mean(d1 - (d0 < d1), keepdims=True), d0) for r in new["R"]]
        rowfac = [1 / np.sqrt(np.maximum(r / (mean + 1e-9), 1e-9)) for r, mean in zip(R, means, strict=True)]
        colfac = [1 / np.sqrt(np.maximum(c, 1e-9)) for c in C]
        factored = [g * a * b for a, b in zip(rowfac, colfac, strict=True)]
        moved = [mk * a * b for mk, a, b in zip(m, rowfac, colfac, strict=True)]
    columns = [g, *([np.clip(g, -0.1, 0.1)] if clipped else []), p, *m, v, *(mk * rsv for mk in m), rsv, *factored]
    columns += [g * rsv] if clipped else []
    columns += [*R, *C, *(1 / np.sqrt(r + 1e-8) for r in R), *(1 / np.sqrt(c + 1e-8) for c in C), *moved]
    table = np.stack([c / np.sqrt(eps + np.mean(c**2)) for c in columns], -1)
    if times:
        time = np.tanh(state["t"] / TIMES - 1)
        table = np.concatenate([table, np.broadcast_to(time, (*g.shape, len(TIMES)))], -1)
    hidden = np.maximum(table @ net["w0"] + net["b0"], 0)
    hidden = np.maximum(hidden @ net["w1"] + net["b1"], 0)
    return hidden @ net["w2"] + net["b2"], new


def celo2(
    net: Mapping[str, np.ndarray], decays: Mapping[str, np.ndarray], p: np.ndarray, g: np.ndarray, state: Tree,
    *, orthogonal: bool = False,
) -> tuple[np.ndarray, Tree]:  # fmt: skip
    """(what is multiplied by the rate and taken off one matrix (in, out), without decay; state)."""
    said, state = step(
        net, decays, p, np.clip(g, -1000, 1000), state, clipped=True, second_eps=1e-8, eps=1e-9, times=False
    )
    direction = newton_schulz(said[..., 0]) if orthogonal else said[..., 0]
    return direction / np.sqrt(np.mean(direction**2)), state


def newton_schulz(matrix: np.ndarray) -> np.ndarray:
    """Five rounds on the wide form (Muon's post)."""
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (np.sqrt(np.sum(x**2)) + 1e-8)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x
