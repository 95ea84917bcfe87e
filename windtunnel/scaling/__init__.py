"""How initial size, step size and multipliers of every tensor follow from its growth over the base rung."""
