"""`gradlint lsp`: diagnostics for editors over standard input and output. It never runs code of the project."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from urllib.parse import unquote

from lsprotocol import types
from pygls.lsp.server import LanguageServer
from pygls.uris import from_fs_path, to_fs_path

from gradlint import __version__
from gradlint.config import ConfigError
from gradlint.discover import Exclusion
from gradlint.engine import Engine
from gradlint.finding import Finding, Severity
from gradlint.ignoring import NOT_SUPPRESSED, suppressed
from gradlint.location import Location
from gradlint.rule import RuleError, registry
from gradlint.settings import settings
from gradlint.source.notebook import python_of
from gradlint.source.project import find_root

DELAY = 0.3
"""Seconds without a further event before a document is checked, so that saving twice checks once."""

SEVERITIES = {
    Severity.ERROR: types.DiagnosticSeverity.Error,
    Severity.WARNING: types.DiagnosticSeverity.Warning,
    Severity.INFO: types.DiagnosticSeverity.Information,
}


@dataclass(frozen=True)
class Opened:
    """What is checked as one: a script, or a notebook. `uri` and `path` are its own; `cells` maps the URI of each code
    cell to its index in the notebook, and is empty for a script."""

    uri: str
    path: Path
    cells: dict[str, int] = field(default_factory=dict)

    def uri_of(self, at: Location) -> str:
        """The URI of the document that a place is in: a cell of this notebook, this script, or another file."""
        if at.path == str(self.path) and self.cells:
            return next((uri for uri, index in self.cells.items() if index == at.cell), self.uri)
        return self.uri if at.path == str(self.path) else from_fs_path(at.path) or ""


@dataclass
class Session:
    """What the server knows: the findings of each document (a script, or a cell) with what was checked, and the
    checks that wait."""

    findings: dict[str, list[tuple[Finding, Opened]]] = field(default_factory=dict)
    waiting: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    def schedule(self, ls: LanguageServer, uri: str) -> None:
        """Check the document once no event of it has come for a while."""
        self.cancel(uri)
        self.waiting[uri] = asyncio.get_running_loop().create_task(_check_later(ls, self, uri))

    def cancel(self, uri: str) -> None:
        """Leave a check that waits."""
        if (task := self.waiting.pop(uri, None)) is not None:
            task.cancel()


NOTEBOOKS = types.NotebookDocumentSyncOptions(
    [types.NotebookDocumentFilterWithCells(cells=[types.NotebookCellLanguage("python")], notebook="jupyter-notebook")],
    save=True,
)


def server() -> LanguageServer:
    """A language server: diagnostics on opening and saving, hover, and quick fixes that suppress or cure."""
    served = LanguageServer("gradlint", f"v{__version__}", notebook_document_sync=NOTEBOOKS)
    session = Session()

    @served.feature(types.TEXT_DOCUMENT_DID_OPEN)
    def opened(ls: LanguageServer, params: types.DidOpenTextDocumentParams) -> None:
        session.schedule(ls, params.text_document.uri)

    @served.feature(types.TEXT_DOCUMENT_DID_SAVE)
    def saved(ls: LanguageServer, params: types.DidSaveTextDocumentParams) -> None:
        session.schedule(ls, params.text_document.uri)

    @served.feature(types.TEXT_DOCUMENT_DID_CLOSE)
    def closed(ls: LanguageServer, params: types.DidCloseTextDocumentParams) -> None:
        session.cancel(params.text_document.uri)
        _publish(ls, session, params.text_document.uri, [])

    @served.feature(types.NOTEBOOK_DOCUMENT_DID_OPEN)
    def notebook_opened(ls: LanguageServer, params: types.DidOpenNotebookDocumentParams) -> None:
        session.schedule(ls, params.notebook_document.uri)

    @served.feature(types.NOTEBOOK_DOCUMENT_DID_SAVE)
    def notebook_saved(ls: LanguageServer, params: types.DidSaveNotebookDocumentParams) -> None:
        session.schedule(ls, params.notebook_document.uri)

    @served.feature(types.NOTEBOOK_DOCUMENT_DID_CLOSE)
    def notebook_closed(ls: LanguageServer, params: types.DidCloseNotebookDocumentParams) -> None:
        session.cancel(params.notebook_document.uri)
        for cell in params.cell_text_documents:
            _publish(ls, session, cell.uri, [])

    @served.feature(types.TEXT_DOCUMENT_HOVER)
    def hover(ls: LanguageServer, params: types.HoverParams) -> types.Hover | None:
        uri = params.text_document.uri
        lines = _lines(ls, uri)
        found = [f for f, _ in session.findings.get(uri, ()) if _holds(_range(ls, f.location, lines), params.position)]
        rules = [registry()[code] for code in dict.fromkeys(f.code for f in found) if code in registry()]
        if not rules:
            return None
        text = "\n\n---\n\n".join(rule.documentation() for rule in rules)
        return types.Hover(types.MarkupContent(types.MarkupKind.Markdown, text))

    @served.feature(
        types.TEXT_DOCUMENT_CODE_ACTION, types.CodeActionOptions(code_action_kinds=[types.CodeActionKind.QuickFix])
    )
    def actions(ls: LanguageServer, params: types.CodeActionParams) -> list[types.CodeAction]:
        uri = params.text_document.uri
        lines = _lines(ls, uri)
        offered = []
        for finding, document in session.findings.get(uri, ()):
            span = _range(ls, finding.location, lines)
            if span.start.line <= params.range.end.line and params.range.start.line <= span.end.line:
                diagnostic = _diagnostic(ls, finding, document)
                for title, edits in _cures(ls, finding, lines):
                    offered.append(
                        types.CodeAction(
                            title,
                            kind=types.CodeActionKind.QuickFix,
                            diagnostics=[diagnostic],
                            edit=types.WorkspaceEdit(changes={uri: edits}),
                        )
                    )
        return offered

    return served


def main() -> None:
    """Serve until the editor ends the session."""
    server().start_io()


async def _check_later(ls: LanguageServer, session: Session, uri: str) -> None:
    await asyncio.sleep(DELAY)
    name = to_fs_path(uri)
    if name is None:
        return
    notebook = ls.workspace.get_notebook_document(notebook_uri=uri)
    if notebook is not None:
        document, text = _notebook(ls, notebook, Path(name).resolve())
    elif name.endswith(".py"):
        document, text = Opened(uri, Path(name).resolve()), "\n".join(_lines(ls, uri))
    else:
        return
    try:
        found = await asyncio.to_thread(check, document.path, text)
    except (ConfigError, RuleError) as error:
        ls.window_show_message(types.ShowMessageParams(types.MessageType.Error, f"gradlint: {error}"))
        return
    by_uri: dict[str, list[tuple[Finding, Opened]]] = {uri: [] for uri in document.cells or (uri,)}
    for finding in found:
        by_uri.setdefault(document.uri_of(finding.location), []).append((finding, document))
    for part, findings in by_uri.items():
        _publish(ls, session, part, findings)


def _publish(ls: LanguageServer, session: Session, uri: str, found: list[tuple[Finding, Opened]]) -> None:
    session.findings[uri] = found
    shown = [_diagnostic(ls, finding, document) for finding, document in found]
    ls.text_document_publish_diagnostics(types.PublishDiagnosticsParams(uri, shown))


def _notebook(ls: LanguageServer, notebook: types.NotebookDocument, path: Path) -> tuple[Opened, str]:
    """An open notebook, and its text as the file would have it; cells in other languages are left empty."""
    synced = ls.workspace.text_documents
    code = {
        cell.document: index
        for index, cell in enumerate(notebook.cells)
        if cell.kind is types.NotebookCellKind.Code and unquote(cell.document) in synced
    }
    cells = [
        {"cell_type": "code", "source": "\n".join(_lines(ls, cell.document))}
        if cell.document in code
        else {"cell_type": "markdown", "source": ""}
        for cell in notebook.cells
    ]
    return Opened(notebook.uri, path, code), json.dumps({"cells": cells})


def check(path: Path, text: str) -> list[Finding]:
    """The findings of a text that stands for the file, without running any code of it. Raises ConfigError."""
    resolved = path.resolve()
    found = settings(None, [resolved.parent], {"execute": False, "real": False})
    if Exclusion(found.home, found.exclude).covers(resolved):
        return []
    result = Engine(found.config, find_root(resolved), home=found.home).run([], (resolved, text))
    return [f for f in result.shown() if f.location.path == str(resolved)]


def _lines(ls: LanguageServer, uri: str) -> list[str]:
    """The document's lines as gradlint counts them, none for a file that cannot be read."""
    try:
        text = ls.workspace.get_text_document(uri).source
    except (OSError, UnicodeDecodeError):
        return []
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _position(ls: LanguageServer, line: int, column: int, lines: list[str]) -> types.Position:
    """A line and a column from 1, in characters, as the editor counts: from 0, in the units agreed on."""
    text = lines[line - 1][: column - 1] if 0 < line <= len(lines) else ""
    match ls.workspace.position_encoding:
        case types.PositionEncodingKind.Utf8:
            units = len(text.encode())
        case types.PositionEncodingKind.Utf32:
            units = len(text)
        case _:
            units = len(text.encode("utf-16-le")) // 2
    return types.Position(max(0, line - 1), units)


