"""The engine of a pack: one step of all its rows, as written or compiled, and who leaves when.

Everything in an Engine stays the same while it trains; what changes is the State it is given. A newcomer would look for
the members here: rows are trained, and a row may be several members that are one run so far.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from windtunnel.recipe import is_rate
from windtunnel.train.compiled import PAYS_FROM, compiled
from windtunnel.train.cutting import check_cut
from windtunnel.train.data import check_drawn, check_judged, pack_batch
from windtunnel.train.extras import (
    OF_NETWORKS,
    Visits,
    drawn,
    first_memory,
    given_of,
    listening,
    needs_of,
    noise_of,
    remembered,
    told_to,
)
from windtunnel.train.handing import ended_with, forked, replaced
from windtunnel.train.judging import Judging
from windtunnel.train.pack import (
    Group,
    Pack,
    as_built,
    build_model,
    check_buffers,
    check_count,
    groups_of,
    initial_params,
    stacked_hyperparameters,
    table_of,
)
from windtunnel.train.precision import computed_in
from windtunnel.train.rows import first_rows, multiplier, parted, steps_of
from windtunnel.train.state import State
from windtunnel.train.steps import Given, Tree, first_states, gradient, look_ahead, update, with_numbers


class Engine:
    """Everything about a pack that does not change while it trains."""

    def __init__(self, pack: Pack, device: torch.device, packed: bool, compile: bool | None = None) -> None:
        self.pack, self.device, self.packed, self.compile = pack, device, packed, compile
        self.precision = pack.precision
        self.recipes = [pack.recipe_of(i) for i in range(len(pack.specs))]
        self.data, self.rung = pack.recipe.data_at(pack.rung), pack.rung
        self.tokens_per_step = pack.tokens_per_step()
        self.steps_of = steps_of(pack, self.tokens_per_step)
        self.steps = max(self.steps_of)
        self.stretch, self.first_step = 0, 0  # of a run in stretches: which one, and the step of its data it begins at
        self.keeps, self.last = False, dict[int, dict[str, Tensor]]()  # of a run in stretches: members' last weights
        self.forked, self.ends = False, dict[int, dict[str, Tensor]]()  # and all that a fork of them goes on with
        self.table = table_of(pack.recipe, self.rung, pack.specs[0].base_rung)
        self.model: nn.Module = build_model(pack.recipe, self.rung).to(device)
        if pack.pieces > 1:
            check_cut(pack, self.model, self.data, device, self._within)
        self.size = pack.size()
        check_count(self.model, self.size, pack.recipe.model)
        check_buffers(self.model)
        self.table.attach(self.model)
        self.groups: list[Group] = as_built(groups_of(self.table), lambda: self.model)
        optimizer = pack.recipe.optimizer  # unfilled: what differs between members reaches it through hp alone
        self.needs = needs_of(pack.recipe.objective)
        self.told = told_to(optimizer)
        self.listening = listening(self.model, pack.recipe)
        objective = pack.recipe.objective
        self.gradient = gradient(self.model, self.groups, objective, packed, self._within, pack.pieces)
        self.look_ahead = look_ahead(self.groups, optimizer, packed)
        self.update = update(self.groups, optimizer, packed)
        self.judging = Judging(pack, self.model, self.groups, self.steps_of, device, packed, self._within)
        self.eager_because = f"a step is taken in {pack.pieces} pieces" if pack.pieces > 1 else ""
        self._faster: dict[Any, Any] = {}  # number of rows and shape of a batch -> compiled step

    def _within(self) -> AbstractContextManager[None]:
        return computed_in(self.precision, self.device)

    @cached_property
    def visits(self) -> Visits:
        """Which examples the members will see."""
        return Visits(self.pack.recipe, self.data, self.first_step, self.steps, self.rung.batch or 1)

    def start(
        self, created: str | None = None, weights: Sequence[Mapping[str, Tensor]] = (),
        forks: Sequence[Mapping[str, Tensor]] = (),
    ) -> State:  # fmt: skip
        """Initial values; members that are the same run so far share a row.

        `weights`, one mapping a member, replace the initial values of the tensors they name; `forks`, from `ends`,
        replace everything with what another run of this network ended with. Then each member has its row.
        """
        rows = [(m,) for m in range(len(weights or forks))] or first_rows(self.pack.alike())
        params = initial_params(self.groups, [self.pack.specs[row[0]].seed for row in rows], self.device)
        if weights:
            params = replaced(params, self.groups, weights)
        states = first_states(self.groups, self.pack.recipe.optimizer, params, self.packed)
        if forks:
            params, states = forked(params, states, self.groups, forks)
        created, spent = created or datetime.now(UTC).isoformat(), np.zeros(len(self.pack.specs))
        state = State(rows, params, states, spent, self.steps_of, created=created, precision=self.precision)
        if {"start", "reference"} & set(self.needs):  # copies: a compiled step would take one tensor for the other
            state.start = [p.clone() for p in params]
        if "memory" in self.needs:
            seeds = [self.pack.specs[row[0]].seed for row in rows]
            state.memory = first_memory(self.pack.recipe, self.visits, seeds, self.device)
        self._choose(state)
        return state

    def advance(self, state: State) -> None:
        """One step of every living member, and a judgement of those for whom one is due."""
        factors = {m: multiplier(self.pack, m, state.step, self.tokens_per_step) for m in state.alive}
        if any(len(row) > 1 for row in state.rows) and state.regroup(*parted(state.rows, factors), self.groups):
            self._choose(state)
        seeds = self._seeds(state)
        at, size = self.first_step + state.step, self.rung.batch or 1
        inputs, targets = pack_batch(self.data, seeds, at, size, self.device)
        indices = self.visits.places(seeds, at, self.device) if state.memory else None
        given = self.given(state, indices)
        if not self.packed:
            torch.manual_seed(hash((seeds[0], state.step)))  # a part that draws noise stays a function of seed and step
        joined = state.compiled and self.pack.pieces == 1  # not of several forward passes
        faster = self._compiled(state, inputs, targets, given) if joined else None
        if faster is None or not self._at_once(faster, state, factors, inputs, targets, given, indices):
            self._as_written(state, factors, inputs, targets, given, indices)
        if any(self.judging.due(state, m) for m in state.alive):
            self._judge(state)
        if ended := [m for m in state.alive if self.steps_of[m] == state.step]:
            self.judging.probe(state, ended)
            if self.keeps:
                self.last |= {m: self.judging.weights(state, i) for i, row in enumerate(state.rows) for m in row}
            if self.forked:
                self.ends |= {m: ended_with(state, i, self.groups) for i, row in enumerate(state.rows) for m in row}
            self._leave(state, ended)

    def given(self, state: State, indices: Tensor | None) -> Given:
        """What the objective and the network are given at this step, of examples at these places of its memory."""
        done = [state.step / self.steps_of[row[0]] for row in state.rows]
        share = torch.tensor(done, dtype=torch.float32, device=self.device)
        told = given_of(self.needs, state.start, state.memory, indices, share) | self._heard(state, share)
        if "indices" in self.needs:
            at, size = self.first_step + state.step, self.rung.batch or 1
            told |= {"indices": drawn(self.pack.recipe, self.data, self._seeds(state), at, size, self.device)}
        return told

    def _seeds(self, state: State) -> list[int]:
        """Of each row."""
        return [self.pack.specs[row[0]].seed for row in state.rows]

    def _heard(self, state: State, done: Tensor) -> Given:
        if not self.listening:
            return {}
        at = self.first_step + state.step
        noise = [noise_of(seed, self.stretch, at) for seed in self._seeds(state)]
        told = {"done": done, "noise": torch.tensor(noise, dtype=OF_NETWORKS["noise"], device=self.device)}
        return {"network": {name: told[need] for name, need in self.listening.items()}}

    def _at_once(
        self, faster: Any, state: State, factors: Mapping[int, float], inputs: Tensor, targets: Tensor,
        given: Given, indices: Tensor | None,
    ) -> bool:  # fmt: skip
        """A compiled step; False, and nothing has changed, where an update could not bear a loss that is not finite."""
        try:
            done = faster(state.params, state.states, self.scheduled(state, factors), inputs, targets, given)
        except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]  (documented, not exported)
            return False
        state.params, state.states, losses, memory = done
        state.compiled_steps += 1
        self._keep(state, indices, memory)
        self._count(state, losses)
        return True

    def _as_written(
        self, state: State, factors: Mapping[int, float], inputs: Tensor, targets: Tensor,
        given: Given, indices: Tensor | None,
    ) -> None:  # fmt: skip
        """Gradient, then update of the rows whose loss is finite: an update need not bear what is not."""
        hps = self.scheduled(state, factors) if self.look_ahead is not None else []
        grads, losses, memory = self.gradients(state.params, state.states, hps, inputs, targets, given)
        finite = torch.isfinite(losses).nonzero().flatten()
        self._keep(state, indices, memory)
        self._count(state, losses)
        if len(finite) < len(losses):
            grads = [g.index_select(0, finite) for g in grads]
        if state.alive:
            hps = self._with_loss(self.scheduled(state, factors), losses[finite])
            state.params, state.states = self.update(state.params, grads, state.states, hps)

    def gradients(
        self, params: list[Tensor], states: list[Tree], hps: list[Tree], inputs: Tensor, targets: Tensor, given: Given
    ) -> tuple[list[Tensor], Tensor, Tree]:
        """Gradients for the update, taken where the optimizer looks ahead to; losses of the weights as they are."""
        grads, losses, memory = self.gradient(params, inputs, targets, given)
        if self.look_ahead is not None:
            hps = self._with_loss(hps, losses)
            grads = self.gradient(self.look_ahead(params, grads, states, hps), inputs, targets, given)[0]
        return grads, losses, memory

    def _with_loss(self, hps: list[Tree], losses: Tensor) -> list[Tree]:
        return with_numbers(self.groups, hps, {"loss": losses.double()}) if "loss" in self.told else hps

    def _keep(self, state: State, indices: Tensor | None, memory: Tree) -> None:
        if indices is not None:
            state.memory = remembered(state.memory, indices, memory)

    def _count(self, state: State, losses: Tensor) -> None:
        found, row = losses.detach().double().cpu().numpy(), np.full(len(self.pack.specs), np.nan)
        alive, together = state.alive, np.array([len(members) for members in state.rows])
        row[alive] = np.repeat(found, together)
        state.spent[alive] += np.repeat(1 / together, together)
        state.train_loss.append(row)
        state.step += 1
        bad = [m for m in alive if not math.isfinite(row[m])]
        for seed in {self.pack.specs[m].seed for m in bad}:
            check_drawn(self.data, seed, self.first_step + state.step - 1, self.rung.batch or 1)
        self._retire(state, bad, f"the training loss was not finite at step {state.step}")

    def _retire(self, state: State, bad: Sequence[int], why: str) -> None:
        if bad:
            state.retired |= dict.fromkeys(bad, why)
            self._leave(state, bad)

    def _leave(self, state: State, gone: Sequence[int]) -> None:
        if state.leave(gone, self.groups):
            self._choose(state)

    def _choose(self, state: State) -> None:
        """Whether the rows as they are now are trained by a compiled step: decided when they change, and kept."""
        left = min((self.steps_of[m] for m in state.alive), default=state.step) - state.step
        work = left * self.tokens_per_step * len(state.rows) * math.sqrt(self.size.total)
        state.compiled = self.packed and (work >= PAYS_FROM if self.compile is None else self.compile)

    def _compiled(self, state: State, inputs: Tensor, targets: Tensor, given: Given) -> Any:
        """The compiled step for batches of this shape, None where there is none."""
        shape = tuple(inputs.shape)
        if shape not in self._faster:
            hps = self.scheduled(state, dict.fromkeys(state.alive, 1.0))
            arguments = (state.params, state.states, hps, inputs, targets, given)
            self._faster[shape], because = compiled(self._whole_step, arguments, self.precision)
            self.eager_because = self.eager_because or because
        return self._faster[shape]

    def _whole_step(
        self, params: list[Tensor], states: list[Tree], hps: list[Tree], inputs: Tensor, targets: Tensor, given: Given
    ) -> tuple[list[Tensor], list[Tree], Tensor, Tree]:
        grads, losses, memory = self.gradients(params, states, hps, inputs, targets, given)
        params, states = self.update(params, grads, states, self._with_loss(hps, losses))
        return params, states, losses, memory

    def scheduled(self, state: State, factor_of: Mapping[int, float]) -> list[dict[str, Tensor]]:
        """For each group, its numbers with the learning rates multiplied by each member's factor."""
        rows = tuple(row[0] for row in state.rows)
        if getattr(self, "_hp_rows", None) != rows:
            self._hp_rows = rows
            optimizers, seeds = [self.recipes[i].optimizer for i in rows], [self.pack.specs[i].seed for i in rows]
            self._hp = stacked_hyperparameters(self.groups, optimizers, self.device, seeds, self.stretch)
            if "horizon" in self.told:
                steps = torch.tensor([self.steps_of[i] for i in rows], dtype=torch.float64, device=self.device)
                self._hp = with_numbers(self.groups, self._hp, {"horizon": steps})
        factors = [factor_of[member] for member in rows]
        if len(set(factors)) == 1:
            return [hp | {n: hp[n] * factors[0] for n in hp if is_rate(n)} for hp in self._hp]
        factor = torch.tensor(factors, dtype=torch.float64, device=self.device)
        return [
            hp | {n: hp[n] * factor.repeat_interleave(len(group.names)) for n in hp if is_rate(n)}
            for hp, group in zip(self._hp, self.groups, strict=True)
        ]

    def _judge(self, state: State) -> None:
        loss, accuracy = self.judging.judge(state)
        state.judged.append((state.step, loss, accuracy))
        bad = [m for m in state.alive if self.judging.due(state, m) and not math.isfinite(loss[m])]
        if bad:
            check_judged(self.data, self.pack.judge)
        self._retire(state, bad, f"the judged loss was not finite at step {state.step}")
