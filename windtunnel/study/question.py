"""Study: base, ideas, ladder, target, judge and tuning budget; frozen. `run` trains what is missing and answers.

A newcomer would look for hardware here: where a study runs is the launcher's business, never part of the question.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from windtunnel.errors import InputError
from windtunnel.ladder import Ladder, Rung, Size, Target
from windtunnel.notebook import card
from windtunnel.recipe import Judge, Recipe, Tuned
from windtunnel.store import Store
from windtunnel.study.buying import FIRST, purchases
from windtunnel.tune import Tuning

if TYPE_CHECKING:
    from windtunnel.study.answer import Result
    from windtunnel.study.budget import Budget
    from windtunnel.study.job import Watch
    from windtunnel.study.plan import Plan

Idea = Callable[[Recipe], Recipe]
# What fields hold, and an example of each.
KINDS: dict[str, tuple[type, str]] = {
    "base": (Recipe, "wt.recipes.transformer_mup_adamw(data=...)"),
    "ladder": (Ladder, "wt.Ladder.widths((32, 48, 64), depth=2, tokens=10**6)"),
    "target": (Target, "wt.Target(rung=wt.Rung(width=256, depth=2, heads=16, tokens=10**6))"),
    "judge": (Judge, "wt.Judge(data=...)"),
    "tuning": (Tuning, "wt.Tuning(points=5)"),
}


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is asked.

    `judge` None: 65,536 held-out tokens of the base recipe's data. `train_target` True: once the forecast is written,
    the target (which then needs a rung) is trained with `target_seeds` seeds and scored. `seed` shifts all seeds, so
    that a whole study can be repeated independently. `level` is the probability of the printed intervals.

    `half_width` 0.02: rungs are bought (small ones first, see `study.buying`) only until half the interval at the
    target, at `level`, is 2 % of the loss for every recipe; None trains the whole ladder.

    `tuned_on` are other data for the search at the base rung, so that no value was chosen on the data it is judged by
    (2403.09066); None: base and ideas are tuned on the data of the ladder, and verdicts say so.

    Raises InputError for a question that cannot be answered; `check` looks at sizes and data too.
    """

    name: str
    base: Recipe
    ladder: Ladder
    target: Target
    ideas: tuple[Idea, ...] = ()
    judge: Judge | None = None
    tuning: Tuning = Tuning()  # noqa: RUF009  frozen
    train_target: bool = False
    target_seeds: int = 1
    seed: int = 0
    level: float = 0.9
    half_width: float | None = None
    tuned_on: Any = None

    def __post_init__(self) -> None:
        self._check_kinds()
        object.__setattr__(self, "ideas", tuple(self.ideas))
        if not isinstance(self.name, str) or not re.fullmatch(r"[\w .-]*\w[\w .-]*", self.name):
            raise InputError(
                f"Study name is {self.name!r}; use letters, digits, spaces, dots, dashes, at least one letter or digit."
            )
        for field in ("seed", "target_seeds"):
            if not isinstance(getattr(self, field), Integral):
                raise InputError(f"Study {field} is {getattr(self, field)!r}; give a whole number.")
            object.__setattr__(self, field, int(getattr(self, field)))
        if not isinstance(self.level, Real) or not 0 < self.level < 1:
            raise InputError(f"Study level is {self.level!r}; it is a probability, 0.9 for a 90 % interval.")
        if self.train_target and self.target.rung is None:
            raise InputError("Study train_target is True but the target has no rung; give Target(rung=Rung(...)).")
        if self.train_target and self.target_seeds < 1:
            raise InputError(f"Study target_seeds is {self.target_seeds}; at least one run is needed to score.")
        self._check_half_width()
        index = self.tuning.recheck_rung
        least = 1 if self.tuned_on is None else 0  # on other data the base rung itself is worth a second look
        if index is not None and not least <= index < len(self.ladder.rungs):
            raise InputError(
                f"Tuning recheck_rung is {index}; the ladder's rungs above the base are 1 to "
                f"{len(self.ladder.rungs) - 1}."
            )
        self._check_tuned_on()
        self.recipes()

    def _repr_html_(self) -> str:
        judge, seeds = self.judged_by(), self.ladder.seeds
        until = "" if self.half_width is None else f", until ± {100 * self.half_width:.3g} %"
        facts = {
            "target": str(self.target),
            "ladder": f"{len(self.ladder.rungs)} rungs, {seeds} seed(s) each{until}",
            "judge": f"{judge.tokens:,} held-out tokens",
            "target is trained": f"yes, {self.target_seeds} seed(s)" if self.train_target else "no",
        }
        rows = [(name, _first_line(claim)) for name, claim in self.claims().items()]
        return card(f"Study {self.name}", facts=facts, head=("recipe", "claim"), rows=rows)

    def recipes(self) -> dict[str, Recipe]:
        """'base' and each idea's name to its recipe."""
        return self._recipes(self.base)

    def tuned_recipes(self) -> dict[str, Recipe]:
        """The same as they are tuned: on the data of `tuned_on`, where it is given."""
        return self._recipes(self.base if self.tuned_on is None else self.base.but(data=self.tuned_on))

    def _recipes(self, base: Recipe) -> dict[str, Recipe]:
        found = {"base": base}
        for idea in self.ideas:
            name = idea_name(idea)
            if name == "base":
                raise InputError(
                    "An idea of the study is called 'base', which is what the recipe without ideas is called; give the "
                    "function another name."
                )
            if name in found:
                raise InputError(f"Two ideas of the study are called {name!r}; give them different function names.")
            made = idea(base)
            if not isinstance(made, Recipe):
                raise InputError(
                    f"The idea {name} returned a {type(made).__name__}; an idea takes a Recipe and returns one, for "
                    f"example base.but(optimizer=...)."
                )
            found[name] = made
        return found

    def claims(self) -> dict[str, str]:
        """Recipe name to what it claims: an idea's docstring."""
        return {"base": ""} | {idea_name(idea): inspect.getdoc(idea) or "" for idea in self.ideas}

    def judged_by(self) -> Judge:
        """The judge, the default filled in."""
        return self.judge or Judge(data=self.base.data)

    def tuning_judged_by(self) -> Judge:
        """By what the search at the base rung is judged: held-out examples of the data it is made on."""
        judge = self.judged_by()
        return judge if self.tuned_on is None else replace(judge, data=self.tuned_on)

    def seeds(self, count: int) -> list[int]:
        """The first `count` seeds; base and ideas share them."""
        return [1000 * self.seed + i for i in range(count)]

    def recheck_index(self) -> int:
        """The rung of the transfer check unless the study says otherwise: the middle one of those that are wider.

        Of those, the ones with the base rung's horizon come first: that the optimum moves with the horizon is known.
        With a `half_width` it is one of the rungs that are bought first, so it may be another one than without.
        """
        if self.tuning.recheck_rung is not None:
            return self.tuning.recheck_rung
        sure = self.ladder.rungs if self.half_width is None else purchases(self.ladder)[0]
        base, above = self.ladder.base, [(i, rung) for i, rung in enumerate(self.ladder.rungs) if i and rung in sure]
        wider = [i for i, rung in above if rung.width > base.width]
        level = [i for i in wider if self.ladder.rungs[i].tokens == base.tokens]
        tried = level or wider or [i for i, _ in above]
        return tried[(len(tried) - 1) // 2]

    def size(self, recipe: Recipe, rung: Rung) -> Size:
        """Parameters and FLOPs of a recipe's model at a rung."""
        return recipe.size(rung)

    def check(self) -> None:
        """Raise InputError if the target lies inside the ladder or the data are too short for what is asked."""
        top = self.size(self.base, self.ladder.top)
        ladder_flops = top.training_flops(self.ladder.top.tokens)
        asked = self.target_flops()
        if asked is not None and asked <= ladder_flops:
            raise InputError(
                f"The target ({self.target}, {asked:.3g} FLOPs) lies inside the ladder: its top rung "
                f"({self.ladder.top}) takes {ladder_flops:.3g} FLOPs. Give a larger target, or a smaller ladder."
            )
        self._check_heads()
        self._check_held_out()
        self._check_batches()
        from windtunnel.parts.data import check_length

        rungs = [*self.ladder.rungs, *([self.target.rung] if self.target.rung is not None else [])]
        for recipe in self.recipes().values():
            for rung in rungs:
                check_length(recipe.data_at(rung), rung.tokens)
        for recipe in self.tuned_recipes().values():
            check_length(recipe.data, self.ladder.base.tokens)

    def _check_kinds(self) -> None:
        """Raise InputError for a field that is no part of a question: a name where the thing is meant, or a number."""
        for field, (kind, example) in KINDS.items():
            given = getattr(self, field)
            if not isinstance(given, kind) and not (field == "judge" and given is None):
                raise InputError(
                    f"Study {field} is {given!r}; it takes a {kind.__name__}, for example {field}={example}."
                )
        if not isinstance(self.ideas, Iterable):
            name = getattr(self.ideas, "__name__", "idea")
            raise InputError(f"Study ideas is {self.ideas!r}; give the functions in a list: ideas=[{name}].")

    def _check_half_width(self) -> None:
        if self.half_width is None:
            return
        if not isinstance(self.half_width, int | float) or not 0 < self.half_width < 1:
            raise InputError(
                f"Study half_width is {self.half_width!r}; it is a share of the loss, 0.02 for 2 % either way."
            )
        if len(purchases(self.ladder)) == 1:
            raise InputError(
                f"Study half_width is {self.half_width:g}, but the ladder has no size beyond the {FIRST} that are "
                f"always trained, so nothing could be left out. Give more sizes, or leave half_width out."
            )

    def _check_tuned_on(self) -> None:
        """Other data of the same kind: not the ladder's, not the judge's, nor the same files cut otherwise."""
        if self.tuned_on is None:
            return
        for where, data in {"the base is trained on": self.base.data, "the judge holds": self.judged_by().data}.items():
            same = getattr(self.tuned_on, "source", None)
            if self.tuned_on.fingerprint() == data.fingerprint() or (
                same is not None and same == getattr(data, "source", None)
            ):
                raise InputError(
                    f"tuned_on is the data that {where}: values would be chosen on what they are judged by. Give "
                    f"other data, or leave tuned_on out and have the verdict say so."
                )
            shapes = [(s.classes, s.tokens_per_example, s.example_shape) for s in (self.tuned_on.shape(), data.shape())]
            if shapes[0] != shapes[1]:
                raise InputError(
                    f"tuned_on has (classes, tokens an example, shape) {shapes[0]}, the data that {where} {shapes[1]}; "
                    f"a value carries over only between data of one kind. Cut both into examples alike."
                )

    def _check_heads(self) -> None:
        """Heads of another width are another family of models, with another attention scale."""
        target = self.target.rung
        widths = {rung.width // rung.heads for rung in self.ladder.rungs}
        if target is not None and len(widths) == 1 and target.width // target.heads not in widths:
            (width,) = widths
            raise InputError(
                f"The target's heads are {target.width // target.heads} wide (width {target.width}, heads "
                f"{target.heads}), the ladder's {width}; it is another family of models. Give heads="
                f"{max(1, target.width // width)}."
            )

    def _check_held_out(self) -> None:
        """A corpus split otherwise would train on documents that the judge holds out."""
        judged = self.judged_by().data
        for name, recipe in self.recipes().items():
            source, share = getattr(recipe.data, "source", None), getattr(recipe.data, "validation", None)
            if source is not None and source == getattr(judged, "source", None) and share != judged.validation:
                raise InputError(
                    f"{name} holds out {share} of the judge's own corpus, the judge {judged.validation}: documents "
                    f"that are judged would be trained on. Give both the same validation=."
                )

    def _check_batches(self) -> None:
        """A number of examples is whole and the same for all members of a pack; a search knows neither."""
        for name, recipe in self.recipes().items():
            if isinstance(getattr(recipe.batch, "examples", None), Tuned):
                raise InputError(
                    f"{name} has batch={recipe.batch!r}: the examples of a step are no number that is searched. Write "
                    f"an idea for each batch, base.but(batch=FixedBatch(examples=16)), and compare them; each is tuned "
                    f"by itself."
                )

    def target_flops(self) -> float | None:
        """FLOPs to train the target, None when the target states too little to know."""
        target = self.target
        if target.rung is not None:
            return self.size(self.base, target.rung).training_flops(target.rung.tokens)
        if target.flops is not None:
            return target.flops
        return 6.0 * target.params * target.tokens if target.params and target.tokens else None

    def plan(self, store: Store) -> Plan:
        """What is missing from the store, its FLOPs, minutes and memory; trains nothing.

        Raises InputError for what `run` would refuse.
        """
        from windtunnel.study.plan import plan

        self.check()
        return plan(self, store)

    def run(
        self,
        store: Store,
        *,
        launcher: Any = None,
        watch: Watch | None = None,
        budget: str | Budget | None = None,
        precision: str = "float32",
    ) -> Result:
        """Train what is missing, write the forecasts, and answer; a second call goes on where the first stopped.

        `budget` is in FLOPs ("2e15") or device time ("2h"), over all calls together: when it is spent, what is in
        flight is checkpointed and Paused raised. `precision`, "float32" or "bfloat16", is that of the matrix products
        of what is trained now: runs that the store holds are taken as they are.
        """
        from windtunnel.study.budget import Budget
        from windtunnel.study.job import run

        self.check()
        asked = Budget.parse(budget) if isinstance(budget, str) else budget
        return run(self, store, launcher=launcher, watch=watch, budget=asked, precision=precision)

    def answer(self, store: Store) -> Result:
        """The answer from stored runs alone; what cannot be answered yet is missing from it."""
        from windtunnel.study.answer import answer

        return answer(self, store)


def _first_line(claim: str) -> str:
    return claim.partition("\n")[0]


def idea_name(idea: Idea) -> str:
    """The name of an idea: its function's."""
    name = getattr(idea, "__name__", None)
    if not callable(idea) or not name or name == "<lambda>":
        raise InputError(f"{idea!r} is not an idea; an idea is a named function that takes a Recipe and returns one.")
    return name
