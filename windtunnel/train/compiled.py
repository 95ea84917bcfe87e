"""A pack's whole step as one compiled graph: where it pays, checked against the step as written, with a way back.

The step (forward, backward, update of all rows) is recorded once as a flat graph and given to torch's compiler, which
joins the many passes over memory that dominate small models (measured: `benchmarks/engine.py`). Compiling takes tens of
seconds and holds for one number of rows, so it is for long stretches. Whether a stretch is long is decided from its
tokens, not by a clock: a pack that is killed and resumed must go on with the same arithmetic.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from windtunnel.train.rewritten import rewritten

# From which work compiling a stretch pays, in tokens (of all rows) times the root of the parameters: that is how the
# passes over memory grow that compiling joins. It saves 1.5e-8 seconds for each (1.2 to 2.3 at 14 thousand to 1 million
# parameters, one quiet core), here 15 seconds; it costs 5 to 15, or 3 once the compiler's own cache knows the shape. On
# a slower core both take longer.
PAYS_FROM = 1e9
# Largest relative difference of the first losses that rounding explains (guess: float32 has 1e-7, sums of thousands
# of terms in another order a hundred times that; bfloat16, where the compiler leaves roundings out, up to 1.4e-4 seen).
ROUNDING = {"float32": 1e-4, "bfloat16": 2e-3}
# And of the first change of all weights, by its norm: optimizers that take signs turn the rounding of a small gradient
# into a whole step (measured: below 1e-4 in float32, 0.07 in bfloat16; 0.3 leaves room for tensors without a gradient).
TURNED = 0.3

WAITS = 120.0  # seconds, for another process to compile the same graph (guess: three times what was seen on busy cores)

Step = Callable[..., tuple[list[Tensor], list[dict[str, Tensor]], Tensor, dict[str, Tensor]]]


def compiled(step: Step, arguments: tuple[Any, ...], precision: str = "float32") -> tuple[Step | None, str]:
    """The step compiled for arguments of these shapes; or None and why not, in a sentence.

    It is tried on `arguments` and must give the losses and weights of the step itself, to rounding.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's advice is not about the user's model
            faster = _graph(step, arguments, precision)
            found = faster(*arguments)
    except Exception as error:  # a compiler is missing, or cannot do this graph: both are a reason, not a failure
        return None, f"it could not be compiled ({type(error).__name__}: {_first_line(error)})"
    wanted = step(*arguments)
    apart = float(((found[2] - wanted[2]).abs() / wanted[2].abs().clamp(min=1e-12)).max())
    if not apart <= ROUNDING[precision]:
        return None, f"the compiled step gave other losses (by {apart:.1e} of them)"
    changed, off = _norm(wanted[0], arguments[0]), _norm(found[0], wanted[0])
    if not off <= TURNED * changed:
        return None, f"the compiled step moved the weights elsewhere (by {changed:.1e}, and {off:.1e} off)"
    return faster, ""


def _norm(some: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """Of the difference of two lists of tensors."""
    return math.sqrt(sum(float((a - b).double().square().sum()) for a, b in zip(some, others, strict=True)))


def _graph(step: Step, arguments: tuple[Any, ...], precision: str) -> Step:
    recorded = _recorded(step, arguments, precision)
    joined = torch.compile(recorded, dynamic=False)

    def run(*given: Any) -> Any:
        with torch.no_grad():  # the backward pass is part of the graph
            return joined(*given)

    shapes = [tuple(leaf.shape) for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)]
    with _by_one(f"{recorded.code} {shapes}"):
        run(*arguments)  # the first call is what compiles
    return run


@contextmanager
def _by_one(graph: str) -> Iterator[None]:
    """Let the first process of this machine that wants a graph compiled do so with every core; the others wait for it
    and take the graph from the compiler's cache, together. Those with other graphs do not wait, and nobody waits longer
    than `WAITS`, for a process that was frozen keeps its lock."""
    place = int.from_bytes(hashlib.sha256(graph.encode()).digest()[:4], "little") >> 1
    name, held = f"{tempfile.gettempdir()}/windtunnel-compiling-{os.getuid()}", -1
    try:
        with suppress(OSError):  # where nothing can be locked, each compiles by itself
            held = os.open(name, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
            if not _lock(held, place):
                os.close(held)
                held = -1
        yield
    finally:
        if held >= 0:
            os.close(held)


def _lock(file: int, place: int) -> bool:
    """Lock the byte that stands for a graph, which a process that ends lets go of. False where another process had it:
    that one is done now, or `WAITS` have passed."""
    began, waited = time.monotonic(), False
    while time.monotonic() < began + WAITS:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
            return not waited
        except (BlockingIOError, PermissionError):  # either may stand for: another has it
            waited = True
            time.sleep(0.1)
    return False


def _recorded(step: Callable[..., Any], arguments: tuple[Any, ...], precision: str) -> Any:
    """The step as a flat graph: the compiler then sees neither vmap nor autograd, which it follows only in part."""
    from torch.fx.experimental.proxy_tensor import make_fx

    # make_fx counts the arguments of a method wrongly
    return _once(make_fx(lambda *given: step(*given), decomposition_table=rewritten(precision))(*arguments))


def _once(recorded: Any) -> Any:
    """What forward and backward pass compute alike computed once: 4 to 8 % of the time of small models in bfloat16.

    Two calls are one where everything they are given is written alike (1 is not 1.0). A graph that writes into its
    tensors, or draws numbers, stays as it is.
    """
    called = [node.target for node in recorded.graph.nodes if isinstance(node.target, torch._ops.OpOverload)]
    if any(target._schema.is_mutable or torch.Tag.nondeterministic_seeded in target.tags for target in called):
        return recorded
    first: dict[Any, Any] = {}
    for node in list(recorded.graph.nodes):
        if node.op == "call_function":
            same = first.setdefault((node.target, repr(node.args), repr(node.kwargs)), node)
            if same is not node:
                node.replace_all_uses_with(same)
                recorded.graph.erase_node(node)
    recorded.recompile()
    return recorded


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]
