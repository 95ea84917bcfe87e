"""The gallery's ladder of ideas that adapt: byte transformers trained on English prose, then moved to source code.

Half of the tokens are the prose's, with the whole network and the same for all; the other half is what ideas change.
They are judged on the code. A newcomer would compare adapters of networks that were pre-trained with each one's rate.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import wraps

import windtunnel as wt
from studies.gallery.adapted import PROSE, prose
from studies.gallery.networks import bytes_base
from windtunnel.ideas.lora_sb import lora_sb, low_rank_adaptation, random_basis
from windtunnel.ideas.random_subspace import random_subspace
from windtunnel.parts.optimizers import AdamW
from windtunnel.parts.phases import Adapting
from windtunnel.recipe import Recipe

TOKENS = 102_400
Idea = Callable[[Recipe], Recipe]


def after_prose(idea: Idea) -> Idea:
    """The idea, with the prose before it."""

    @wraps(idea)
    def changed(base: Recipe) -> Recipe:
        return with_prose(idea(base))

    return changed


def with_prose(recipe: Recipe) -> Recipe:
    """Half of the tokens on prose first, where the prose is on this machine."""
    first = prose() if PROSE.is_file() else None
    return recipe.but(phases=replace(recipe.phases or Adapting(), first=first, share=0.5))


base = bytes_base().but(optimizer=AdamW(lr=wt.tuned(2**-9, 2**-3)))

study = wt.Study(
    name="gallery of adapters",
    base=with_prose(base),
    ideas=[after_prose(idea) for idea in (low_rank_adaptation, lora_sb, random_basis, random_subspace)],
    ladder=wt.Ladder.widths((16, 32, 48), depth=2, head_width=8, tokens=TOKENS, seeds=3),
    target=wt.Target(rung=wt.Rung(width=160, depth=2, heads=20, tokens=TOKENS)),
    judge=wt.Judge(data=base.data, tokens=65_536, evaluations=1),
    tuning=wt.Tuning(points=5, seeds=1),
)
