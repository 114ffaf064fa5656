"""The process boundary: user code and torch live on the other side of it."""
