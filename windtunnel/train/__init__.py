"""The engine: trains packs. It knows the slots' protocols and no part by name."""
