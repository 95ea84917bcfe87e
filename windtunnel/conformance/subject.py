"""An idea beside a tiny base recipe, and the runs that several checks look at.

The bench is a transformer of width 16 on bytes of the standard library: small enough for seconds, real enough that a
rule which does not learn is seen. An idea whose data or network are none for text, but run on images, is checked on
those: digits and a small CNN. The rung's batch comes from the idea's own batch rule, as in a study.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from windtunnel.conformance.finding import Place
from windtunnel.conformance.places import is_ours, place_of
from windtunnel.errors import InputError
from windtunnel.ladder import Rung
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.data import digits, stdlib
from windtunnel.parts.recipes import cnn_mup_adamw, transformer_mup_adamw
from windtunnel.recipe import Judge, Recipe, is_rate
from windtunnel.runs import Run, RunSpec
from windtunnel.train.loop import train
from windtunnel.train.pack import Pack
from windtunnel.tune import Tuning, coarse_values

CPU = torch.device("cpu")
WIDTH, CONTEXT, BATCH = 16, 32, 8
STEPS = 20

THREE_LINES = '''
    def my_idea(base):
        """The claim, in a sentence."""
        return base.but(optimizer=MyOptimizer())'''

Member = tuple[Mapping[str, float], int]  # hyperparameters and seed


def bench() -> Recipe:
    """The base recipe that ideas are checked on."""
    return transformer_mup_adamw(data=stdlib(context=CONTEXT)).but(batch=FixedBatch(examples=BATCH))


def image_bench() -> Recipe:
    """The base recipe that ideas for images are checked on."""
    return cnn_mup_adamw(data=digits())


def rung_of(recipe: Recipe, steps: int, width: int = WIDTH) -> Rung:
    """A rung of so many steps, with the recipe's own batch."""
    rung = Rung(width=width, depth=1, heads=max(1, width // WIDTH), tokens=steps * BATCH * CONTEXT)
    shape = recipe.data.shape()
    batch = recipe.batch(rung, shape)
    return rung.but(batch=batch, tokens=steps * batch * shape.tokens_per_example)


def at(recipe: Recipe, share: float) -> dict[str, float]:
    """Tuned fields at a share of their ranges, in the logarithm: 0.5 is the middle."""
    return {n: float(f"{r.low ** (1 - share) * r.high**share:.4g}") for n, r in recipe.tuned_fields().items()}


def swept(recipe: Recipe) -> list[dict[str, float]]:
    """What a study's default tuning tries first: the leading field over its range, the others in the middle."""
    field = leading(recipe)
    if field is None:
        return [{}]
    return [at(recipe, 0.5) | {field: v} for v in coarse_values(recipe.tuned_fields()[field], Tuning().points)]


def leading(recipe: Recipe) -> str | None:
    """The tuned field that is swept: the first rate, else the first; None where nothing is tuned."""
    ranges = recipe.tuned_fields()
    return next(filter(is_rate, ranges), next(iter(ranges), None))


def trained(pack: Pack, packed: bool, **options: Any) -> list[Run]:
    """The runs of a pack, trained together or one by one."""
    if packed:
        return train(pack, device=CPU, **options)
    singles = [replace(pack, specs=(spec,)) for spec in pack.specs]
    return [train(single, device=CPU, packed=False, **options)[0] for single in singles]


@dataclass
class Subject:
    """One idea under check. What costs time is computed once, when a check first asks for it.

    `run_file` runs the idea's file as another process would and gives its module (None where nobody can), in which the
    idea is `called` so.
    """

    idea: Callable[[Recipe], Recipe]
    file: Path
    base: Recipe
    run_file: Callable[[], ModuleType] | None = None
    called: str = ""
    not_on_text: str = ""  # the error there of an idea that is checked on images
    also_on_images: bool = False  # one step is possible there of an idea that fails on text by its own doing

    @property
    def name(self) -> str:
        """The idea's name: its function's."""
        return self.idea.__name__

    @property
    def claim(self) -> str:
        """What the idea claims: its docstring."""
        return inspect.getdoc(self.idea) or ""

    @property
    def of_its_own_kind(self) -> bool:
        """Whether it changes the data or the network, and so may be for other inputs than the bench's."""
        with suppress(Exception):  # the checks say what it means
            return any(getattr(self.recipe, slot) != getattr(self.base, slot) for slot in ("data", "model"))
        return False

    @cached_property
    def asked(self) -> Recipe:
        """What the idea makes of the base."""
        return self.idea(self.base)

    @cached_property
    def recipe(self) -> Recipe:
        """The same with what may change the network, and so tells packs apart, in the middle of its range."""
        found = self.asked
        if not isinstance(found, Recipe):
            return found
        return found.shaped(at(found, 0.5))

    @property
    def suspect(self) -> Any:
        """Where to look when training goes wrong: the optimizer's update if it is the idea's, else the idea."""
        mine = self.recipe.optimizer != self.base.optimizer
        return self.recipe.optimizer.update if mine else self.idea

    @property
    def network(self) -> Place | None:
        """Where what the idea changes of the network is: the last transform, the model, else the idea."""
        changed = []
        if self.recipe.transforms and self.recipe.transforms != self.base.transforms:
            changed = [self.recipe.transforms[-1]]
        elif self.recipe.model != self.base.model:
            changed = [self.recipe.model, getattr(self.recipe.model, "module", None)]
        places = (place_of(part) for part in changed if part is not None)
        return next((place for place in places if place and not is_ours(place)), place_of(self.idea))

    def anew(self) -> Recipe | None:
        """What the idea makes of the base when its file is run again, as another process does; None if it cannot be."""
        if self.run_file is None:
            return None
        with suppress(Exception):
            found = getattr(self.run_file(), self.called)(self.base)
            return found.shaped(at(found, 0.5))
        return None

    @cached_property
    def judge(self) -> Judge:
        """The study's judge: held-out examples of the base recipe's data."""
        return Judge(data=self.base.data, tokens=1024, evaluations=2)

    def pack(self, members: Sequence[Member], steps: int = STEPS) -> Pack:
        """Runs of the idea's recipe at the bench's rung."""
        return pack_of(self.recipe, self.judge, members, steps)

    @cached_property
    def members(self) -> list[Member]:
        """Three runs near the middle of the tuned ranges, the first in the middle."""
        return [(at(self.recipe, 0.5), 0), (at(self.recipe, 0.4), 1), (at(self.recipe, 0.6), 2)]

    @cached_property
    def attempt(self) -> tuple[list[Run], Exception | None, list[str]]:
        """The three runs packed; the error if they cannot be; what torch warned of."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                return trained(self.pack(self.members), True), None, [str(w.message) for w in caught]
            except Exception as error:  # the checks say what it means
                return [], error, []

    @property
    def packs(self) -> bool:
        """Whether runs can be trained together."""
        return self.attempt[1] is None

    @cached_property
    def alone(self) -> list[Run]:
        """The three runs, each trained alone."""
        return trained(self.pack(self.members), False)

    @property
    def runs(self) -> list[Run]:
        """The three runs, packed if that can be."""
        return self.attempt[0] if self.packs else self.alone

    @cached_property
    def sweep(self) -> list[list[Run]]:
        """For each value of the default sweep, two seeds of 60 steps."""
        values = swept(self.recipe)
        runs = trained(self.pack([(v, seed) for v in values for seed in (0, 1)], 60), self.packs)
        return [runs[2 * i : 2 * i + 2] for i in range(len(values))]


def on_its_bench(subject: Subject) -> Subject:
    """The same idea, on images where it changes data or network and one step is possible there and not on text."""
    on_text = replace(subject, base=copy.deepcopy(subject.base))  # it may be one that changes the base itself
    if not on_text.of_its_own_kind:
        return subject
    on_images = replace(subject, base=image_bench())
    why = _stopped_by(on_text)
    if why is None or _stopped_by(on_images) is not None:
        return subject
    if _alters_text(on_text):
        return replace(subject, also_on_images=True)
    return replace(on_images, not_on_text=f"{type(why).__name__}: {str(why).partition(chr(10))[0]}")


def _alters_text(subject: Subject) -> bool:
    """Whether an idea's data plan takes text and gives other text of the same shape and kind: it is for text then."""
    recipe, base = subject.recipe, subject.base
    with suppress(Exception):  # it does not take text
        found, given = (plan.batch(seed=0, step=0, size=BATCH) for plan in (recipe.data, base.data))
        alike = all(
            one.shape == other.shape and one.dtype == other.dtype for one, other in zip(found, given, strict=True)
        )
        changed = any((one != other).any() for one, other in zip(found, given, strict=True))
        return alike and recipe.data != base.data and (changed or recipe.model == base.model)
    return False


def _stopped_by(subject: Subject) -> Exception | None:
    """The error that one step ends with, if any."""
    try:
        trained(subject.pack(subject.members[:1], 1), False)
    except Exception as error:
        return error
    return None


def pack_of(recipe: Recipe, judge: Judge, members: Sequence[Member], steps: int, width: int = WIDTH) -> Pack:
    """Runs of a recipe at the bench's rung, or a wider one."""
    described, judged, rung = recipe.describe(), judge.describe(), rung_of(recipe, steps, width)
    specs = [
        RunSpec(recipe=described, rung=rung, hyperparameters=values, seed=seed, judge=judged, base_rung=rung)
        for values, seed in members
    ]
    return Pack(recipe=recipe, specs=tuple(specs), judge=judge)


def ideas_of(module: ModuleType, path: str | Path, run_file: Callable[[], ModuleType] | None = None) -> list[Subject]:
    """The ideas that a file defines, `run_file` being how to run it anew; raises InputError if there is none."""
    file = Path(path).resolve()
    found = [Subject(f, file, bench(), run_file, n) for n, f in vars(module).items() if _is_idea(f, module)]
    if not found:
        raise InputError(
            f"{path} defines no idea. An idea is a public function at the top level of the file that takes a recipe "
            f"and returns one; its docstring is the claim:\n{THREE_LINES}"
        )
    return found


def _is_idea(thing: Any, module: ModuleType) -> bool:
    if not inspect.isfunction(thing) or thing.__module__ != module.__name__ or thing.__name__.startswith("_"):
        return False
    needed = [p for p in inspect.signature(thing).parameters.values() if p.default is p.empty]
    needed = [p for p in needed if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(needed) != 1 or needed[0].kind is inspect.Parameter.KEYWORD_ONLY:
        return False
    stated = needed[0].annotation  # a function of, say, a Tensor is not an idea; one that states nothing is
    return stated is inspect.Parameter.empty or stated is Recipe or str(stated).split(".")[-1].strip("'\"") == "Recipe"
