"""One side of benchmarks/learned.py in a process of its own: made, warmed, then run a few steps whenever it is asked.

    python learned_sides.py SIDE [ARGUMENT ...]      # not by hand: it reads counts from stdin and answers in JSON

A process a side, because PyLO, jax and ours need not share an interpreter, and because a peak of memory is seen only in
a fresh one. It imports nothing of this project unless the side is ours. Seconds are the process's processor time, all
threads; a newcomer would read the clock, which on a shared machine times the neighbours too.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

SIZES = (64, 704, 704, 704, 10)  # 1,045,450 parameters
PAIRS, BATCH, WIDTH, TRUNCATION, DEVIATION = 8, 64, 32, 50, 0.01
HORIZON = (100, 1000)
Side = tuple[Callable[[], None], dict[str, Any]]  # one step or outer step; what to say of it


# a step of the optimizer


def perceptron() -> Any:
    """The MLP, with a gradient for every tensor."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    layers = [torch.nn.Linear(a, b) for a, b in pairwise(SIZES)]
    between = [each for layer in layers[:-1] for each in (layer, torch.nn.ReLU())]
    model = torch.nn.Sequential(*between, layers[-1])
    for param in model.parameters():
        param.grad = torch.randn_like(param) * 1e-2
    return model


def adamw(kind: str) -> Side:
    import torch

    model = perceptron()
    return stepping(torch.optim.AdamW(model.parameters(), lr=1e-4, fused=kind == "fused"))


def pylo(path: str, rule: str) -> Side:
    """PyLO's pure PyTorch optimizers, with random weights saved and loaded as its users do."""
    import torch

    sys.path.insert(0, path)
    os.environ["HF_HUB_OFFLINE"] = "1"
    params, folder = list(perceptron().parameters()), tempfile.mkdtemp(prefix="pylo-")
    if rule == "small_fc":
        from pylo.models.Meta_MLP import MetaMLP  # type: ignore[import-not-found]
        from pylo.optim.AdafacLO_naive import AdafacLO_naive  # type: ignore[import-not-found]

        MetaMLP(39, 32, 1).save_pretrained(folder)
        return stepping(AdafacLO_naive(params, hf_key=folder))
    if rule == "velo":
        from pylo.models.VeLO_MLP import VeLOMLP  # type: ignore[import-not-found]
        from pylo.models.VeLO_RNN import VeLORNN  # type: ignore[import-not-found]
        from pylo.optim.Velo_naive import VeLO  # type: ignore[import-not-found]

        VeLOMLP().save_pretrained(f"{folder}/mlp")
        VeLORNN().save_pretrained(f"{folder}/rnn")
        made = VeLO(params, hf_key_mlp=f"{folder}/mlp", hf_key_rnn=f"{folder}/rnn")
        return stepping(made, torch.tensor(1.0))
    from pylo.models.CELO2_MLP import CELO2MLP  # type: ignore[import-not-found]
    from pylo.optim.CELO2_naive import CELO2_naive  # type: ignore[import-not-found]

    return stepping(CELO2_naive(params, num_steps=1000, network=CELO2MLP(), orthogonalize=rule == "celo2"))


def ours(rule: str) -> Side:
    """The part with random weights, in a loop of one's own."""
    import torch

    from windtunnel.bridge.optimizer import TorchOptimizer
    from windtunnel.scaling.adopt import adopt

    part, model = random_part(rule), perceptron()

    def build(width: int) -> Any:
        layers = [torch.nn.Linear(a, b) for a, b in pairwise((64, width, width, width, 10))]
        between = [each for layer in layers[:-1] for each in (layer, torch.nn.ReLU())]
        return torch.nn.Sequential(*between, layers[-1])

    scales = adopt(build, base=352, target=704, optimizer=part)
    return stepping(TorchOptimizer(part, model, scales, pretrained=True))


def random_part(rule: str) -> Any:
    """small_fc, 39-32-32-2, or Celo2, 30-8-8-3, with the published features and no training."""
    import torch

    from windtunnel.parts.learned.importing import DECAYS, FEATURES, MAGNITUDE
    from windtunnel.parts.learned.small_fc import SmallFC
    from windtunnel.parts.learned.weights import Card, Weights

    if rule != "small_fc":
        raise LookupError(f"no part for {rule} is there yet")
    card = Card(
        rule=rule, features=FEATURES[rule], step_size=1e-4, magnitude=MAGNITUDE[rule], horizon=1000, decays=DECAYS,
        parametrization={"rule": "standard"},
    )  # fmt: skip
    sizes = (card.features.count, 32, 32, 2)
    shapes = [(f"w{i}", (a, b)) for i, (a, b) in enumerate(pairwise(sizes))] + [
        (f"b{i}", (b,)) for i, b in enumerate(sizes[1:])
    ]
    return SmallFC(weights=Weights.of(card, {n: torch.randn(shape) / sizes[0] ** 0.5 for n, shape in shapes}))


def stepping(optimizer: Any, *arguments: Any) -> Side:
    """Three steps to warm up, and the memory they took at their peak, in a process that had none of it before."""
    import torch

    before = forget_peak()
    for _ in range(3):
        optimizer.step(*arguments)
    held = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
    count = sum(param.numel() for group in optimizer.param_groups for param in group["params"])
    return lambda: optimizer.step(*arguments), {
        "peak_mib": round((peak() - before) / 2**20, 1),
        "state_bytes_per_parameter": round(sum(v.numel() * v.element_size() for v in held) / count, 2),
    }


def forget_peak() -> int:
    """Bytes resident now; the peak begins anew here (Linux; elsewhere it is the process's own)."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass
    return peak()


def peak() -> int:
    """Bytes resident at the peak."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# meta-training


