"""Residual branches as others write them: all are found, or the model is refused; none is scaled by half."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_depth import MLP
from torch import nn

from windtunnel.errors import InputError
from windtunnel.scaling.adopt import adopt

TOKENS = torch.zeros(1, 6, dtype=torch.long)


class RMSNorm(nn.Module):
    """By hand, as transformers has it: a product with what was computed from the same tensor."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Block(nn.Module):
    """x + first(norm x), then `add` with second; `add` is what differs."""

    def __init__(self, width, add):
        super().__init__()
        self.norm, self.first, self.second, self.add = nn.LayerNorm(width), MLP(width), MLP(width), add
        self.after, self.gate, self.place = RMSNorm(width), nn.Linear(width, width), nn.Embedding(6, width)

    def forward(self, x):
        x = x + self.first(self.norm(x))
        return self.add(self, x, self.norm(x))


class Net(nn.Module):
    def __init__(self, width, depth, add):
        super().__init__()
        self.embedding, self.shared = nn.Embedding(32, width), MLP(width)
        self.blocks = nn.ModuleList(Block(width, add) for _ in range(depth))
        for block in self.of_blocks():
            object.__setattr__(block, "net", self)  # seen, not owned
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 32)

    def of_blocks(self) -> list[Any]:
        return list(self.blocks)

    def forward(self, tokens):
        x = self.embedding(tokens)
        for block in self.of_blocks():
            x = block(x)
        return self.head(self.norm(x))


def ends(add, build=Net, **more):
    given = {"base": (16, 2), "target": (16, 8), "optimizer": "entrywise", "example": TOKENS} | more
    roles = {"*.place.weight": "embedding"}
    found = adopt(lambda width, depth: build(width, depth, add), roles=roles, **given).table.residual
    assert set(found.values()) == {0.25}
    return {name.partition(".3.")[2] for name in found if ".3." in name}


def _written(block, x, y):
    out = torch.zeros_like(x)
    out[:, :3], out[:, 3:] = block.second(y)[:, :3], block.second(y)[:, 3:]
    return x + out


def _noted(block, x, y):
    branch = block.second(y)
    object.__setattr__(block, "penalty", branch.pow(2).mean())
    return x + branch


FOUND = {
    "subtracted": (lambda b, x, y: x - b.second(y), "second.down"),
    "with alpha": (lambda b, x, y: torch.add(x, b.second(y), alpha=0.5), "second.down"),
    "decayed stream": (lambda b, x, y: 0.5 * x + b.second(y), "second.down"),
    "another dtype": (lambda b, x, y: (x.double() + b.second(y).double()).float(), "second.down"),
    "views": (lambda b, x, y: (x.flatten(0, 1) + b.second(y).flatten(0, 1)).view(x.shape), "second.down"),
    "copied": (lambda b, x, y: x.clone() + b.second(y), "second.down"),
    "summed": (lambda b, x, y: sum([x, b.second(y)]), "second.down"),
    "shifted": (lambda b, x, y: x + b.second(y).roll(1, 1), "second.down"),
    "gated": (lambda b, x, y: x + torch.sigmoid(b.gate(y)) * b.second(y), "second.down"),
    "normed": (lambda b, x, y: x + b.after(b.second(y)), "after"),
    "used twice": (lambda b, x, y: x + b.second(y) + b.second(b.norm(y)), "second.down"),
}


@pytest.mark.parametrize("how", FOUND)
def test_both_branches_are_found_however_the_second_is_added(how):
    add, end = FOUND[how]
    assert ends(add) == {"first.down", end}


UNSEEN = "reaches the end of its stack past every residual branch that was found"
BESIDES = "ends a residual branch, yet what it returns is also used for something else"
REFUSED = {
    "interpolated": (lambda b, x, y: torch.lerp(x, b.second(y), 0.5), UNSEEN),
    "stacked": (lambda b, x, y: torch.stack([x, b.second(y)]).sum(0), UNSEEN),
    "multiplied and added": (lambda b, x, y: torch.addcmul(x, torch.ones_like(x), b.second(y)), UNSEEN),
    "places in every block": (
        lambda b, x, y: x + b.place(torch.arange(6, device=x.device)) + b.second(y), UNSEEN,
    ),
    "a penalty": (_noted, BESIDES),
    "inside another branch": (lambda b, x, y: x + b.second(b.first(y)), BESIDES),
    "a module of the model": (lambda b, x, y: x + b.net.shared(y), "ends 2 residual branches and stands outside"),
    "slices": (_written, "adds to the stream what no module of it returns"),
}  # fmt: skip


