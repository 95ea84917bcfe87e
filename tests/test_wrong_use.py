"""adopt() used wrongly: what was given, what is needed and what to do, in a sentence."""

from __future__ import annotations

import pytest
import torch
from test_adopt import TARGET, Plain, adopted, ready
from torch import nn

from windtunnel.errors import InputError
from windtunnel.scaling.rules import MuP
from windtunnel.scaling.table import Scale


@pytest.mark.parametrize(
    "given, called",
    [
        (lambda model: model.named_parameters(), "a generator"),
        (lambda model: dict(model.named_parameters()), "a dict"),
        (lambda model: list(model.parameters()), "a list"),
        (lambda model: type(model), "the class Plain"),
    ],
)
def test_what_is_no_model_is_refused(given, called):
    model, scales = ready()
    for use in (lambda m: scales.groups(m, 1e-2), scales.initialize, scales.attach, scales.fold):
        with pytest.raises(InputError, match=f"was given {called}; pass the nn.Module itself"):
            use(given(model))


@pytest.mark.parametrize("lr", [{"head": 1e-2}, "1e-2", [1e-2, 1e-3], None])
def test_a_learning_rate_that_is_no_number_is_refused(lr):
    model, scales = ready()
    with pytest.raises(InputError, match=r"lr is .*; give one number .*, the rate at the base"):
        scales.groups(model, lr)


def test_a_model_in_place_of_its_builder_is_refused():
    with pytest.raises(InputError, match=r"given a Plain that is built already; pass lambda width: Plain\(width\)"):
        adopted(build=Plain(TARGET))


def test_an_optimizer_that_is_made_already_says_its_geometry_as_its_class_does():
    made = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1e-2)
    assert adopted(made).table == adopted(torch.optim.SGD).table


def test_a_lookup_table_that_may_be_the_readout_too_is_asked_for():
    class Functional(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.table, self.hidden = nn.Embedding(32, width), nn.Linear(width, width)

        def forward(self, ids):
            return nn.functional.linear(self.hidden(self.table(ids)), self.table.weight)

    with pytest.raises(InputError, match=r'No tensor reads the network out.*roles=\{"table\.weight": "embedding"\}'):
        adopted(build=Functional)
    assert adopted(build=Functional, roles={"table.weight": "embedding"}).table.forward == {}


def test_a_scale_for_a_tensor_that_the_model_lacks_is_refused():
    model, scales = ready()
    with pytest.raises(InputError, match="extra names adapter, which the model lacks"):
        scales.groups(model, 1e-2, extra={"adapter": Scale(init_std=0.0)})


def test_tied_tensors_that_came_apart_are_noticed():
    build = lambda width: Plain(width, tied=True)  # noqa: E731
    with torch.device("meta"):
        model = build(TARGET)
    with pytest.raises(InputError, match=r"the table lacks head\.weight\..*come apart in to_empty: tie them again"):
        adopted(build=build).initialize(model.to_empty(device="cpu"))


def test_a_readout_that_is_called_by_keyword_is_named():
    model, _ = ready()
    with pytest.raises(InputError, match=r"A Linear with a multiplier was called by keyword; call it as head\(x\)"):
        model.head(input=torch.zeros(1, TARGET))


def test_what_is_given_in_the_wrong_form_is_said():
    with pytest.raises(InputError, match=r"rule is the class MuP; give an object of it, MuP\(\)"):
        adopted(rule=MuP)
    with pytest.raises(InputError, match=r"build\(64\) returned a NoneType; it must return the model"):
        adopted(build=lambda width: None)
    with pytest.raises(InputError, match=r"roles states \('hidden',\) for '\*up.weight'; give a role"):
        adopted(roles={"*up.weight": ("hidden",)})
    with pytest.raises(InputError, match="Independent decay is a share at the peak rate, and lr is 0"):
        adopted().groups(Plain(TARGET), 0.0, weight_decay=0.1, decay_is="independent", pretrained=True)
