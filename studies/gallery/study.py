"""The gallery's ladder: ideas that change how a byte transformer is trained, against one base, on three small widths.

Real text on every machine (the running Python's standard library). Each idea is tuned as the base is, its own budget
charged; runs are paired by seed. `python -m studies.gallery` trains what is missing and writes the table.
"""

import windtunnel as wt
from windtunnel.ideas.critical_momenta import critical_momenta
from windtunnel.ideas.hypergradient_rate import hypergradient_rate
from windtunnel.ideas.infinite_schedule import infinite_schedule
from windtunnel.ideas.layer_norm import layer_norm
from windtunnel.ideas.layer_wise_trust import lamb, lars
from windtunnel.ideas.linear_to_zero import linear_to_zero
from windtunnel.ideas.model_soup import model_soup
from windtunnel.ideas.multigrid import multigrid
from windtunnel.ideas.muon import muon
from windtunnel.ideas.nested_widths import nested_widths
from windtunnel.ideas.power_schedule import power_schedule
from windtunnel.ideas.sharpness_aware import sharpness_aware
from windtunnel.ideas.sparse_spectral import sparse_spectral
from windtunnel.ideas.sqrt_cooldown import sqrt_cooldown
from windtunnel.ideas.structured_sparsity import sparse_from_the_start, structured_sparsity
from windtunnel.ideas.ternary_weights import ternary_weights, ternary_weights_by_mean
from windtunnel.ideas.v_cycle import v_cycle
from windtunnel.ideas.weight_compander import weight_compander
from windtunnel.ideas.weight_standardization import weight_standardization
from windtunnel.ideas.wider_not_deeper import wider_not_deeper
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.optimizers import AdamW

CONTEXT, TOKENS = 64, 100_000
data = wt.data.text(context=CONTEXT)

study = wt.Study(
    name="gallery",
    base=wt.recipes.transformer_mup_adamw(data=data).but(
        optimizer=AdamW(lr=wt.tuned(2**-9, 2**-3)), batch=FixedBatch(examples=4)
    ),
    ideas=[
        muon,
        sharpness_aware,
        lamb,
        lars,
        critical_momenta,
        hypergradient_rate,
        linear_to_zero,
        sqrt_cooldown,
        power_schedule,
        infinite_schedule,
        layer_norm,
        weight_compander,
        weight_standardization,
        ternary_weights,
        ternary_weights_by_mean,
        sparse_from_the_start,
        structured_sparsity,
        model_soup,
        v_cycle,
        wider_not_deeper,
        sparse_spectral,
        nested_widths,
        multigrid,
    ],
    ladder=wt.Ladder.widths((16, 32, 48), depth=2, head_width=8, tokens=TOKENS, seeds=3),
    target=wt.Target(rung=wt.Rung(width=160, depth=2, heads=20, tokens=TOKENS)),
    judge=wt.Judge(data=data, tokens=65_536, evaluations=1),
    tuning=wt.Tuning(points=5, seeds=1),
)