@pytest.mark.parametrize("how", REFUSED)
def test_what_multipliers_would_miss_or_touch_besides_is_refused(how):
    add, why = REFUSED[how]
    with pytest.raises(InputError, match=why):
        ends(add)


def plain(block, x, y):
    return x + block.second(y)


def test_two_parts_of_one_stream_are_no_branch_of_each_other():
    class Mixed(Net):
        def forward(self, tokens):
            start = x = self.embedding(tokens)
            for block in self.of_blocks():
                x = block(0.9 * x + 0.1 * start)
            return self.head(self.norm(x + start))

    assert ends(plain, Mixed) == {"first.down", "second.down"}


def test_a_first_block_that_is_no_branch_is_not_scaled_as_one():
    class First(Net):
        def forward(self, tokens):
            x = self.embedding(tokens)
            for number, block in enumerate(self.of_blocks()):
                x = x + block.second(x) if number else block.second(x)
            return self.head(self.norm(x))

    with pytest.raises(InputError, match=BESIDES):
        ends(plain, First)


def test_a_kind_of_block_that_the_base_lacks_is_refused():
    class Hybrid(Net):
        def __init__(self, width, depth, add):
            super().__init__(width, depth, add)
            for block in self.of_blocks()[3::4]:
                block.wide = MLP(width)

    with pytest.raises(InputError, match=r"blocks\.3 of the target holds tensors that no block of the base"):
        ends(plain, Hybrid)


def test_shared_weights_do_not_lose_their_branchs_multiplier():
    class Shared(Net):
        def __init__(self, width, depth, add):
            super().__init__(width, depth, add)
            for block in self.of_blocks():
                block.second.down = nn.Linear(2 * width, width, bias=False)
                block.second.down.weight = self.of_blocks()[0].second.down.weight

    assert ends(plain, Shared) == {"first.down", "second.down"}


def test_an_encoders_branches_are_not_taken_for_parts_of_the_decoders():
    class Both(Net):
        def __init__(self, width, depth, add):
            super().__init__(width, depth, add)
            self.encoder = nn.ModuleList(MLP(width) for _ in range(depth))

        def forward(self, tokens):
            seen = self.embedding(tokens)
            for layer in self.encoder:
                seen = seen + layer(seen)
            x = self.embedding(tokens)
            for block in self.of_blocks():
                x = x + block.second(x * seen.mean(1, keepdim=True))
            return self.head(self.norm(x))

    assert ends(plain, Both) == {"down", "second.down"}


def test_lists_of_norms_need_no_branch_and_modules_may_return_lists():
    class Listed(MLP):
        def forward(self, x):
            return [torch.relu(super().forward(x)), x]

    class Lists(Net):
        def __init__(self, width, depth, add):
            super().__init__(width, depth, add)
            self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
            self.blocks = nn.ModuleList(Listed(width) for _ in range(depth))

        def forward(self, tokens):
            x = self.embedding(tokens)
            for norm, block in zip(self.norms, self.of_blocks(), strict=True):
                x = x + block(norm(x))[0]
            return self.head(x)

    scales = adopt(
        lambda width, depth: Lists(width, depth, plain), base=(16, 2), target=(16, 8), optimizer="entrywise",
        example=TOKENS,
    )  # fmt: skip
    assert scales.table.residual == {f"blocks.{number}": 0.25 for number in range(8)}
    scales.attach(model := Lists(16, 8, plain))
    assert model(TOKENS).shape == (1, 6, 32)


def test_stated_branches_that_would_be_scaled_twice_are_refused():
    with pytest.raises(InputError, match=r"match blocks\.0\.first\.up and blocks\.0\.first, which holds it"):
        ends(plain, branches=("*.first*", "*.second"))
    with pytest.raises(InputError, match=r"branches is one string, '\*\.down'"):
        ends(plain, branches="*.down")
