"""A study's page data, again and again while it runs: what was read and fitted once is kept.

What is in flight is what the checkpoints in the store say, which is all that another process can know of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from windtunnel.ladder import Rung
from windtunnel.store import Store
from windtunnel.study.answer import Result, answered
from windtunnel.study.buying import bought
from windtunnel.study.page import page_data
from windtunnel.study.question import Study
from windtunnel.study.stages import Ask, Stages
from windtunnel.train import checkpoint


class Living:
    """Call it for the data of the page as of now; `command`, asked of what is known then, and `file` say how to repeat
    the study."""

    def __init__(self, study: Study, store: Store, command: Callable[[Result], str], file: str) -> None:
        self.stages, self.command, self.file = Stages(study, store), command, file

    def __call__(self) -> dict[str, Any]:
        result = answered(self.stages)
        data = page_data(result, command=self.command(result), study_file=self.file)
        return data | {"flying": flying(self.stages)}


def flying(stages: Stages) -> list[dict[str, Any]]:
    """Packs of the study that have a checkpoint and a run that is not recorded: what, and what share is done."""
    rungs = bought(stages).rungs
    asked = {ask.spec.key: ask for name in stages.recipes for ask in _asks(stages, name, rungs)}
    packs, found = stages.store.place.below("packs"), []
    for members in checkpoint.interrupted(packs):
        asks = [asked[key] for key in members if key in asked]
        if len(asks) == len(members) and stages.missing(asks):
            found.append(_told(stages, asks, packs))
    return found


def _asks(stages: Stages, name: str, rungs: Sequence[Rung]) -> list[Ask]:
    state = stages.tuning(name)
    return [*state.asked, *stages.climb(name, state.values, rungs), *stages.target(name, state.values)]


def _told(stages: Stages, asks: list[Ask], packs: Any) -> dict[str, Any]:
    pack = stages.packed(asks)
    step = checkpoint.newest_facts(packs.below(pack.key)).get("step")
    done = None
    if step is not None and pack.recipe.phases is None:
        done = min(1.0, step * pack.tokens_per_step() / pack.rung.tokens)
    return {"recipe": asks[0].name, "stage": asks[0].stage, "rung": str(pack.rung), "runs": len(asks), "done": done}
