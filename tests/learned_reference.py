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
        moved = [mk * (x + (0 if clipped else 1e-6)) ** -0.5 for mk, x in zip(m, V, strict=True)]
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


def velo_first(shape: tuple[int, ...], theta: Mapping[str, np.ndarray]) -> Tree:
    """One tensor's state."""
    return first(shape) | {"h": theta["start.hidden"][0], "c": theta["start.cell"][0]}


def velo_losses() -> Tree:
    """What is kept of the losses of a training."""
    return {"ema": np.zeros(10), "low": np.full(10, np.inf)}


def velo(
    theta: Mapping[str, np.ndarray], decays: Mapping[str, np.ndarray], params: list[np.ndarray],
    grads: list[np.ndarray], states: list[Tree], losses: Tree, loss: float, horizon: int,
) -> tuple[list[np.ndarray], list[Tree], Tree]:  # fmt: skip
    """(what is taken off each tensor; states; losses): section 2.3 of the specification, all tensors at once.

    Vectors' momenta are over the bare roots of their squares, and the bound on a loss is corrected for one step more
    than its averages hold: so is the published rule, where the specification's text leaves it open.
    """
    t = int(states[0]["t"])
    decay = np.exp(-1 / np.logspace(1, np.log10(horizon), 10))
    if t:
        loss = min(loss, 2 * abs(np.max(losses["ema"] / (1 - decay ** (t + 1)))))
    ema = decay * losses["ema"] + (1 - decay) * loss
    now = ema / (1 - decay ** (t + 1))
    low = np.minimum(losses["low"], now)
    heard = np.clip((now[:-1] - low[:-1]) / np.maximum(now[1:] - low[:-1], 1e-8) - 1, -1, 1) * (t >= 2)
    done = np.tanh(10 * (t / horizon - np.array([0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1])))
    rows = np.stack([_velo_inputs(p, s, done, heard) for p, s in zip(params, states, strict=True)])
    largest = np.maximum(rows @ theta["mix.w"] + theta["mix.b"], 0).max(0)
    steps, new = [], []
    for p, g, state, row in zip(params, grads, states, rows, strict=True):
        x = np.concatenate([row @ theta["into.w"] + theta["into.b"] + largest, state["h"]])
        i, gate, f, o = np.split(x @ theta["lstm.w"] + theta["lstm.b"], 4)
        c = _sigmoid(f + 1) * state["c"] + _sigmoid(i) * np.tanh(gate)
        h = _sigmoid(o) * np.tanh(c)
        controls = h @ theta["controls.w"] + theta["controls.b"]
        net = {
            n: 100 * np.mean([k * w for k, w in zip(controls, theta[f"bank.{n}"], strict=True)], axis=0)
            for n in ("w0", "b0", "w1", "b1", "w2", "b2")
        }
        kept = {name: value for name, value in state.items() if name not in "hc"}
        said, moved = step(net, decays, p, np.clip(g, -1000, 1000), kept, clipped=True, times=False)
        rate = (h @ theta["rate.w"] + theta["rate.b"])[0]
        steps.append(rate * np.sqrt(np.mean(p**2) + 1e-9) * said[..., 0] * np.exp(0.001 * said[..., 1]) * 0.001)
        new.append(moved | {"h": h, "c": c})
    return steps, new, {"ema": ema, "low": low}


def _velo_inputs(p: np.ndarray, state: Tree, done: np.ndarray, heard: np.ndarray) -> np.ndarray:
    scale = 1 / np.sqrt(max(np.mean(p**2), 1e-9))
    m, v = [mk * scale for mk in state["m"]], state["v"] * scale
    rank = np.eye(5)[sum(side > 1 for side in p.shape)]
    numbers = [[v.mean()], [np.var(mk) for mk in m], [np.mean((v - mk.mean()) ** 2) for mk in m]]
    mean_rms, var_m, var_rms = (0.5 * np.clip(np.log(1e-8 + 10 * np.abs(x)), -5, 5) for x in map(np.array, numbers))
    return np.concatenate([done, heard, mean_rms, rank, var_m, var_rms])


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))
