"""The editor server over a real session on standard input and output."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

pytest.importorskip("pygls")

from lsprotocol import types
from pygls.lsp.client import BaseLanguageClient

from gradlint.rule import registry
from tests.test_cli import CLEAN, SIGMOIDS

SECONDS = 60.0
BOMB = "import pathlib\npathlib.Path(__file__).with_suffix('.ran').write_text('')\n"


class Editor(BaseLanguageClient):
    """A client that keeps what is published."""

    def __init__(self) -> None:
        super().__init__("editor", "1")
        self.published: asyncio.Queue[types.PublishDiagnosticsParams] = asyncio.Queue()
        self.messages: asyncio.Queue[str] = asyncio.Queue()

        @self.feature(types.TEXT_DOCUMENT_PUBLISH_DIAGNOSTICS)
        def publish(params: types.PublishDiagnosticsParams) -> None:
            self.published.put_nowait(params)

        @self.feature(types.WINDOW_SHOW_MESSAGE)
        def message(params: types.ShowMessageParams) -> None:
            self.messages.put_nowait(params.message)

    async def diagnostics(self) -> list[types.Diagnostic]:
        return list((await asyncio.wait_for(self.published.get(), SECONDS)).diagnostics)

    def open(self, path: Path, text: str) -> types.TextDocumentIdentifier:
        document = types.TextDocumentItem(path.as_uri(), "python", 1, text)
        self.text_document_did_open(types.DidOpenTextDocumentParams(document))
        return types.TextDocumentIdentifier(path.as_uri())


def session(folder: Path, act: Callable[[Editor], Awaitable[None]]) -> None:
    async def run() -> None:
        editor = Editor()
        await editor.start_io(sys.executable, "-m", "gradlint", "lsp", cwd=folder)
        root = folder.as_uri()
        await editor.initialize_async(types.InitializeParams(types.ClientCapabilities(), root_uri=root))
        editor.initialized(types.InitializedParams())
        try:
            await asyncio.wait_for(act(editor), 2 * SECONDS)
        finally:
            await editor.shutdown_async(None)
            editor.exit(None)
            await editor.stop()

    asyncio.run(run())


def test_opening_shows_what_check_shows_and_runs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "deep.py"
    path.write_text(BOMB + SIGMOIDS)

    async def act(editor: Editor) -> None:
        editor.open(path, BOMB + SIGMOIDS)
        (stack,) = [d for d in await editor.diagnostics() if d.code == "GL101"]
        assert stack.source == "gradlint" and "sigmoid" in stack.message and "help:" in stack.message
        assert (stack.range.start.line, stack.range.end.line) == (6, 6)
        assert {r.location.range.start.line for r in stack.related_information or ()} >= {7, 13}
        assert stack.code_description is not None and stack.code_description.href.endswith("saturating-stack.md")

    session(tmp_path, act)
    assert not path.with_suffix(".ran").exists()


def test_hover_explains_the_rule_and_elsewhere_nothing(tmp_path: Path) -> None:
    async def act(editor: Editor) -> None:
        document = editor.open(tmp_path / "deep.py", SIGMOIDS)
        (stack,) = [d for d in await editor.diagnostics() if d.code == "GL101"]
        shown = await editor.text_document_hover_async(types.HoverParams(document, stack.range.start))
        assert shown is not None and isinstance(shown.contents, types.MarkupContent)
        assert registry()["GL101"].documentation() in shown.contents.value
        assert await editor.text_document_hover_async(types.HoverParams(document, types.Position(0, 0))) is None

    session(tmp_path, act)


def test_the_quick_fix_suppresses(tmp_path: Path) -> None:
    path = tmp_path / "deep.py"

    async def act(editor: Editor) -> None:
        document = editor.open(path, SIGMOIDS)
        (stack,) = [d for d in await editor.diagnostics() if d.code == "GL101"]
        asked = types.CodeActionParams(document, stack.range, types.CodeActionContext([stack]))
        actions = await editor.text_document_code_action_async(asked)
        (action,) = [
            a for a in actions or () if isinstance(a, types.CodeAction) and a.title.startswith("Suppress GL101")
        ]
        assert action.edit is not None and action.edit.changes is not None
        (edit,) = action.edit.changes[path.as_uri()]
        lines = SIGMOIDS.split("\n")
        line = lines[edit.range.start.line]
        assert (edit.range.start.character, edit.range.end.character) == (0, len(line))
        lines[edit.range.start.line] = edit.new_text
        assert edit.new_text == f"{line}  # gradlint: ignore[GL101]"
        editor.open(tmp_path / "again.py", "\n".join(lines))
        assert [d for d in await editor.diagnostics() if d.code in ("GL101", "GL002")] == []

    session(tmp_path, act)


def test_saving_checks_again_once_and_closing_clears(tmp_path: Path) -> None:
    path = tmp_path / "deep.py"

    async def act(editor: Editor) -> None:
        document = editor.open(path, CLEAN)
        assert await editor.diagnostics() == []
        whole = types.TextDocumentContentChangeWholeDocument(SIGMOIDS)
        version = types.VersionedTextDocumentIdentifier(2, document.uri)
        editor.text_document_did_change(types.DidChangeTextDocumentParams(version, [whole]))
        for _ in range(3):
            editor.text_document_did_save(types.DidSaveTextDocumentParams(document))
        assert "GL101" in [d.code for d in await editor.diagnostics()]
        editor.text_document_did_close(types.DidCloseTextDocumentParams(document))
        assert await editor.diagnostics() == []
        assert editor.published.empty()

    session(tmp_path, act)


def test_columns_count_utf_16_units(tmp_path: Path) -> None:
    text = "import torch\nx = '😀'; y = 1  # gradlint: ignore[GL101]\n"

    async def act(editor: Editor) -> None:
        editor.open(tmp_path / "a.py", text)
        (unused,) = [d for d in await editor.diagnostics() if d.code == "GL002"]
        comment = text.split("\n")[1].index("#")
        assert unused.range.start == types.Position(1, comment + 1)

    session(tmp_path, act)


def test_a_wrong_configuration_and_a_broken_file_are_said(tmp_path: Path) -> None:
    config = tmp_path / "pyproject.toml"
    config.write_text("[tool.gradlint]\nselec = 1\n")

    async def act(editor: Editor) -> None:
        document = editor.open(tmp_path / "a.py", "import torch\nprint 'x'\n")
        assert "unknown key" in await asyncio.wait_for(editor.messages.get(), SECONDS)
        config.unlink()
        editor.text_document_did_save(types.DidSaveTextDocumentParams(document))
        assert [d.code for d in await editor.diagnostics()] == ["GL001"]

    session(tmp_path, act)
