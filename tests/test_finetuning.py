"""Finetuning with other people's tools: transformers' Trainer, checkpoints of from_pretrained, peft's adapters.

LoRA's W + B A: A's inputs grow with width and it stands inside the network, so it is "hidden" and learns at 1/width
under Adam; B's inputs are the rank, so shapes tell it to be an "input" with one rate at every width. This is LoRA+
(Hayou et al. 2402.12354): one rate for both makes the effect grow with width, 1/width for both makes it vanish.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_hf import BASE, V, gpt2, llama
from torch import nn
from torch.nn import functional as F

from windtunnel.errors import InputError
from windtunnel.scaling.adopt import adopt
from windtunnel.scaling.rules import MuP, Standard

hf = pytest.importorskip("transformers", reason="needs transformers: pip install 'windtunnel[dev]'")
TARGET = 4 * BASE
# peft reads a property of the model that transformers has renamed
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def tokens(seed=0, count=4):
    return torch.randint(V, (count, 12), generator=torch.Generator().manual_seed(seed))


def step(model, ids):
    logits = model(input_ids=ids).logits
    F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()


# Trainer

SCHEDULES = {"linear": {}, "cosine_with_min_lr": {"min_lr_rate": 0.1}, "constant": {}}


def trainer(model, folder, optimizers, schedule="constant", **more):
    pytest.importorskip("accelerate", reason="Trainer needs accelerate: pip install 'windtunnel[dev]'")
    same = [{"input_ids": tokens(count=1)[0], "labels": tokens(count=1)[0]}] * 16
    arguments = hf.TrainingArguments(
        output_dir=str(folder), max_steps=4, per_device_train_batch_size=2, learning_rate=1e-2, report_to=[],
        use_cpu=True, save_strategy="no", disable_tqdm=True, max_grad_norm=0.0, lr_scheduler_type=schedule,
        lr_scheduler_kwargs=SCHEDULES[schedule], dataloader_pin_memory=False,
    )  # fmt: skip
    return hf.Trainer(model, arguments, train_dataset=same, optimizers=optimizers, **more)


def ready():
    scales, model = adopt(llama, base=BASE, target=TARGET, optimizer=torch.optim.AdamW), llama(TARGET)
    scales.initialize(model, seed=0)
    return scales.attach(model), scales


class Watch(hf.TrainerCallback):
    """Checks the ratios of the learning rates after every step of a Trainer."""

    def __init__(self, scales):
        self.scales, self.rates = scales, []

    def on_step_end(self, args, state, control, optimizer=None, **others):
        self.scales.check(optimizer)
        self.rates.append({group["lr_mult"]: group["lr"] for group in optimizer.param_groups})


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_trainers_own_scheduler_keeps_the_factors(schedule, tmp_path):
    model, scales = ready()
    optimizer, watch = torch.optim.AdamW(scales.groups(model, 1e-2)), Watch(scales)
    trainer(model, tmp_path, (optimizer, None), schedule, callbacks=[watch]).train()
    assert len(watch.rates) == 4 and set(watch.rates[0]) == {0.25, 1.0}
    assert len({rates[1.0] for rates in watch.rates}) == (1 if schedule == "constant" else 4)


def test_the_trainer_trains_as_a_plain_loop_does(tmp_path):
    model, scales = ready()
    optimizer = torch.optim.AdamW(scales.groups(model, 1e-2))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1 / (1 + done))
    trainer(model, tmp_path, (optimizer, schedule)).train()
    other, _ = ready()
    optimizer = torch.optim.AdamW(scales.groups(other, 1e-2))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1 / (1 + done))
    for _ in range(4):
        step(other, tokens(count=1).expand(2, -1))
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    torch.testing.assert_close(model(input_ids=tokens()).logits, other(input_ids=tokens()).logits, rtol=1e-3, atol=1e-4)


def test_an_optimizer_that_the_trainer_made_is_found_to_have_no_factors(tmp_path):
    model, scales = ready()
    with pytest.raises(InputError, match=r"has no lr_mult; make the optimizer from adopted\.groups"):
        trainer(model, tmp_path, (None, None), callbacks=[Watch(scales)]).train()


# checkpoints


@pytest.mark.parametrize("build, rule", [(llama, MuP(form="initial")), (gpt2, Standard(per_layer=True))])
def test_a_checkpoint_keeps_its_outputs_and_learns_at_the_tables_rates(build, rule, tmp_path):
    """Rules without multipliers, for a readout of its own and for a tied one: attach has nothing to change."""
    saved = build(TARGET)
    saved.save_pretrained(tmp_path)
    model = type(saved).from_pretrained(tmp_path)
    expected = saved.eval()(input_ids=tokens()).logits
    scales = adopt(build, base=BASE, target=TARGET, optimizer=torch.optim.AdamW, rule=rule)
    torch.testing.assert_close(scales.attach(model).eval()(input_ids=tokens()).logits, expected)
    optimizer = torch.optim.AdamW(scales.groups(model, 1e-3, pretrained=True))
    assert {group["lr_mult"] for group in optimizer.param_groups} == {0.25, 1.0}
    step(model, tokens())
    optimizer.step()
    assert not torch.allclose(model(input_ids=tokens()).logits, expected)


def test_an_adopted_model_survives_save_and_from_pretrained(tmp_path):
    """Multipliers are hooks, so they are no part of a checkpoint: attach again, or fold before saving."""
    model, scales = ready()
    expected = model(input_ids=tokens()).logits
    model.save_pretrained(tmp_path / "hooked")
    hooked = scales.attach(hf.LlamaForCausalLM.from_pretrained(tmp_path / "hooked"))
    torch.testing.assert_close(hooked(input_ids=tokens()).logits, expected)
    scales.fold(hf.LlamaForCausalLM.from_pretrained(tmp_path / "hooked")).save_pretrained(tmp_path / "folded")
    folded = hf.LlamaForCausalLM.from_pretrained(tmp_path / "folded")
    torch.testing.assert_close(folded(input_ids=tokens()).logits, expected)


# adapters

STATED = {"*.lora_A.*": "hidden"}


def adapted(model):
    peft = pytest.importorskip("peft", reason="needs peft: pip install 'windtunnel[dev]'")
    return peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))


def lora(width):
    return adapted(llama(width))


def adapters(width, **more):
    return adopt(lora, base=BASE, target=width, optimizer=torch.optim.AdamW, **more)


def test_the_first_matrix_of_an_adapter_is_asked_for_and_its_pattern_given():
    with pytest.raises(InputError, match=r'the first matrices of adapters\) are "hidden".*roles=\{"\*\.lora_A\.\*"'):
        adapters(TARGET)


def test_an_adapters_two_matrices_learn_as_lora_plus_says_and_the_frozen_model_does_not():
    model = lora(TARGET)
    groups = adapters(TARGET, roles=STATED).groups(model, 1e-2, pretrained=True)
    rates = {name: group["lr"] for group in groups for name in group["names"]}
    assert rates and all(lr == (1e-2 / 4 if "lora_A" in name else 1e-2) for name, lr in rates.items())
    assert set(rates) == {name for name, p in model.named_parameters() if p.requires_grad}


def test_adapters_are_not_drawn_anew():
    with pytest.raises(InputError, match=r"has peft's adapters.*initialize the model before they"):
        adapters(TARGET, roles=STATED).initialize(lora(TARGET))


def effect(width, seed, rate, steps=8, lr=1e-2):
    """Root mean square change of the last hidden states by adapters whose rates `rate` makes of the table's."""
    base, model = adopt(llama, base=BASE, target=width, optimizer=torch.optim.AdamW), llama(width)
    base.initialize(model, seed=seed)
    base.attach(model)
    torch.manual_seed(seed)  # peft draws A
    model, scales = adapted(model), adapters(width, roles=STATED).table.scales
    learn = {name: param for name, param in model.named_parameters() if param.requires_grad}
    groups = [{"params": [p], "lr": lr * rate(scales[n].lr, n, width)} for n, p in learn.items()]
    optimizer, ids = torch.optim.AdamW(groups, weight_decay=0.0, eps=1e-12), tokens(seed, count=8)
    before = hidden(model, ids)
    for _ in range(steps):
        step(model, ids)
        optimizer.step()
        optimizer.zero_grad()
    return float((hidden(model, ids) - before).pow(2).mean().sqrt())


@torch.no_grad()
def hidden(model: nn.Module, ids):
    return model(input_ids=ids, output_hidden_states=True).hidden_states[-2].clone()


RATES = {
    "the table": lambda lr, name, width: lr,
    "one rate": lambda lr, name, width: 1.0,
    "1/width for both": lambda lr, name, width: BASE / width,
}


@pytest.mark.slow
def test_adapters_change_hidden_states_as_much_at_every_width_under_the_table_alone():
    """Slow: trains 24 small models. That one rate for both grows and 1/width for both vanishes is LoRA+'s claim."""
    widths = (32, 64, 128, 256)

    def slope(rate):
        sizes = [np.mean([effect(width, seed, rate) for seed in (0, 1)]) for width in widths]
        return np.polyfit(np.log(widths), np.log(sizes), 1)[0]

    found = {name: slope(rate) for name, rate in RATES.items()}
    assert abs(found["the table"]) < 0.1, found
    assert found["one rate"] > 0.2 and found["1/width for both"] < -0.8, found
