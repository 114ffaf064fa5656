"""Calls of the standard library, and of libraries that hold configurations."""

from __future__ import annotations

import itertools
import math
from typing import Any

from gradlint.source import configuration
from gradlint.source.hydra_configuration import interpolated
from gradlint.source.reader.builtin_objects import BuiltinObjects
from gradlint.source.reader.builtin_sequences import MAX_RANGE
from gradlint.source.reader.values import (
    External,
    Instance,
    Native,
    Site,
    Unknown,
)


class Libraries(BuiltinObjects):
    """Collections, partial application, command-line parsers, imports by name."""

    def _call_library(self, name: str, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        match name:
            case "collections.OrderedDict":
                return self._dict(args, kwargs, site)
            case "collections.defaultdict":
                return {}
            case "collections.namedtuple" if len(args) > 1:
                fields = args[1].replace(",", " ").split() if isinstance(args[1], str) else args[1]
                if isinstance(fields, (list, tuple)) and all(isinstance(f, str) for f in fields):
                    defaults = dict(zip(reversed(fields), reversed(kwargs.get("defaults") or []), strict=False))
                    return Native(
                        "namedtuple",
                        lambda a, k, s: Instance(None, {**defaults, **dict(zip(fields, a, strict=False)), **k}),
                    )
            case "functools.partial" if args:
                return Native("partial", lambda a, k, s: self.call(args[0], [*args[1:], *a], {**kwargs, **k}, s))
            case "functools.reduce" if len(args) > 1:
                items = self.items(args[1], site)
                if items:
                    total = args[2] if len(args) > 2 else items.pop(0)
                    for item in items:
                        total = self.call(args[0], [total, item], {}, site)
                    return total
            case "itertools.chain" | "itertools.chain.from_iterable":
                parts = args if name.endswith("chain") else (self.items(args[0], site) or []) if args else []
                lists = [self.items(p, site) for p in parts]
                if all(x is not None for x in lists):
                    return [v for x in lists if x is not None for v in x]
            case "itertools.product" if args and not kwargs:
                lists = [self.items(p, site) for p in args]
                if all(x is not None for x in lists) and math.prod(len(x) for x in lists if x is not None) < MAX_RANGE:
                    return [tuple(p) for p in itertools.product(*[x for x in lists if x is not None])]
            case "importlib.import_module" if args:
                return self._imported(args[0], site)
            case "types.SimpleNamespace":
                return Instance(None, dict(kwargs))
            case "easydict.EasyDict":
                return with_attributes({**(args[0] if args and isinstance(args[0], dict) else {}), **kwargs})
            case "argparse.ArgumentParser":
                parents = self.items(kwargs.get("parents", []), site) or []
                known = [p.attributes.get("*arguments*", {}) for p in parents if isinstance(p, Instance)]
                return Instance(None, {"*arguments*": {k: v for table in known for k, v in table.items()}})
            case "argparse.Namespace":
                return Instance(None, dict(kwargs))
            case "operator.mul" | "operator.add" if len(args) == 2 and all(isinstance(a, (int, float)) for a in args):
                return args[0] * args[1] if name.endswith("mul") else args[0] + args[1]
            case "os.path.join" if args and all(isinstance(a, str) for a in args):
                return "/".join(args)
            case "os.path.dirname" | "os.path.abspath" | "os.getcwd":
                return Unknown(name)
        return Unknown(f"the value of `{name}(…)`")

    def _configuration(self, loader: str, args: list[Any], site: Site) -> Any:
        """The content of a configuration file that is given by its path or opened."""
        given = args[0] if args else None
        path = given.attributes.get("name") if isinstance(given, Instance) and given.cls is None else given
        found = configuration.find(path, site.file, self.project) if isinstance(path, str) else None
        value = configuration.load(found) if found is not None else None
        if value is None:
            return Unknown("a configuration file that is not at hand")
        return with_attributes(interpolated(value.value)) if "OmegaConf" in loader else value.value

    def _builtin_open(self, args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
        return Instance(None, {"name": args[0]}, open=True) if args else Unknown("a file")

    def _imported(self, name: Any, site: Site) -> Any:
        frame = self.file_frame(site.file)
        if isinstance(name, str):
            return self.import_module(name.lstrip("."), frame)
        if not isinstance(name, Unknown) or not name.prefix:
            return Unknown("a module whose name is not known")
        found = self.submodules(name.prefix, frame)
        if name.choices:
            found = [f for f in found if f.rpartition(".")[2] in name.choices] or found
        if not found:
            return Unknown("a module whose name is not known")
        key = (site.file.path, getattr(site.node, "lineno", 0))
        self.forks[key] = len(found)
        chosen = found[min(self.decisions.get(key, 0), len(found) - 1)]
        if name.source is not None:
            name.source.settled = chosen.removeprefix(name.prefix)
        return self.import_module(chosen, frame)

    def parser_method(self, parser: Instance, name: str) -> Any:
        """Methods of argparse.ArgumentParser."""
        arguments: dict[str, Any] = parser.attributes["*arguments*"]

        def add(args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
            flags = [a for a in args if isinstance(a, str)]
            if flags:
                longest = next((f for f in flags if f.startswith("--")), flags[0])
                key = kwargs.get("dest") or longest.lstrip("-").replace("-", "_")
                arguments[key] = _default_argument(longest, kwargs)
            return Unknown("argument")

        def parse(args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
            return Instance(None, dict(arguments), open=True)

        def group(args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
            return parser

        def defaults(args: list[Any], kwargs: dict[str, Any], site: Site) -> Any:
            arguments.update(kwargs)
            return None

        if name == "add_argument":
            return Native(name, add)
        if name in ("parse_args", "parse_intermixed_args"):
            return Native(name, parse)
        if name == "parse_known_args":
            return Native(name, lambda a, k, s: (parse(a, k, s), []))
        if name in ("add_argument_group", "add_mutually_exclusive_group"):
            return Native(name, group)
        if name == "set_defaults":
            return Native(name, defaults)
        return Native(name, lambda a, k, s: Unknown(name))


def with_attributes(content: Any) -> Any:
    """Nested dictionaries whose items are attributes too."""
    match content:
        case dict():
            return Instance(None, {key: with_attributes(value) for key, value in content.items()}, open=True)
        case list():
            return [with_attributes(value) for value in content]
    return content


def _default_argument(flag: str, kwargs: dict[str, Any]) -> Any:
    action = kwargs.get("action")
    choices = tuple(kwargs["choices"]) if isinstance(kwargs.get("choices"), (list, tuple)) else ()
    if "default" in kwargs:
        default = kwargs["default"]
        kind = kwargs.get("type")
        if isinstance(default, str) and isinstance(kind, External) and kind.name in ("int", "float"):
            try:
                return int(default) if kind.name == "int" else float(default)
            except ValueError:
                return Unknown(f"the default of {flag}")
        return default
    if action == "store_true":
        return False
    if action == "store_false":
        return True
    if kwargs.get("required") is True or not flag.startswith("-"):
        return Unknown(f"the argument {flag}", choices=choices)
    return None
