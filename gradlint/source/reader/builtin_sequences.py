"""Python's built-ins over sequences and numbers."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from gradlint.source.reader.arrays import Arrays
from gradlint.source.reader.external_names import (
    MATH,
)
from gradlint.source.reader.values import (
    Array,
    Module,
    Site,
    Tensor,
    Unknown,
    contains_tensor,
    is_plain,
    is_repeated,
)

MAX_RANGE = 100_000


class BuiltinSequences(Arrays):
    """Built-ins that make, walk and reduce sequences."""

    def _dict(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        table: Any = OrderedDict()
        if args:
            if isinstance(args[0], dict):
                table.update(args[0])
            else:
                for pair in self.items(args[0], site) or []:
                    parts = self.items(pair, site) if not isinstance(pair, str) else None
                    if parts is not None and len(parts) == 2 and is_plain(parts[0]):
                        try:
                            table[parts[0]] = parts[1]
                        except TypeError:
                            continue
        table.update(kwargs)
        return table

    def _builtin_print(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return None

    def _builtin_len(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        value = args[0] if args else None
        if is_repeated(value):
            return Unknown("a length", numeric=True)
        if isinstance(value, (str, list, tuple, dict, set, range)):
            return len(value)
        if isinstance(value, Module):
            return len(value.children or value.parameters)
        if isinstance(value, (Tensor, Array)) and value.shape and value.shape[0] is not None:
            return value.shape[0]
        return Unknown("a length", numeric=True)

    def _builtin_range(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        if args and all(isinstance(a, int) for a in args):
            try:
                return range(*args)
            except (TypeError, ValueError):
                return Unknown("range")
        return Unknown("a range of unknown length", numeric=True)

    def _builtin_list(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        items = self.items(args[0], site) if args else []
        if items is None and args and isinstance(args[0], Unknown):
            return args[0]
        return list(items) if items is not None else Unknown("a list")

    def _builtin_tuple(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        items = self.items(args[0], site) if args else []
        return tuple(items) if items is not None else Unknown("a tuple")

    def _builtin_set(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        items = self.items(args[0], site) if args else []
        return (
            set(items)
            if items is not None and all(isinstance(i, (str, int, float)) for i in items)
            else Unknown("a set")
        )

    def _builtin_dict(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return dict(self._dict(args, kwargs, site))

    def _builtin_iter(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return args[0] if args else Unknown("iter")

    def _builtin_next(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        items = self.items(args[0], site) if args else None
        return items[0] if items and isinstance(args[0], (list, tuple)) else Unknown("the next element")

    def _builtin_enumerate(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        items = self.items(args[0], site) if args else None
        start = kwargs.get("start", args[1] if len(args) > 1 else 0)
        if items is None or not isinstance(start, int):
            return Unknown("an enumeration")
        return [(i + start, v) for i, v in enumerate(items)]

    def _builtin_zip(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        lists = [self.items(a, site) for a in args]
        if any(x is None for x in lists):
            return Unknown("a zip")
        return [tuple(p) for p in zip(*[x for x in lists if x is not None], strict=False)]

    def _builtin_reversed(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        items = self.items(args[0], site) if args else None
        return Unknown("reversed") if items is None else items[::-1]

    def _builtin_sorted(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        items = self.items(args[0], site) if args else None
        if items is None or not all(is_plain(i) for i in items) or "key" in kwargs:
            return Unknown("sorted")
        try:
            return sorted(items, reverse=kwargs.get("reverse") is True)
        except TypeError:
            return Unknown("sorted")

    def _builtin_map(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        lists = [self.items(a, site) for a in args[1:]]
        if not lists or any(x is None for x in lists):
            return Unknown("a map")
        return [self.call(args[0], list(p), {}, site) for p in zip(*[x for x in lists if x is not None], strict=False)]

    def _builtin_filter(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        items = self.items(args[1], site) if len(args) > 1 else None
        if items is None:
            return Unknown("a filter")
        kept = []
        for item in items:
            truth = self.truth(item if args[0] is None else self.call(args[0], [item], {}, site))
            if truth is None:
                return Unknown("a filter")
            if truth:
                kept.append(item)
        return kept

    def _builtin_sum(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        if len(args) == 2 and isinstance(args[1], list):
            lists = self.items(args[0], site)
            if lists is not None and all(isinstance(x, list) for x in lists):
                return [v for x in lists for v in x]
        return self._reduce(args, kwargs, site, "sum")

    def _builtin_max(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return self._reduce(args, kwargs, site, "max")

    def _builtin_min(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return self._reduce(args, kwargs, site, "min")

    def _builtin_any(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return self._quantify(args, site, True)

    def _builtin_all(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return self._quantify(args, site, False)

    def _reduce(self, args: list[Any], kwargs: dict[str, Any], site: Site, name: str) -> Any:
        if self.operations is not None and contains_tensor(args):
            if name == "sum":
                items = self.items(args[0], site)
                total: Any = args[1] if len(args) > 1 else 0
                for item in items or []:
                    total = (
                        self.operations.arithmetic("add", total, item, site) if contains_tensor([total, item]) else item
                    )
                if items:
                    return total
            return self.operations.function(name, args, {}, site)
        values = self.items(args[0], site) if len(args) == 1 else args
        if values and all(isinstance(v, (int, float)) for v in values):
            start = kwargs.get("start", 0)
            return MATH[name](values) + (start if name == "sum" and is_plain(start) else 0)
        return (
            kwargs["default"]
            if values == [] and "default" in kwargs
            else 0
            if values == [] and name == "sum"
            else Unknown(name, numeric=True)
        )

    def _quantify(self, args: list[Any], site: Site, wanted: bool) -> Any:
        items = self.items(args[0], site) if args else None
        if items is None:
            return Unknown("a condition that is not known")
        truths = [self.truth(i) for i in items]
        if wanted in truths:
            return wanted
        return Unknown("a condition that is not known") if None in truths else not wanted
