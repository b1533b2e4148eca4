"""Studies: many runs of one config, their designs, their stores and what may be said of them."""
