"""`gradlint lsp`: diagnostics for editors over standard input and output. It never runs code of the project."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

import msgspec
from lsprotocol import types
from pygls.lsp.server import LanguageServer
from pygls.uris import from_fs_path, to_fs_path

from gradlint import __version__
from gradlint.config import ConfigError, find, load
from gradlint.discover import discover
from gradlint.engine import Engine
from gradlint.finding import Finding, Severity
from gradlint.ignoring import NOT_SUPPRESSED, suppressed
from gradlint.location import Location
from gradlint.rule import RuleError, registry
from gradlint.source.project import UnreadableError, find_root, read_text

DELAY = 0.3
"""Seconds without a further event before a document is checked, so that saving twice checks once."""

SEVERITIES = {
    Severity.ERROR: types.DiagnosticSeverity.Error,
    Severity.WARNING: types.DiagnosticSeverity.Warning,
    Severity.INFO: types.DiagnosticSeverity.Information,
}


@dataclass
class Session:
    """What the server knows of the open documents: their findings, and the checks that wait."""

    findings: dict[str, list[Finding]] = field(default_factory=dict)
    waiting: dict[str, asyncio.Task[None]] = field(default_factory=dict)


def server() -> LanguageServer:
    """A language server: diagnostics on opening and saving, hover, and quick fixes that suppress or cure."""
    served = LanguageServer("gradlint", f"v{__version__}")
    session = Session()

    @served.feature(types.TEXT_DOCUMENT_DID_OPEN)
    def opened(ls: LanguageServer, params: types.DidOpenTextDocumentParams) -> None:
        _schedule(ls, session, params.text_document.uri)

    @served.feature(types.TEXT_DOCUMENT_DID_SAVE)
    def saved(ls: LanguageServer, params: types.DidSaveTextDocumentParams) -> None:
        _schedule(ls, session, params.text_document.uri)

    @served.feature(types.TEXT_DOCUMENT_DID_CLOSE)
    def closed(ls: LanguageServer, params: types.DidCloseTextDocumentParams) -> None:
        uri = params.text_document.uri
        if (task := session.waiting.pop(uri, None)) is not None:
            task.cancel()
        session.findings.pop(uri, None)
        ls.text_document_publish_diagnostics(types.PublishDiagnosticsParams(uri, []))

    @served.feature(types.TEXT_DOCUMENT_HOVER)
    def hover(ls: LanguageServer, params: types.HoverParams) -> types.Hover | None:
        uri = params.text_document.uri
        lines = _lines(ls, uri)
        found = [f for f in session.findings.get(uri, ()) if _holds(_range(ls, f.location, lines), params.position)]
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
        for finding in session.findings.get(uri, ()):
            span = _range(ls, finding.location, lines)
            if span.start.line <= params.range.end.line and params.range.start.line <= span.end.line:
                diagnostic = _diagnostic(ls, finding, lines)
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


def _schedule(ls: LanguageServer, session: Session, uri: str) -> None:
    """Check the document once no event of it has come for a while."""
    if (earlier := session.waiting.get(uri)) is not None:
        earlier.cancel()
    session.waiting[uri] = asyncio.get_running_loop().create_task(_check_later(ls, session, uri))


async def _check_later(ls: LanguageServer, session: Session, uri: str) -> None:
    await asyncio.sleep(DELAY)
    name = to_fs_path(uri)
    if name is None or not name.endswith(".py"):
        return
    lines = _lines(ls, uri)
    try:
        found = await asyncio.to_thread(check, Path(name), "\n".join(lines))
    except (ConfigError, RuleError) as error:
        ls.window_show_message(types.ShowMessageParams(types.MessageType.Error, f"gradlint: {error}"))
        return
    session.findings[uri] = found
    shown = [_diagnostic(ls, finding, lines) for finding in found]
    ls.text_document_publish_diagnostics(types.PublishDiagnosticsParams(uri, shown))


def check(path: Path, text: str) -> list[Finding]:
    """The findings of a text that stands for the file, without running any code of it. Raises ConfigError."""
    resolved = path.resolve()
    config = load(find(resolved.parent))
    if resolved.exists() and not discover([path], (*config.exclude, *config.extend_exclude), force_exclude=True):
        return []
    engine = Engine(msgspec.structs.replace(config, exec=False, real=False), find_root(resolved))
    found = engine.run([], (resolved, text)).shown()
    return [f for f in found if f.location.path == str(resolved)]


def _lines(ls: LanguageServer, uri: str) -> list[str]:
    """The document's lines as gradlint counts them."""
    return ls.workspace.get_text_document(uri).source.replace("\r\n", "\n").replace("\r", "\n").split("\n")


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


def _diagnostic(ls: LanguageServer, finding: Finding, lines: list[str]) -> types.Diagnostic:
    rule = registry().get(finding.code)
    return types.Diagnostic(
        range=_range(ls, finding.location, lines),
        message=finding.message + (f"\nhelp: {finding.help}" if finding.help else ""),
        severity=SEVERITIES[finding.severity],
        code=finding.code,
        code_description=types.CodeDescription(rule.url()) if rule else None,
        source="gradlint",
        related_information=[
            types.DiagnosticRelatedInformation(
                types.Location(
                    from_fs_path(r.location.path) or "",
                    _range(ls, r.location, lines if r.location.path == finding.location.path else _other(r.location)),
                ),
                r.message,
            )
            for r in finding.related
        ],
    )


def _other(at: Location) -> list[str]:
    try:
        return read_text(Path(at.path)).split("\n")
    except UnreadableError:
        return []


def _cures(ls: LanguageServer, finding: Finding, lines: list[str]) -> list[tuple[str, list[types.TextEdit]]]:
    """Titles and edits of what may be done about a finding: its fix, and a comment that suppresses it."""
    cures = []
    fix = finding.fix
    if fix is not None and all(e.location.path == finding.location.path for e in fix.edits):
        title = f"{finding.code}: {fix.message}" + ("" if fix.safe else " (may change behaviour)")
        cures.append((title, [types.TextEdit(_range(ls, e.location, lines), e.replacement) for e in fix.edits]))
    if finding.code not in NOT_SUPPRESSED:
        try:
            after = suppressed("\n".join(lines), finding, "")
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
