"""Where packs execute. A launcher is called as launch(packs, store, watch); only this room may mention a cluster."""
