"""Errors of torch and Python in plain words, with what to write instead.

Found by pieces of their messages, because torch raises the same RuntimeError for everything; a message that is not
known is shown as it is.
"""

from __future__ import annotations

WHERE = (
    "Use torch.where(condition, a, b), or arithmetic such as (x > 0) * y, so that every run of a pack takes its own "
    "side. A number that is not tuned may be read from self (self.rounds) and branched on."
)
KEEP_TENSOR = (
    "Keep it a tensor: torch functions take it as it is. A number that is not tuned is a plain Python number on self "
    "(range(self.rounds)), and may be used anywhere."
)
NOISE = (
    "An update is a function of its arguments and is given no source of randomness: take the noise out, or compute it "
    "by arithmetic from a counter that you keep in the state."
)
LERP = (
    "hp holds float64 numbers without axes, and lerp takes no mixed types: write a * x + (1 - a) * y, for example "
    'hp["beta"] * state["mean"] + (1 - hp["beta"]) * grad.'
)
FROZEN = (
    "A Recipe and its parts are frozen. Return a changed copy: base.but(optimizer=AdamW(beta1=0.8)), or "
    "dataclasses.replace(base.optimizer, beta1=0.8)."
)
CAST = (
    "hp holds float64 numbers without axes, which never promote a weight they multiply; where torch asks for equal "
    'types, convert: hp["beta"].to(grad.dtype).'
)

# piece of the message -> (what happened, what to write)
KNOWN = (
    ("data-dependent control flow", "branches on a tensor's value, which differs between the runs of a pack", WHERE),
    (".item()", "turns a tensor into a Python number, which differs between the runs of a pack", KEEP_TENSOR),
    ("data pointer of Tensor", "reads a tensor's numbers from Python (numpy, tolist)", KEEP_TENSOR),
    ("random operation", "draws random numbers from the global generator", NOISE),
    ("for `weight` but got dtype double", "calls lerp with a float64 hyperparameter", LERP),
    ("cannot assign to field", "changes a frozen part", FROZEN),
    ("inplace arithmetic", "changes a tensor in place with one that differs between the runs of a pack",
     "Return new tensors: x = x * y in place of x.mul_(y)."),
    ("must have the same dtype", "mixes float32 and float64 tensors", CAST),
    ("expected scalar type", "mixes float32 and float64 tensors", CAST),
    ("'Tuned'", "computes with a range that was not filled",
     'In an optimizer what is tuned is read from hp, as hp["beta"] for self.beta. In a slot that is built before its '
     "fields are filled give a number in place of tuned()."),
)  # fmt: skip


MEND = "Mend the line; the check calls your code as a study would."
OTHER_DATA = (
    "The check gives token ids (32 of them an example), and where those do not fit images of digits (1, 8, 8). If the "
    "idea is for one of these, mend the line. If it is for other data, no check here has them: have its study tried, "
    "`windtunnel plan study.py`, which builds every network and draws from the data."
)


def explain(error: BaseException) -> tuple[str, str]:
    """(what happened, what to write instead)."""
    text = str(error)
    for piece, what, remedy in KNOWN:
        if piece in text:
            return what, remedy
    first = next(iter(text.strip().splitlines()), "")
    return f"raises {type(error).__name__}: {first}", MEND
