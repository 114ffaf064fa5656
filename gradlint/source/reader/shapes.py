"""Output shapes of operations where the source tells them; None for every size that it does not."""

from __future__ import annotations

from typing import Any

from gradlint.source.reader.laws import size

Shape = tuple[int | None, ...] | None


def per_axis(value: Any, dimensions: int) -> list[Any]:
    """An int or tuple argument as one value per spatial axis."""
    if isinstance(value, (tuple, list)) and len(value) == dimensions:
        return list(value)
    return [value] * dimensions


def windowed(length: int | None, kernel: Any, stride: Any, padding: Any, dilation: Any) -> int | None:
    """Output length of a convolution or pooling along one axis."""
    if padding == "same":
        return length
    k, s, p, d = size(kernel), size(stride), 0 if padding == "valid" else size(padding), size(dilation)
    if length is None or k is None or not s or p is None or d is None:
        return None
    return max(0, (length + 2 * p - d * (k - 1) - 1) // s + 1)


def unmeasured(shape: tuple[int | None, ...]) -> bool:
    """Whether no length of (N, C, *spatial) is known: none is known after a window moved over them either."""
    return shape[2:].count(None) == len(shape) - 2


def convolved(shape: Shape, channels: int | None, dimensions: int, arguments: dict[str, Any]) -> Shape:
    """(N, C, *spatial) after a convolution."""
    get = arguments.get
    if shape is None or len(shape) != dimensions + 2:
        return (None, channels, *([None] * dimensions))
    if unmeasured(shape):
        return (shape[0], channels, *shape[2:])
    axes = zip(
        shape[2:],
        *(
            per_axis(get(n, e), dimensions)
            for n, e in (("kernel_size", None), ("stride", 1), ("padding", 0), ("dilation", 1))
        ),
        strict=True,
    )
    return (shape[0], channels, *(windowed(*axis) for axis in axes))


def pooled(shape: Shape, dimensions: int, arguments: dict[str, Any]) -> Shape:
    """(N, C, *spatial) after a pooling whose stride defaults to its kernel."""
    if shape is None or len(shape) != dimensions + 2 or unmeasured(shape):
        return shape
    kernel = arguments.get("kernel_size")
    stride = arguments.get("stride")
    filled = {"padding": 0, "dilation": 1, **arguments, "stride": kernel if stride is None else stride}
    return convolved(shape, shape[1], dimensions, filled)


def unconvolved(shape: Shape, channels: int | None, dimensions: int, arguments: dict[str, Any]) -> Shape:
    """(N, C, *spatial) after a transposed convolution."""
    get = arguments.get
    if shape is None or len(shape) != dimensions + 2:
        return (None, channels, *([None] * dimensions))
    if unmeasured(shape):
        return (shape[0], channels, *shape[2:])
    lengths: list[int | None] = []
    for axis, length in enumerate(shape[2:]):
        k, s, p, o, d = (
            size(per_axis(get(n, e), dimensions)[axis])
            for n, e in (("kernel_size", None), ("stride", 1), ("padding", 0), ("output_padding", 0), ("dilation", 1))
        )
        known = None not in (length, k, s, p, o, d)
        lengths.append((length - 1) * s - 2 * p + d * (k - 1) + o + 1 if known else None)  # type: ignore[operator]
    return (shape[0], channels, *lengths)


def flattened(shape: Shape, start: Any, end: Any) -> Shape:
    """Axes start..end as one."""
    if shape is None or not isinstance(start, int) or not isinstance(end, int):
        return None
    first, last = start % max(1, len(shape)), end % max(1, len(shape))
    if first >= last:
        return shape
    return (*shape[:first], product(shape[first : last + 1]), *shape[last + 1 :])


def product(sizes: tuple[int | None, ...]) -> int | None:
    """The product, None if any factor is unknown."""
    total = 1
    for s in sizes:
        if s is None:
            return None
        total *= s
    return total


def viewed(shape: Shape, sizes: list[Any]) -> Shape:
    """Shape after view/reshape to `sizes`; −1 is solved where everything else is known."""
    wanted: list[int | None] = [s if isinstance(s, int) and not isinstance(s, bool) else None for s in sizes]
    if -1 not in wanted:
        return tuple(wanted)
    hole = wanted.index(-1)
    wanted[hole] = None
    rest = tuple(s for i, s in enumerate(wanted) if i != hole)
    if shape is not None and None not in shape and None not in rest:
        total, others = product(shape), product(rest)
        if total is not None and others:
            wanted[hole] = total // others
    elif (
        shape is not None
        and len(shape) > 1
        and len(wanted) == 2
        and hole == 1
        and shape[0] is None
        and wanted[0] is None
    ):
        wanted[1] = product(shape[1:])
    return tuple(wanted)


def broadcast(a: Shape, b: Shape) -> Shape:
    """Shape of an elementwise operation."""
    if a is None or b is None:
        return a if b is None or b == () else b if a == () else None
    if len(a) < len(b):
        a, b = b, a
    padded = (1,) * (len(a) - len(b)) + b
    return tuple(
        y if x == 1 else x if y in (1, None) else y if x is None else x for x, y in zip(a, padded, strict=True)
    )


def reduced(shape: Shape, dim: Any, keepdim: Any) -> Shape:
    """Shape after a reduction over `dim`."""
    if shape is None:
        return None
    if dim is None:
        return ()
    dims = list(dim) if isinstance(dim, (tuple, list)) else [dim]
    if not all(isinstance(d, int) for d in dims) or not shape:
        return None
    gone = {d % len(shape) for d in dims}
    if keepdim is True:
        return tuple(1 if i in gone else s for i, s in enumerate(shape))
    return tuple(s for i, s in enumerate(shape) if i not in gone)


def joined(shapes: list[Shape], dim: Any) -> Shape:
    """Shape after torch.cat along `dim`."""
    first = next((s for s in shapes if s is not None), None)
    if first is None or not isinstance(dim, int) or not first:
        return None
    axis = dim % len(first)
    sizes = [s[axis] if s is not None and len(s) == len(first) else None for s in shapes]
    total = None if None in sizes else sum(s for s in sizes if s is not None)
    return (*first[:axis], total, *first[axis + 1 :])


def permuted(shape: Shape, dims: list[Any]) -> Shape:
    """Shape after permute."""
    if shape is None or len(dims) != len(shape) or not all(isinstance(d, int) for d in dims):
        return None
    return tuple(shape[d % len(shape)] for d in dims)


def transposed(shape: Shape, a: Any, b: Any) -> Shape:
    """Shape after transpose(a, b)."""
    if shape is None or not isinstance(a, int) or not isinstance(b, int) or not shape:
        return None
    sizes = list(shape)
    i, j = a % len(sizes), b % len(sizes)
    sizes[i], sizes[j] = sizes[j], sizes[i]
    return tuple(sizes)


def multiplied(a: Shape, b: Shape) -> Shape:
    """Shape of a matrix product."""
    if a is None or b is None or len(a) < 2 or len(b) < 2:
        return None
    return (*(a if len(a) >= len(b) else b)[:-2], a[-2], b[-1])
