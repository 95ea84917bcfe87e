"""Meta-training of learned optimizers: particles in packs, evolution strategies, exact resume (public as wt.meta)."""
