"""A pack's whole step as one compiled graph: where it pays, checked against the step as written, with a way back.

The step (forward, backward, update of all rows) is recorded once as a flat graph and given to torch's compiler, which
joins the many passes over memory that dominate small models (measured: `benchmarks/engine.py`). Compiling takes tens of
seconds and holds for one number of rows, so it is for long stretches. Whether a stretch is long is decided from its
tokens, not by a clock: a pack that is killed and resumed must go on with the same arithmetic.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import math
import os
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from windtunnel.train.rewritten import rewritten

# From which work compiling a stretch pays, in tokens (of all rows) times the root of the parameters: that is how the
# passes over memory grow that compiling joins. It saves 1.5e-8 seconds for each (1.2 to 2.3 at 14 thousand to 1 million
# parameters, one quiet core), here 15 seconds; it costs 10 to 20, or 4 once the compiler's own cache knows the shape.
# On a slower core both take longer.
PAYS_FROM = 1e9
# Largest relative difference of the first losses that rounding explains (guess: float32 has 1e-7, sums of thousands
# of terms in another order a hundred times that; bfloat16, where the compiler leaves roundings out, up to 1.4e-4 seen).
ROUNDING = {"float32": 1e-4, "bfloat16": 2e-3}
# And of the first change of all weights, by its norm: optimizers that take signs turn the rounding of a small gradient
# into a whole step (measured: below 1e-4 in float32, 0.07 in bfloat16; 0.3 leaves room for tensors without a gradient).
TURNED = 0.3

# All kernels of a graph in one C++ file and what calls them in another, instead of a file and a run of the C++ compiler
# for each: half the seconds, the same digits, and a step a twentieth shorter (measured). Headers compiled beforehand
# cost more than they save two files. Not tried on other devices.
IN_TWO_FILES = {"cpp_wrapper": True, "cpp_wrapper_build_separate": True, "cpp_cache_precompile_headers": False}

WAITS = 120.0  # seconds, for another process to compile the same graph (guess: three times what was seen on busy cores)

_JOINED: dict[str, Callable[..., Any]] = {}  # graphs that this process has compiled: the next pack's is often one

PLACE = object()  # of a tensor, in an answer

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
    """The step compiled for arguments of this kind.

    What the compiler makes holds for one shape, type and layout of every tensor; others are computed as written.
    """
    arguments = _ordered(arguments)
    tensors = [leaf for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)]
    on_cpu = all(each.device.type == "cpu" for each in tensors)
    if on_cpu and not _JOINED:
        _look_ahead()
    recorded, taken, rebuilt = _recorded(step, arguments, precision)
    graph, kinds = _name(recorded, tensors), _kinds(tensors)
    if graph not in _JOINED:
        _JOINED[graph] = _joined(recorded, tensors, graph, on_cpu)
    joined = _JOINED[graph]

    def run(*given: Any) -> Any:
        tensors = taken(given)
        if _kinds(tensors) != kinds:
            return step(*given)
        with torch.no_grad():  # the backward pass is part of the graph
            return rebuilt(joined(*tensors))

    return run


def _ordered(tree: Any) -> Any:
    """With every dictionary in the order of its keys: a checkpoint gives them in any."""
    if type(tree) is dict:
        return {key: _ordered(tree[key]) for key in sorted(tree)}
    return type(tree)(map(_ordered, tree)) if type(tree) in (list, tuple) else tree


def _kinds(tensors: Sequence[Tensor]) -> list[Any]:
    return [(each.shape, each.stride(), each.dtype, each.device) for each in tensors]


def _joined(recorded: GraphModule, tensors: list[Tensor], graph: str, on_cpu: bool) -> Callable[..., Sequence[Tensor]]:
    """The graph compiled, on a CPU as `IN_TWO_FILES` says; as torch does it where that is not so or cannot be done."""
    with torch.no_grad(), _unsaid():
        if on_cpu:
            with suppress(Exception):
                joined = _in_two_files(recorded, tensors, graph)
                joined(*tensors)
                return joined
        joined = torch.compile(recorded, dynamic=False)
        with _by_one(graph):
            joined(*tensors)  # the first call is what compiles
        return joined


def _in_two_files(recorded: GraphModule, tensors: list[Tensor], graph: str) -> Callable[..., Sequence[Tensor]]:
    """The graph given to the compiler as it is: torch.compile would first read it once more, which takes seconds."""
    from torch._inductor import compile_fx, config
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    kinds = FakeTensorMode(shape_env=ShapeEnv())
    inputs = [kinds.from_tensor(each, static_shapes=True) for each in tensors]
    for node, kind in zip(recorded.graph.find_nodes(op="placeholder"), inputs, strict=True):
        node.meta["val"] = kind

    def one_process(*given: Any, **more: Any) -> Any:
        with _by_one(graph):
            return compile_fx.compile_fx_inner(*given, **more)

    known = {name: value for name, value in IN_TWO_FILES.items() if hasattr(config, name)}  # torch 2.6 lacks some
    made: Any = compile_fx.compile_fx(recorded, inputs, inner_compile=one_process, config_patches=known)
    return made


def _name(recorded: GraphModule, tensors: Sequence[Tensor]) -> str:
    """Stands for the graph, the constants in it, the tensors that it is for, and what else the compiler goes by."""
    how = torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()
    found = hashlib.sha256(f"{recorded.code} {_kinds(tensors)} {how}".encode())
    for node in recorded.graph.find_nodes(op="get_attr"):
        held = attrgetter(node.target)(recorded)
        written = held.detach().cpu().tolist() if isinstance(held, Tensor) else getattr(held, "code", held)
        found.update(f"{node.target} {getattr(held, 'dtype', '')} {written}".encode())
    return found.hexdigest()


def _look_ahead() -> None:
    """Have torch try which instructions the processor has, which runs a C++ compiler six times, on another core while
    the step is recorded: what is found is kept, on disk too."""
    with suppress(Exception):  # then it tries when it needs to know
        import torch._inductor.compile_fx  # noqa: F401  all of it, as two threads must not import at once
        from torch._inductor.cpu_vec_isa import pick_vec_isa

        def tried() -> None:
            with suppress(Exception):
                pick_vec_isa()

        threading.Thread(target=tried, daemon=True).start()


@contextmanager
def _unsaid() -> Iterator[None]:
    """Without torch's remarks on operations that it calls one by one, of which no user can make anything."""

    def never(record: logging.LogRecord) -> bool:
        return False

    talk = logging.getLogger("torch._inductor.ir")
    talk.addFilter(never)
    try:
        yield
    finally:
        talk.removeFilter(never)


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


