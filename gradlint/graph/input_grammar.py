"""The grammar of `--input`: "1x3x224x224, int64:1x128<30522, mask=bool:1x128, {a=2x3, b=2x4}, [2*3x64x64]"."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import replace

from gradlint.graph.inputs import DTYPES, LAW_DTYPES, Argument, InputGroup, InputSpec, ModelInput

_TOKEN = re.compile(r"""\s*(?:(?P<mark>[][{}(),=*])|(?P<word>'[^']*'|"[^"]*"|[^][{}(),=*\s'"]+))""")
_TENSOR = re.compile(r"^(?:(?P<dtype>[a-z]+\d*):)?(?P<shape>scalar|\d+(?:[x×]\d+)*)(?:<(?P<high>\d+))?$")
_GROUPS = {"[": ("]", "list"), "(": (")", "tuple"), "{": ("}", "dict")}
_NAME = re.compile(r"^[A-Za-z_]\w*$")


class InputSpecError(ValueError):
    """An input spec that cannot be read; the message is one line that quotes the part."""


def parse_spec(text: str) -> ModelInput:
    """Read what a model is called with, as `str(ModelInput)` writes it.

    A tensor is its sizes, with a dtype before and the number of ids behind where that matters; `name=` hands it over by
    keyword; `[…]`, `(…)` and `{name=…}` put several into one list, tuple or dict; `[2*3x64x64]` is a list of one
    tensor a sample; True, None, 'text' and `value:3` are themselves. Raises InputSpecError.
    """
    reader = _Reader(list(_tokens(text)), text)
    items = reader.arguments("")
    if not items:
        raise InputSpecError("empty input: write sizes as 1x3x224x224")
    return ModelInput(tuple(items))


def _tokens(text: str) -> Iterator[str]:
    position = 0
    while position < len(text.rstrip()):
        found = _TOKEN.match(text, position)
        if found is None:
            raise InputSpecError(f"cannot read input `{text.strip()}` at `{text[position:].strip()}`")
        position = found.end()
        yield found["mark"] or found["word"]


class _Reader:
    """Reads tokens from left to right."""

    def __init__(self, tokens: list[str], text: str) -> None:
        self.tokens = tokens
        self.text = " ".join(text.split())

    def arguments(self, end: str) -> list[Argument]:
        """Arguments up to a closing mark, or to the end of the text; a comma may follow the last."""
        found: list[Argument] = []
        while self.peek() != end:
            if not self.tokens:
                raise InputSpecError(f"input `{self.text}`: `{end}` is missing")
            found.append(self.argument())
            if self.peek() != ",":
                break
            self.tokens.pop(0)
        if self.peek() != end:
            raise InputSpecError(f"cannot read input `{self.text}` at `{self.peek()}`")
        del self.tokens[:1]
        return found

    def argument(self) -> Argument:
        """A value, perhaps with its name."""
        if len(self.tokens) > 1 and self.tokens[1] == "=":
            name = self.tokens[0]
            if not _NAME.match(name):
                raise InputSpecError(f"input `{self.text}`: `{name}` is no name of an argument")
            del self.tokens[:2]
            return _named(self.value(name), name)
        return self.value("")

    def value(self, name: str) -> Argument:
        """A tensor, a plain value or a group."""
        word = self.tokens.pop(0) if self.tokens else ""
        if word not in _GROUPS:
            return _leaf(word, name)
        end, kind = _GROUPS[word]
        if kind == "list" and len(self.tokens) > 1 and self.tokens[1] == "*" and self.tokens[0].isdigit():
            count = int(self.tokens[0])
            del self.tokens[:2]
            items = [i.mapped(lambda s: replace(s, batch_axis=None)) for i in self.arguments(end)]
            if len(items) != 1:
                raise InputSpecError(f"input `{self.text}`: one thing a sample is expected after `{count}*`")
            return InputGroup(tuple(items), "samples", None, count)
        items = self.arguments(end)
        if kind == "dict" and any(i.name is None for i in items):
            raise InputSpecError(f"input `{self.text}`: every part of a dict needs a name, as in {{x=2x3}}")
        return InputGroup(tuple(items), kind)

    def peek(self) -> str:
        """The next token; empty at the end."""
        return self.tokens[0] if self.tokens else ""


def _named(argument: Argument, name: str) -> Argument:
    return replace(argument, name=name)


def _leaf(word: str, name: str) -> InputSpec:
    marked = word.startswith("value:")
    found = None if marked else _TENSOR.match(word)
    if found is None:
        try:
            value = ast.literal_eval(word.removeprefix("value:"))
        except (ValueError, SyntaxError):
            value = ...
        if isinstance(value, (bool, str, type(None))) or (marked and isinstance(value, (int, float))):
            return InputSpec((), law="value", value=value, batch_axis=None)
        raise InputSpecError(f"cannot read input `{word}`: write sizes as 1x3x224x224, ids as int64:1x128<30522")
    dtype = found["dtype"] or ("int64" if found["high"] else "float32")
    law = dtype if dtype in LAW_DTYPES else None
    if law is None and dtype not in DTYPES:
        raise InputSpecError(f"input `{word}`: no dtype is called `{dtype}`")
    full = LAW_DTYPES[law] if law else DTYPES[dtype]
    shape = () if found["shape"] == "scalar" else tuple(int(s) for s in re.split("[x×]", found["shape"]))
    high = int(found["high"]) if found["high"] else None
    law = law or ("normal" if "float" in full or "complex" in full else "ones" if "mask" in name else "ids")
    return InputSpec(shape, full, None, high, law, 0 if shape else None)
