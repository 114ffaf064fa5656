"""The torch functions that make a tensor of a given size, with the law of its elements."""

CREATORS = {
    "randn": ("normal", 0.0, 1.0),
    "rand": ("uniform", 0.5, (1 / 12) ** 0.5),
    "zeros": ("constant", 0.0, 0.0),
    "ones": ("constant", 1.0, 0.0),
    "empty": ("unknown", None, None),
    "Tensor": ("unknown", None, None),
    "FloatTensor": ("unknown", None, None),
    "randn_like": ("normal", 0.0, 1.0),
    "rand_like": ("uniform", 0.5, (1 / 12) ** 0.5),
    "zeros_like": ("constant", 0.0, 0.0),
    "ones_like": ("constant", 1.0, 0.0),
    "empty_like": ("unknown", None, None),
    "new_zeros": ("constant", 0.0, 0.0),
    "new_ones": ("constant", 1.0, 0.0),
}
"""torch functions that make a tensor of a given size: distribution, mean, std."""
