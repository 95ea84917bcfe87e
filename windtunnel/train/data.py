"""Batches of a pack: every member's examples at a step, stacked, gathered once for members that share a seed."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from windtunnel.errors import InputError
from windtunnel.recipe import Judge

IGNORED = -100  # the target that torch's cross-entropy leaves out
_NAMED: WeakValueDictionary[int, Any] = WeakValueDictionary()  # data plans whose fingerprint was checked
JUDGE_CHUNK_TOKENS = 8192  # held-out tokens judged at once: bounds memory (guess)


def pack_batch(data: Any, seeds: Sequence[int], step: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Inputs and targets with a leading member axis; a pure function of the seeds and the step."""
    drawn = {seed: data.batch(seed=seed, step=step, size=size) for seed in dict.fromkeys(seeds)}
    inputs = torch.from_numpy(np.stack([drawn[seed][0] for seed in seeds]))
    targets = torch.from_numpy(np.stack([drawn[seed][1] for seed in seeds]))
    return inputs.to(device), targets.to(device)


def share(count: int, part: int, parts: int) -> slice:
    """The examples of `count` that one of `parts` takes: contiguous, sizes at most one apart."""
    return slice(count * part // parts, count * (part + 1) // parts)


def judge_steps(judge: Judge, steps: int) -> set[int]:
    """The steps of a run of `steps` after which it is judged; the last one is among them."""
    return {math.ceil(steps * (i + 1) / judge.evaluations) for i in range(judge.evaluations)}


def judge_chunk(judge: Judge) -> int:
    """Held-out examples that are judged at once."""
    return max(1, JUDGE_CHUNK_TOKENS // judge.data.shape().tokens_per_example)


def check_examples(data: Any, *, own_targets: bool = False) -> None:
    """Raise InputError for a data plan whose training examples are not what its shape says, or not the same each time
    they are asked for; targets may be anything where an objective of the user's own reads them."""
    _check_named(data)
    _check_call(data, "batch", seed=0, step=0, size=2)
    try:
        batch, again = (data.batch(seed=0, step=0, size=2) for _ in range(2))
    except InputError:
        raise
    except Exception:  # a fault in the plan's code: its runs will tell, with the line
        return
    _check_batch(data, "batch", batch, 2, own_targets)
    if not all(map(_equal, batch, again)):
        raise InputError(
            f"{type(data).__name__}.batch(seed=0, step=0, size=2) gives other examples when it is called again, so no "
            f"run could be repeated or resumed. Draw from np.random.default_rng((seed, step)) alone."
        )


def check_drawn(data: Any, seed: int, step: int, size: int) -> None:
    """Raise InputError where a step's loss is not finite because its inputs are not: no other rate would mend that. Not
    where those of the step before were not either, for the network bears them."""
    before = data.batch(seed=seed, step=step - 1, size=size)[0] if step else np.zeros(1)
    if np.isfinite(before).all():
        name = f"{type(data).__name__}.batch(seed={seed}, step={step})"
        _check_finite(name, data.batch(seed=seed, step=step, size=size)[0])


def check_judged(data: Any, judge: Judge) -> None:
    """The same where the judged loss is not finite, unless training inputs that are not finite were borne."""
    if np.isfinite(data.batch(seed=0, step=0, size=2)[0]).all():
        for inputs, _ in judge.data.held_out(size=judge_chunk(judge), tokens=judge.tokens):
            _check_finite(f"{type(judge.data).__name__}.held_out", inputs)


def check_held_out(judge: Judge) -> None:
    """The same for held-out examples, that there are some, and that they are the same in smaller chunks."""
    size = judge_chunk(judge)
    _check_named(judge.data)
    _check_call(judge.data, "held_out", size=size, tokens=judge.tokens)
    try:
        first, smaller = (
            next(iter(judge.data.held_out(size=each, tokens=judge.tokens)), None) for each in (size, max(1, size // 2))
        )
    except InputError:
        raise
    except Exception:
        return
    if first is None:
        raise InputError(
            f"{type(judge.data).__name__}.held_out(size={size}, tokens={judge.tokens}) yields nothing, so no run can "
            f"be judged. It yields examples in chunks of at most `size` until they have `tokens` predictions, the last "
            f"chunk smaller."
        )
    _check_batch(judge.data, "held_out", first, None, own_targets=judge.loss is not None)
    if smaller is None or not all(
        _equal(here[: len(there)], there) for here, there in zip(first, smaller, strict=True)
    ):
        raise InputError(
            f"{type(judge.data).__name__}.held_out gives other examples in chunks of {size} than in chunks of "
            f"{max(1, size // 2)}; runs that are judged in other chunks would be judged by other examples. Give the "
            f"same ones in the same order whatever the size: draw noise for all of them at once, then cut."
        )


def held_out_tokens(judge: Judge) -> int:
    """Predictions that a judge makes: as many as it asks for, to a chunk, or all that are held out."""
    held_out = judge.data.held_out(size=judge_chunk(judge), tokens=judge.tokens)
    return judge.data.shape().tokens_per_example * sum(len(inputs) for inputs, _ in held_out)


def _check_named(data: Any) -> None:
    """Raise InputError for a data plan that does not say which data it has: they are part of every run's key."""
    if _NAMED.get(id(data)) is data:  # a hash of all data takes its time
        return
    found = data.fingerprint()
    if not isinstance(found, str) or not found or found != data.fingerprint():
        raise InputError(
            f"{type(data).__name__}.fingerprint() returns {found!r}{', another each time' if found else ''}; it "
            f"must return text that changes with the data and with nothing else, such as a hash of them."
        )
    with suppress(TypeError):  # one with slots cannot be remembered
        _NAMED[id(data)] = data


def _check_call(data: Any, method: str, **given: int) -> None:
    """Raise InputError for a method that does not take what it will be given."""
    asked = f"{method}({', '.join(f'{name}=...' for name in given)})"
    try:
        inspect.signature(getattr(data, method)).bind(**given)
    except TypeError as error:
        raise InputError(
            f"{type(data).__name__}.{method} cannot be called as {asked}, as the engine does: {error}. Define it as "
            f"def {method}(self, *, {', '.join(given)})."
        ) from error
    except ValueError:  # of no signature that Python can tell
        return


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


def _check_inputs(name: str, inputs: np.ndarray) -> None:
    """Whole numbers and booleans are the network's to take: pixels that it divides, numbers of tokens."""
    if inputs.dtype != np.float32 and inputs.dtype != np.uint8 and inputs.dtype.kind not in "bi":
        raise InputError(
            f"{name} gives inputs of {inputs.dtype}; networks are float32, so give inputs.astype(np.float32), of "
            f"pixels divided by 255, or np.int64 where they are the numbers of tokens."
        )


def _check_finite(name: str, inputs: np.ndarray) -> None:
    if not np.isfinite(inputs).all():
        wrong = int((~np.isfinite(inputs)).sum())
        raise InputError(
            f"{name} gives inputs of which {wrong:,} of {inputs.size:,} are not finite (nan or inf), so no loss would "
            f"be. Mend or leave out those examples."
        )


def _check_batch(data: Any, method: str, batch: Any, asked: int | None, own_targets: bool = False) -> None:
    name, shape = f"{type(data).__name__}.{method}", data.shape()
    given = batch if isinstance(batch, tuple | list) else [batch]
    if len(given) != 2 or not all(isinstance(each, np.ndarray) for each in given):
        kinds = ", ".join(type(each).__name__ for each in given)
        raise InputError(f"{name} gives {kinds}; give two numpy arrays, inputs and targets.")
    inputs, targets = given
    many = len(inputs) if inputs.ndim else 0
    if not many or many != (asked or many) or inputs.shape != (many, *shape.example_shape):
        raise InputError(
            f"{name} gives inputs of shape {inputs.shape}{f', asked for {asked} examples' if asked else ''}; each "
            f"example must have the shape that its shape() states, {shape.example_shape}."
        )
    _check_inputs(name, inputs)
    if own_targets:
        return
    if targets.dtype not in (np.int64, np.uint8) or targets.size != many * shape.tokens_per_example:
        raise InputError(
            f"{name} gives targets {targets.dtype} of shape {targets.shape}; they must be int64 of shape "
            f"{(many, shape.tokens_per_example)}: cross-entropy is of outcomes, numbered from 0 to "
            f"{shape.classes - 1}. For targets that are numbers give the recipe objective=SquaredError() and the study "
            f"judge=Judge(data=..., loss=SquaredError()), of windtunnel.parts.objectives."
        )
    counted = targets[targets != IGNORED]
    if counted.size and (counted.min() < 0 or counted.max() >= shape.classes):
        raise InputError(
            f"{name} gives targets from {counted.min()} to {counted.max()}; its shape() states {shape.classes} "
            f"classes, so they go from 0 to {shape.classes - 1}."
        )


def judge_batches(judge: Judge, device: torch.device, most: int | None = None) -> list[tuple[Tensor, Tensor]]:
    """The held-out examples by which every run is judged, in chunks, of at most so many."""
    chunks = judge.data.held_out(size=judge_chunk(judge), tokens=judge.tokens)
    found = [(torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)) for x, y in chunks]
    if most is None:
        return found
    return [both for x, y in found for both in zip(x.split(most), y.split(most), strict=True)]
