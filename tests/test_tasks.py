"""Tasks with answers that can be checked: they are right, prompts held out are never trained on, scores are scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import windtunnel as wt
from windtunnel.errors import InputError
from windtunnel.parts.data.tasks import BLANK, CLASSES, CLOSES, EQUALS, FIRST_KIND, KINDS, LENGTH, OPENS, PLUS
from windtunnel.parts.objectives.on_answers import OnAnswers, answers
from windtunnel.parts.probes import Answers


def examples(plan, steps=20, size=32, seed=0):
    """Whole examples: the inputs and the last target."""
    batches = [plan.batch(seed=seed, step=step, size=size) for step in range(steps)]
    return [np.append(x, y[-1]) for xs, ys in batches for x, y in zip(xs, ys, strict=True)]


def parted(example):
    """Kind, prompt and answer."""
    at = list(example).index(EQUALS)
    rest = list(example[at + 1 :])
    return KINDS[example[0] - FIRST_KIND], list(example[1:at]), rest[: rest.index(BLANK)]


def solved(kind, prompt):
    if kind == "copy":
        return prompt
    if kind == "sort":
        return sorted(prompt)
    if kind == "add":
        a, b = (int("".join(map(str, part))) for part in (prompt[:2], prompt[3:]))
        assert prompt[2] == PLUS
        return [int(d) for d in f"{a + b:03}"]
    stack = []
    for token in prompt:
        if token in OPENS:
            stack.append(CLOSES[OPENS.index(token)])
        else:
            assert stack.pop() == token
    return stack[::-1]


@pytest.mark.parametrize("shortest", [1, 4, 8])
def test_every_answer_is_right_and_every_kind_comes_as_often(shortest):
    found = [parted(example) for example in examples(wt.data.tasks(shortest=shortest))]
    assert all(answer == solved(kind, prompt) for kind, prompt, answer in found)
    counts = [sum(kind == name for kind, _, _ in found) for name in KINDS]
    assert min(counts) > 0.2 * len(found)
    lengths = {len(prompt) for kind, prompt, _ in found if kind != "add"}
    assert lengths == set(range(shortest, 9))


def test_a_prompt_that_is_held_out_is_never_trained_on():
    plan = wt.data.tasks(shortest=1)  # short prompts recur, so a split by number would leak
    held = [
        np.append(x, y[-1])
        for xs, ys in plan.held_out(size=64, tokens=2000 * LENGTH)
        for x, y in zip(xs, ys, strict=True)
    ]
    held_prompts = {(kind, tuple(prompt)) for kind, prompt, _ in map(parted, held)}
    trained = {(kind, tuple(prompt)) for kind, prompt, _ in map(parted, examples(plan, steps=200))}
    assert len(held_prompts) > 200 and len(trained) > 2000 and not held_prompts & trained


def test_a_batch_is_a_function_of_seed_and_step():
    plan = wt.data.tasks()
    one, again = (plan.batch(seed=1, step=5, size=8)[0] for _ in range(2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, plan.batch(seed=2, step=5, size=8)[0])
    assert not np.array_equal(one, plan.batch(seed=1, step=6, size=8)[0])
    assert plan.fingerprint() != wt.data.tasks(("copy",)).fingerprint() != wt.data.tasks(shortest=5).fingerprint()


def test_only_answers_are_graded():
    example = torch.tensor(examples(wt.data.tasks(("add",)), steps=1, size=1)[0])
    targets = example[None, 1:]
    graded = targets[answers(targets)].tolist()
    assert len(graded) == 4 and graded[-1] == BLANK and graded[:3] == parted(example.numpy())[2]
    outputs = torch.zeros(1, LENGTH - 1, CLASSES)
    losses = OnAnswers()(outputs, targets)
    assert float(losses.mean()) == pytest.approx(np.log(CLASSES), rel=1e-5)  # the mean is over answers
    assert int((losses > 0).sum()) == 4


class Knows(nn.Module):
    """Says the next token of the examples it was given, but errs in the last token of an answer of one kind."""

    def __init__(self, targets, errs):
        super().__init__()
        self.targets, self.errs = targets, errs

    def forward(self, inputs):
        said = self.targets.clone()
        wrong = (inputs[:, 0] == FIRST_KIND + KINDS.index(self.errs))[:, None] & answers(said) & (said == BLANK)
        said[wrong] = 0
        return 20.0 * torch.nn.functional.one_hot(said, CLASSES).float()


def test_an_answer_is_right_if_every_token_is():
    inputs, targets = (torch.tensor(a) for a in wt.data.tasks().batch(seed=0, step=0, size=64))
    found = Answers()(Knows(targets, "sort"), [(inputs, targets)])
    assert found["answer_accuracy_sort"] == 0 and found["answer_accuracy_copy"] == 1
    share = float((inputs[:, 0] != FIRST_KIND + KINDS.index("sort")).float().mean())
    assert found["answer_accuracy"] == pytest.approx(share)
    assert found["answer_loss_sort"] > 1 > found["answer_loss_copy"]


@pytest.mark.parametrize(
    "wrong", [{"kinds": ()}, {"kinds": ("multiply",)}, {"kinds": ("copy", "copy")}, {"shortest": 9}]
)
def test_what_is_no_task_is_refused(wrong):
    with pytest.raises(InputError, match="kinds are some of"):
        wt.data.tasks(**wrong)