def google(path: str, hidden: str) -> Side:
    """One outer update of google/learned_optimization's PES on digits, as section 3.3 of the facts describes it."""
    sys.path.insert(0, path)
    import learned_optimization  # type: ignore[import-not-found]  # noqa: F401, I001  # a checkout may mend imports here
    import jax  # type: ignore[import-not-found]
    import numpy as np
    from learned_optimization.learned_optimizers.adafac_mlp_lopt import AdafacMLPLOpt  # type: ignore[import-not-found]
    from learned_optimization.optimizers.base import Adam  # type: ignore[import-not-found]
    from learned_optimization.outer_trainers import (  # type: ignore[import-not-found]
        gradient_learner,
        lopt_truncated_step,
        truncated_pes,
        truncation_schedule,
    )
    from learned_optimization.tasks import base as tasks  # type: ignore[import-not-found]
    from learned_optimization.tasks.datasets import base as datasets  # type: ignore[import-not-found]
    from learned_optimization.tasks.fixed.image_mlp import _MLPImageTask  # type: ignore[import-not-found]

    images, labels = digits()
    generator = np.random.RandomState(0)

    def batches() -> Any:
        while True:
            rows = generator.randint(0, len(images), BATCH)
            yield {"image": images[rows], "label": labels[rows]}

    like = {
        "image": jax.ShapeDtypeStruct((BATCH, 8, 8, 1), np.float32),
        "label": jax.ShapeDtypeStruct((BATCH,), np.int32),
    }
    data = datasets.Datasets(*(batches() for _ in range(4)), {"num_classes": 10, "name": "digits"}, like)
    optimizer = AdafacMLPLOpt(hidden_size=int(hidden))
    inner = lopt_truncated_step.VectorizedLOptTruncatedStep(
        tasks.single_task_to_family(_MLPImageTask(data, [WIDTH])),
        optimizer,
        truncation_schedule.LogUniformLengthSchedule(*HORIZON),
        num_tasks=PAIRS,
        random_initial_iteration_offset=HORIZON[1],
    )
    estimator = truncated_pes.TruncatedPES(inner, trunc_length=TRUNCATION, std=DEVIATION, steps_per_jit=10)
    learner = gradient_learner.SingleMachineGradientLearner(optimizer, [estimator], Adam(1e-3))
    held = {"key": jax.random.PRNGKey(0), "state": learner.init(jax.random.PRNGKey(1))}

    def update() -> None:
        held["key"], key = jax.random.split(held["key"])
        held["state"], loss, _ = learner.update(held["state"], key)
        jax.block_until_ready(loss)

    return warmed(update, {"inner_steps": 2 * PAIRS * TRUNCATION, "jax": jax.__version__})


def ours_meta(hidden: str) -> Side:
    """One outer step of ours on the same digits: PES, the same pairs, truncation, deviation and horizons."""
    import torch

    from windtunnel.ladder import Rung
    from windtunnel.meta.task import Task
    from windtunnel.meta.training import MetaTraining, _Work
    from windtunnel.parts.batch import FixedBatch
    from windtunnel.parts.data.digits import digits as digits_plan
    from windtunnel.parts.models.mlp import MLP
    from windtunnel.parts.objectives import CrossEntropy
    from windtunnel.parts.optimizers import AdamW
    from windtunnel.parts.schedules import Constant
    from windtunnel.recipe import Recipe
    from windtunnel.scaling.rules.standard import Standard

    torch.set_num_threads(1)
    recipe = Recipe(
        model=MLP(), parametrization=Standard(), optimizer=AdamW(), schedule=Constant(), data=digits_plan(),
        batch=FixedBatch(examples=BATCH), objective=CrossEntropy(),
    )  # fmt: skip
    rung = Rung(width=WIDTH, depth=1, tokens=BATCH)
    task = Task(name="digits", recipe=recipe, rung=rung, base=rung.but(width=2 * WIDTH))
    asked = MetaTraining(
        tasks=(task,), step_size=0.004, outer_steps=5000, hidden=int(hidden), pairs=PAIRS, truncation=TRUNCATION,
        std=DEVIATION,
    )  # fmt: skip
    work = _Work(asked, torch.device("cpu"))  # as `run` makes it, one outer step at a time
    state = work.first()
    return warmed(lambda: work.advance(state), {"inner_steps": 2 * PAIRS * TRUNCATION})


def warmed(update: Callable[[], None], said: dict[str, Any]) -> Side:
    """After three outer updates; what they took includes compiling."""
    began = time.perf_counter()
    for _ in range(3):
        update()
    return update, said | {"warm_up_seconds": round(time.perf_counter() - began, 1)}


def digits() -> tuple[Any, Any]:
    """1,500 images of 8 x 8, standardised a pixel; labels."""
    import numpy as np
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    held: Any = load_digits()
    images = held.data.astype(np.float32)
    images = (images - images.mean(0)) / (images.std(0) + 1e-6)
    return images[:1500].reshape(-1, 8, 8, 1), held.target[:1500].astype(np.int32)


SIDES: dict[str, Callable[..., Side]] = {
    "adamw": adamw, "pylo": pylo, "google": google, "ours": ours, "ours_meta": ours_meta,
}  # fmt: skip


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to stderr
    try:
        run, said = SIDES[sys.argv[1]](*sys.argv[2:])
    except LookupError as error:
        print(json.dumps({"missing": str(error)}), file=answers, flush=True)
        return
    print(json.dumps(said), file=answers, flush=True)
    for line in sys.stdin:
        clock, seconds = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            run()
        took = {"processor": time.process_time() - seconds, "clock": time.perf_counter() - clock}
        print(json.dumps(took), file=answers, flush=True)


if __name__ == "__main__":
    main()
