"""The output formats by name; each is a module of `gradlint.report`."""

from __future__ import annotations

from typing import Literal, get_args

Format = Literal["text", "concise", "json", "github", "gitlab", "sarif", "junit", "markdown", "html", "rdjson"]
FORMATS: tuple[str, ...] = get_args(Format)
