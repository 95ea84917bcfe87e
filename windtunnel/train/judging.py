"""How the members of a pack are judged: when, by which held-out examples, with which weights, and by what probes.

A newcomer would judge the weights that are trained; an optimizer may say that others are the result (an average), and
then those are judged and probed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from windtunnel.errors import InputError
from windtunnel.ladder import Rung
from windtunnel.meaning import name_of
from windtunnel.recipe import Judge, Recipe
from windtunnel.train.data import judge_batches, judge_steps
from windtunnel.train.memory import is_out_of_memory
from windtunnel.train.pack import Group, Pack, build_model
from windtunnel.train.state import State
from windtunnel.train.steps import Within, counted, judgement, named_params, readout, summed

OWN = ("accuracy",)  # metrics that a record has without probes


class Judging:
    """The judge of a pack, on its device."""

    def __init__(
        self, pack: Pack, model: nn.Module, groups: Sequence[Group], steps_of: Sequence[int],
        device: torch.device, packed: bool, within: Within = nullcontext,
    ) -> None:  # fmt: skip
        self.model, self.groups, self.device, self.probes = model, groups, device, pack.judge.probes
        self.loss = pack.judge.loss
        self.together = judgement(model, groups, packed, within, self.loss)
        self.alone = judgement(model, groups, False, within, self.loss)
        self.one_by_one = not packed
        self.readout = readout(groups, pack.recipe.optimizer, packed)
        self.held_out = judge_batches(pack.judge, device, _at_once(pack))
        self.at = [judge_steps(pack.judge, steps) for steps in steps_of]

    def due(self, state: State, member: int) -> bool:
        """Whether a member is judged after the step that was just taken."""
        return state.step in self.at[member]

    def judge(self, state: State) -> tuple[np.ndarray, np.ndarray]:
        """Loss and accuracy of every member for whom it is due; the others' numbers are NaN, as is the accuracy where
        the judge has a loss of its own."""
        due = [i for i, row in enumerate(state.rows) if any(self.due(state, m) for m in row)]
        params = self.judged(state, due)
        self.model.eval()
        with torch.no_grad(), _attention_as_trained():
            sums = [self._summed(params, x, y) for x, y in self.held_out]
        self.model.train()
        count = sum(counted(y, self.loss) for _, y in self.held_out)
        both = [torch.stack(values).double().sum(0).cpu().numpy() / count for values in zip(*sums, strict=True)]
        loss, accuracy = (np.full(len(self.at), np.nan) for _ in both)
        for place, i in enumerate(due):
            members = [m for m in state.rows[i] if self.due(state, m)]
            loss[members], accuracy[members] = both[0][place], both[1][place]
        check_positive(both[0], self.loss)
        return loss, accuracy

    def _summed(self, params: list[Tensor], inputs: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        """Row by row once torch has refused to batch what it batches in training, as it does a group norm of images."""
        if not self.one_by_one:
            try:
                return self.together(params, inputs, targets)
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                self.one_by_one = True
        rows = [self.alone([p[i : i + 1] for p in params], inputs, targets) for i in range(len(params[0]))]
        return tuple(torch.cat(values) for values in zip(*rows, strict=True))

    def judged(self, state: State, rows: Sequence[int]) -> list[Tensor]:
        """The weights of some rows that are the result of training."""
        with torch.no_grad():
            params = self.readout(state.params, state.states)
        if len(rows) == len(state.rows):
            return params
        index = torch.tensor(list(rows), dtype=torch.long, device=self.device)
        return [p.index_select(0, index) for p in params]

    def weights(self, state: State, row: int) -> dict[str, Tensor]:
        """The weights of one row that are the result of training, by name."""
        (found,) = named_params(self.groups, self.judged(state, [row]))
        return found

    def probe(self, state: State, members: Sequence[int]) -> None:
        """Ask all probes about members that have reached their end."""
        if not self.probes:
            return
        for row, held in enumerate(state.rows):
            ended = [m for m in held if m in members]
            if ended:
                found = self._probed(self.weights(state, row))
                state.probed |= dict.fromkeys(ended, found)

    def _probed(self, weights: Mapping[str, Tensor]) -> dict[str, float]:
        network, found = copy.deepcopy(self.model).eval(), {}
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.copy_(weights[name])
        for probe in self.probes:
            for name, value in _numbers(probe, probe(network, self.held_out)).items():
                if name in found or (name in OWN and self.loss is None):
                    raise InputError(f"Two probes of the judge measure {name!r}; give one another name.")
                found[name] = value
        return found


def check_taken(recipe: Recipe, rung: Rung, judge: Judge) -> None:
    """Raise InputError where a recipe's network at a rung takes its own data and not the judge's, or the other way
    round, or tells fewer outcomes apart than the judge's data have.

    It is built only where the data differ in kind. What takes neither here (a kernel of another device), a fault in a
    part's code, and the last of several stretches, which may have other data, are left to their runs.
    """
    if recipe.phases is not None or recipe.data.fingerprint() == judge.data.fingerprint():
        return
    try:
        inputs = recipe.data.batch(seed=0, step=0, size=1)[0], *next(iter(judge.data.held_out(size=1, tokens=1)))
        own, held, targets = (torch.from_numpy(each) for each in inputs)
        if _kind(own) == _kind(held) and recipe.data.shape().classes == judge.data.shape().classes:
            return
        model = build_model(recipe, rung).eval()
    except Exception:
        return
    (_, why), (outputs, why_not) = _outputs(model, own), _outputs(model, held)
    mine, its = (f"{type(data).__name__} ({_kind(x)})" for data, x in ((recipe.data, own), (judge.data, held)))
    other = own.long() if own.is_floating_point() else own.float()
    if why and (outputs is not None or _outputs(model, other)[0] is not None):  # it runs here, on other inputs
        raise InputError(f"Its network does not take its own data's inputs, {mine}: {why}. Change model and data both.")
    if why_not and not why:
        raise InputError(
            f"Its network takes its own data's inputs, {mine}, but not the judge's, {its}: {why_not}. Give recipe and "
            f"judge data that are cut into examples alike."
        )
    if outputs is not None:
        _check_outcomes(outputs, targets, judge, its)


def _check_outcomes(outputs: Tensor, targets: Tensor, judge: Judge, its: str) -> None:
    classes = judge.data.shape().classes
    if judge.loss is None and outputs.shape[-1] < classes:
        raise InputError(
            f"Its network tells {outputs.shape[-1]} outcomes apart, the judge's data, {its}, have {classes}. Give "
            f"recipe and judge data of one kind."
        )
    try:
        summed(outputs, targets, judge.loss)
    except Exception as error:
        raise InputError(
            f"The judge cannot set its network's outputs {tuple(outputs.shape)} beside targets {tuple(targets.shape)}: "
            f"{error}"
        ) from error


def _kind(inputs: Tensor) -> str:
    return f"{str(inputs.dtype).removeprefix('torch.')} {tuple(inputs.shape[1:])}"


def _outputs(model: nn.Module, inputs: Tensor) -> tuple[Tensor | None, str]:
    """Of zeros of this kind, for every vocabulary has a 0; or why there are none."""
    try:
        with torch.no_grad():
            return model(torch.zeros_like(inputs)).float(), ""
    except Exception as error:
        return None, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def check_positive(judged: np.ndarray, loss: Any) -> None:
    """Raise InputError where a judge's own loss came out at or below 0: laws are of its logarithm."""
    wrong = judged[judged <= 0]
    if loss is not None and len(wrong):
        raise InputError(
            f"The judge's {name_of(loss)} came out as {wrong[0]:.4g}; laws are fitted to the logarithm of the loss, so "
            f"it must be positive. Add a constant to it, or judge by another."
        )


@contextmanager
def _attention_as_trained() -> Iterator[None]:
    """Keep torch's attention layers from the kernel that they take by themselves for inference: rows of a pack would be
    computed one by one."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _at_once(pack: Pack) -> int | None:
    """Held-out examples that memory was found to bear at once; None: nothing is known of it."""
    return None if pack.pieces == 1 else -(-(pack.rung.batch or 1) // pack.pieces)


def _numbers(probe: Any, said: Any) -> dict[str, float]:
    if not isinstance(said, Mapping):
        raise InputError(f"{type(probe).__name__} returned {said!r}; a probe returns a dict of names to numbers.")
    return {str(name): float(value) for name, value in said.items()}
