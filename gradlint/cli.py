"""The command line: the group of commands, and the small ones among them."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from gradlint import __version__
from gradlint.check_command import check
from gradlint.exit_code import WRONG
from gradlint.probe_command import probe


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, "-V", "--version", prog_name="gradlint", message="%(prog)s %(version)s")
def cli() -> None:
    """Find what makes gradients vanish or explode in PyTorch training scripts, and prove it with one batch."""


cli.add_command(check)
cli.add_command(probe)


@cli.command(short_help="Show the documentation of a rule, or the table of all.")
@click.argument("rule", required=False)
def explain(rule: str | None) -> None:
    """Show the documentation of a rule (by code or name), the table of a family (GL1), or that of all rules."""
    from rich.console import Console

    from gradlint.report.explain import UnknownRuleError, documentation, table
    from gradlint.rule import RuleError

    console = Console()
    try:
        console.print(table() if rule is None else documentation(rule))
    except (UnknownRuleError, RuleError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(WRONG)


@cli.command(short_help="Serve diagnostics to an editor; runs no code of the project.")
def lsp() -> None:
    """Serve diagnostics to an editor over standard input and output; never runs code of the project."""
    try:
        from gradlint.lsp import main as serve
    except ModuleNotFoundError as error:
        if error.name not in ("pygls", "lsprotocol"):
            raise
        click.echo("error: the editor server needs pygls: install the extra `gradlint-torch[lsp]`", err=True)
        sys.exit(WRONG)
    serve()


@cli.command(short_help="Write configuration, pre-commit hook and workflow.")
def init() -> None:
    """Write configuration, pre-commit hook and workflow for the project in this folder; overwrite nothing."""
    from gradlint.initialise import initialise

    failed = False
    for step in initialise(Path.cwd()):
        failed |= step.action == "failed"
        click.echo(f"{step.action} {step.path}{f': {step.note}' if step.note else ''}".rstrip())
    sys.exit(WRONG if failed else 0)


def main() -> None:
    """Run the command; an error of gradlint's own is one traceback that asks to be reported, exit code 2."""
    try:
        cli(standalone_mode=True)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except Exception:
        import traceback

        traceback.print_exc()
        click.echo("gradlint failed: this is an error of gradlint itself, please report it", err=True)
        sys.exit(WRONG)
