"""The rules of a Lattice network: no clock, no sockets, no files, no global randomness."""
