"""Options in sections, so that the help of a command with many of them can be read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click


class SectionedOption(click.Option):
    """An option with the heading that it stands under in the help."""

    def __init__(self, *args: Any, section: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class SectionedCommand(click.Command):
    """A command whose help lists its options by section, those without one last."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options of each section under its heading, in the order of the code."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                sections.setdefault(getattr(parameter, "section", ""), []).append(record)
        rest = sections.pop("", [])
        for heading, records in (*sections.items(), ("Other options", rest)):
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


def section(heading: str) -> Callable[..., Callable[[Any], Any]]:
    """`click.option` for the options of one section."""

    def option(*names: str, **attributes: Any) -> Callable[[Any], Any]:
        return click.option(*names, cls=SectionedOption, section=heading, **attributes)

    return option
