"""One batch, forward and backward: what is measured, and which what-ifs can be asked for."""
