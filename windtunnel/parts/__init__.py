"""Stock fillings of a recipe's slots, one thought a file, by slot."""
