"""The command line of a script that is run without one: what it requires is invented, and labelled."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gradlint.graph.frames import is_user_file
from gradlint.graph.stubs import InventedText, Unknown
from gradlint.worker.protocol import Slice


def fill_arguments(patch: Callable[[Any, str, Any], None], names: list[str], sliced: Slice) -> None:
    """argparse without errors: required arguments that are not given become labelled placeholders."""
    parse_real = argparse.ArgumentParser.parse_known_args

    def parse_known_args(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
        filled: list[tuple[str, Any]] = []
        relaxed = []
        for action in self._actions:
            positional = not action.option_strings
            if not (action.required or (positional and action.nargs not in ("?", "*"))):
                continue
            relaxed.append((action, action.required, action.nargs))
            action.required = False
            if positional and action.nargs is None:
                action.nargs = "?"
            filled.append((action.dest, _invented(action, sliced)))
        try:
            found, rest = parse_real(self, args, namespace)
        finally:
            for action, required, nargs in relaxed:
                action.required, action.nargs = required, nargs
        for name, value in filled:
            if getattr(found, name, None) is None:
                setattr(found, name, value)
                names.append(name)
        return found, rest

    def parse_args(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
        return self.parse_known_args(args, namespace)[0]

    def error(self: argparse.ArgumentParser, message: str) -> None:
        raise ValueError(f"command line: {message}")

    patch(argparse.ArgumentParser, "parse_known_args", parse_known_args)
    patch(argparse.ArgumentParser, "parse_args", parse_args)
    patch(argparse.ArgumentParser, "error", error)


def _invented(action: argparse.Action, sliced: Slice) -> Any:
    if action.choices:
        return next(iter(action.choices))
    if action.type is int:
        return Unknown(action.dest)
    if action.type is float:
        return 0.1
    alternatives = _ALTERNATIVES.search(action.help or "")
    return _compared(action.dest, sliced) or (alternatives["first"] if alternatives else InventedText(action.dest))


_ALTERNATIVES = re.compile(r"(?P<first>\w[\w.-]*)(?:\s*\|\s*\w[\w.-]*)+")
"""What a help text lists: "Feature extraction stage. VGG|RCNN|ResNet"."""


def _compared(option: str, sliced: Slice) -> str | None:
    """The first text that a script, or a module of its own, compares an option with: `args.net == "vgg16"`."""
    name = rf"\b(?:\w+\.)?{re.escape(option)}\b"
    quoted = r"""['"](?P<{}>[^'"\n]+)['"]"""
    pattern = re.compile(
        rf"{name}\s*==\s*{quoted.format('equal')}"
        rf"|{quoted.format('part')}\s+in\s+{name}"
        rf"|{name}\s+in\s+[\[({{]\s*{quoted.format('member')}"
    )
    for text in (sliced.text, *_own_texts(sliced.root)):
        found = pattern.search(text)
        if found is not None:
            return found["equal"] or found["part"] or found["member"]
    return None


def _own_texts(root: str) -> Iterator[str]:
    """The sources of the project's modules that are imported."""
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if isinstance(path, str) and path.startswith(root) and path.endswith(".py") and is_user_file(path, root):
            yield Path(path).read_text("utf-8", "replace")
