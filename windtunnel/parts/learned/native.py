"""The kernel in C++: compiled once by the machine's own compiler, kept, and left alone where there is none.

It is an acceleration only: without a compiler, on another device, under vmap or a recorded graph, network.py does the
same in torch. A newcomer would key the compiled file by its source; home folders are shared by machines whose
processors differ, so what the processor can do is in the key too.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from windtunnel.parts.learned.features import Features, Layout, Moments
from windtunnel.parts.learned.shapes import NETWORK

SOURCE = Path(__file__).with_name("kernel.cpp")
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-shared", "-fPIC")
OFF = "WINDTUNNEL_NO_NATIVE"  # set to anything: do without
MOST_HIDDEN, LANES = 128, 8  # hidden units, and how many are worked on at a time
COMPILE_SECONDS = 120
PARALLEL_FROM = 1 << 16  # entries of a tensor from which threads pay (guess: some 100 microseconds of work each)


def available() -> str:
    """Empty where the kernel can be used, else why not."""
    return _library()[1]


def suits(values: Tensor, hidden: int) -> bool:
    """Whether the kernel may be called on these values: plain float32 on a CPU, nothing recorded or batched over."""
    plain = type(values) is Tensor and values.device.type == "cpu" and values.dtype == torch.float32
    if not plain or hidden > MOST_HIDDEN or torch.compiler.is_compiling() or _watched():
        return False
    return not (torch.is_grad_enabled() and values.requires_grad) and not available()


def _watched() -> bool:
    """Whether torch.func or a recorder stands between the call and the numbers; torch says so in private only."""
    transformed: Any = getattr(torch._C, "_functorch")  # noqa: B009
    recorders: Any = getattr(torch.utils, "_python_dispatch")  # noqa: B009
    return transformed.maybe_current_level() is not None or recorders._len_torch_dispatch_stack() > 0


def padded(net: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network with as many hidden units as the kernel works on at a time; those added are zero."""
    more = -net["w1"].shape[-1] % LANES
    sides = {"w0": (0, more), "b0": (0, more), "w1": (0, more, 0, more), "b1": (0, more), "w2": (0, 0, 0, more)}
    return {n: (pad(v, sides[n]) if more and n in sides else v).contiguous() for n, v in net.items()}


def step(
    net: Mapping[str, Tensor], features: Features, magnitude: float, grad: Tensor, param: Tensor, old: Moments,
    now: Moments, layout: Layout, decays: Tensor, steps: Tensor, rates: Tensor,
) -> Tensor:  # fmt: skip
    """rates x d x exp(magnitude x m) of every entry, (batch, others, a, b); the accumulators move from `old` to `now`.

    `net` is padded; it and `decays` (nets, 7) have one row or the batch's. `now` may be `old`. `steps` and `rates`
    (batch,). All but `grad` and `param` must be contiguous.
    """
    batch, out = len(grad), torch.empty(grad.shape)
    threads = torch.get_num_threads() if out[0].numel() >= PARALLEL_FROM else 1
    kind = (
        int(features.clipped), int(features.scale_free), int(layout.factored), int(layout.row_is_a),
        len(features.times), net["w1"].shape[-1], net["w2"].shape[-1], threads,
    )  # fmt: skip
    numbers = (features.second_eps, features.normaliser_eps, magnitude)
    grad, param = grad.contiguous(), param.contiguous()
    _library()[0].learned_step(
        ctypes.c_long(batch), ctypes.c_long(len(net["w1"])), _array(ctypes.c_long, layout.shape),
        _array(ctypes.c_int, kind), _array(ctypes.c_float, numbers), _array(ctypes.c_float, features.times),
        _at(grad), _at(param), _addresses(leaves(old)), _addresses(leaves(now)), _addresses([net[n] for n in NETWORK]),
        _at(decays), _at(steps), _at(rates), _at(out),
    )  # fmt: skip
    return out


def leaves(moments: Moments) -> list[Tensor]:
    """Accumulators in the kernel's order."""
    return [*moments.means, moments.square, moments.over_b, moments.over_a]


def _array(kind: Any, values: Sequence[float]) -> Any:
    return (kind * len(values))(*values)


def _at(tensor: Tensor) -> Any:
    return ctypes.c_void_p(tensor.data_ptr())


def _addresses(tensors: Sequence[Tensor]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*(t.data_ptr() for t in tensors))


@cache
def _library() -> tuple[Any, str]:
    if os.environ.get(OFF):
        return None, f"{OFF} is set"
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return None, "there is no C++ compiler (g++ or clang++)"
    try:
        return ctypes.CDLL(str(_built(compiler))), ""
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # RuntimeError: no home folder
        return None, f"it could not be compiled ({type(error).__name__}: {str(error).splitlines()[0][:200]})"


def _built(compiler: str) -> Path:
    """The compiled kernel, from the cache or made now; written to a temporary name first."""
    key = hashlib.sha256("\n".join([SOURCE.read_text("utf-8"), compiler, *FLAGS, _processor()]).encode()).hexdigest()
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "windtunnel"
    place = home / f"learned-{key[:16]}.so"
    if place.exists():
        return place
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home) as folder:
        made = Path(folder) / place.name
        for threads in (["-fopenmp"], []):  # clang may lack the library
            command = [compiler, *FLAGS, *threads, "-o", str(made), str(SOURCE)]
            done = subprocess.run(command, capture_output=True, timeout=COMPILE_SECONDS)
            if done.returncode == 0:
                break
        else:
            raise subprocess.SubprocessError(done.stderr.decode("utf-8", "replace").strip() or "the compiler failed")
        os.replace(made, place)
    return place


def _processor() -> str:
    """What the processor can do, as far as the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return f"{platform.machine()} {platform.processor()} {flags}"