def _range(ls: LanguageServer, at: Location, lines: list[str]) -> types.Range:
    return types.Range(
        _position(ls, at.line, at.column, lines),
        _position(ls, at.end_line, at.end_column, lines),
    )


def _holds(span: types.Range, at: types.Position) -> bool:
    return (span.start.line, span.start.character) <= (at.line, at.character) <= (span.end.line, span.end.character)


def _diagnostic(ls: LanguageServer, finding: Finding, document: Opened) -> types.Diagnostic:
    rule = registry().get(finding.code)
    return types.Diagnostic(
        range=_range(ls, finding.location, _lines(ls, document.uri_of(finding.location))),
        message=finding.message + (f"\nhelp: {finding.help}" if finding.help else ""),
        severity=SEVERITIES[finding.severity],
        code=finding.code,
        code_description=types.CodeDescription(rule.url()) if rule else None,
        source="gradlint",
        related_information=[
            types.DiagnosticRelatedInformation(types.Location(uri, _range(ls, r.location, _lines(ls, uri))), r.message)
            for r in finding.related
            for uri in (document.uri_of(r.location),)
        ],
    )


def _cures(ls: LanguageServer, finding: Finding, lines: list[str]) -> list[tuple[str, list[types.TextEdit]]]:
    """Titles and edits of what may be done about a finding: its fix, and a comment that suppresses it."""
    cures = []
    fix = finding.fix
    here = (finding.location.path, finding.location.cell)
    if fix is not None and all((e.location.path, e.location.cell) == here for e in fix.edits):
        title = f"{finding.code}: {fix.message}" + ("" if fix.safe else " (may change behaviour)")
        cures.append((title, [types.TextEdit(_range(ls, e.location, lines), e.replacement) for e in fix.edits]))
    if finding.code not in NOT_SUPPRESSED:
        try:
            plain = str if finding.location.cell is None else python_of
            after = suppressed("\n".join(lines), finding, "", plain)
        except (SyntaxError, ValueError, RecursionError):
            after = None
        if after is not None:
            edits = [
                types.TextEdit(
                    types.Range(_position(ls, n, 1, lines), _position(ls, n, len(before or "") + 1, lines)), new or ""
                )
                for n, (before, new) in enumerate(zip_longest(lines, after.split("\n")), 1)
                if before != new
            ]
            if edits:
                cures.append((f"Suppress {finding.code} on this line", edits))
    return cures