def _recorded(
    step: Callable[..., Any], arguments: tuple[Any, ...], precision: str
) -> tuple[GraphModule, Callable[[tuple[Any, ...]], list[Tensor]], Callable[[Sequence[Tensor]], Any]]:
    """The step as a flat graph from tensors to tensors; what takes the tensors out of arguments (whose dictionaries may
    be in another order), and what gives those it computes the form of the step's answer.

    The compiler then sees neither vmap nor autograd, which it follows only in part. What is no tensor stays as it is
    now, in arguments and answer.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    leaves, form = tree_flatten(arguments)
    answer: list[Any] = []

    def flat(*tensors: Tensor) -> list[Tensor]:
        left = iter(tensors)
        given = [next(left) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        found, found_form = tree_flatten(step(*tree_unflatten(given, form)))
        answer[:] = [PLACE if isinstance(leaf, Tensor) else leaf for leaf in found], found_form
        return [leaf for leaf in found if isinstance(leaf, Tensor)]

    def taken(given: tuple[Any, ...]) -> list[Tensor]:
        return [leaf for leaf in form.flatten_up_to(given) if isinstance(leaf, Tensor)]

    graph = _once(make_fx(flat, decomposition_table=rewritten(precision))(*taken(arguments)))
    places, answer_form = answer

    def rebuilt(tensors: Sequence[Tensor]) -> Any:
        left = iter(tensors)
        return tree_unflatten([next(left) if each is PLACE else each for each in places], answer_form)

    return graph, taken, rebuilt


def _once(recorded: GraphModule) -> GraphModule:
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
