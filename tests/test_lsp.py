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
        self.asked: types.ServerCapabilities
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
        notebooks = types.NotebookDocumentClientCapabilities(types.NotebookDocumentSyncClientCapabilities())
        abilities = types.ClientCapabilities(notebook_document=notebooks)
        parameters = types.InitializeParams(abilities, root_uri=root)
        editor.asked = (await editor.initialize_async(parameters)).capabilities
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
    (tmp_path / "pyproject.toml").write_text("[tool.gradlint]\nexec = true\npython = 'not/made/yet'\n")

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


CELL = "vscode-notebook-cell:/nb.ipynb#W{}"
HEAD, TAIL = registry()["GL401"].BAD.split("model = ", 1)
CELLS = (
    ("markdown", "# title"),
    ("python", f"!pip install x\n{HEAD}"),
    ("sql", "select 1"),
    ("python", f"model = {TAIL}"),
)


def open_notebook(editor: Editor, path: Path) -> types.NotebookDocument:
    """Open a notebook as an editor does: all cells are told, the texts of those in Python."""
    kinds = [types.NotebookCellKind.Markup if x == "markdown" else types.NotebookCellKind.Code for x, _ in CELLS]
    cells = [types.NotebookCell(kind, CELL.format(i)) for i, kind in enumerate(kinds)]
    document = types.NotebookDocument(path.as_uri(), "jupyter-notebook", 1, cells)
    texts = [
        types.TextDocumentItem(CELL.format(i), language, 1, text)
        for i, (language, text) in enumerate(CELLS)
        if language == "python"
    ]
    editor.notebook_document_did_open(types.DidOpenNotebookDocumentParams(document, texts))
    return document


async def of_cells(editor: Editor) -> dict[str, list[types.Diagnostic]]:
    """The next diagnostics of both Python cells."""
    published = [await asyncio.wait_for(editor.published.get(), SECONDS) for _ in range(2)]
    return {p.uri: list(p.diagnostics) for p in published}


def test_a_notebook_is_checked_as_a_whole_and_shown_cell_by_cell(tmp_path: Path) -> None:
    path = tmp_path / "nb.ipynb"

    async def act(editor: Editor) -> None:
        assert editor.asked.notebook_document_sync is not None
        (selector,) = editor.asked.notebook_document_sync.notebook_selector
        assert selector.notebook == "jupyter-notebook" and [c.language for c in selector.cells or ()] == ["python"]
        notebook = open_notebook(editor, path)
        shown = await of_cells(editor)
        assert set(shown) == {CELL.format(1), CELL.format(3)}
        (step,) = [d for d in shown[CELL.format(3)] if d.code == "GL401"]
        lines = CELLS[3][1].split("\n")
        assert lines[step.range.start.line][step.range.start.character : step.range.end.character] == "optimizer.step()"
        assert CELL.format(1) in {r.location.uri for r in step.related_information or ()}
        cell = types.TextDocumentIdentifier(CELL.format(3))
        hovered = await editor.text_document_hover_async(types.HoverParams(cell, step.range.start))
        assert hovered is not None and "unclipped-recurrent-step" in str(hovered.contents)
        asked = types.CodeActionParams(cell, step.range, types.CodeActionContext([step]))
        actions = await editor.text_document_code_action_async(asked)
        edits = {a.title: a.edit.changes[cell.uri] for a in actions or () if a.edit and a.edit.changes}  # type: ignore[union-attr]
        assert edits["Suppress GL401 on this line"][0].new_text == "    optimizer.step()  # gradlint: ignore[GL401]"
        (clip,) = edits["GL401: clip the gradient of `model` to norm 1"]
        assert clip.range.start == types.Position(step.range.start.line, 0) and "clip_grad_norm_" in clip.new_text

        lines.insert(step.range.start.line, clip.new_text.rstrip("\n"))
        whole = types.TextDocumentContentChangeWholeDocument("\n".join(lines))
        text = types.NotebookDocumentCellContentChanges(types.VersionedTextDocumentIdentifier(2, cell.uri), [whole])
        event = types.NotebookDocumentChangeEvent(cells=types.NotebookDocumentCellChanges(text_content=[text]))
        version = types.VersionedNotebookDocumentIdentifier(2, notebook.uri)
        editor.notebook_document_did_change(types.DidChangeNotebookDocumentParams(version, event))
        identifier = types.NotebookDocumentIdentifier(notebook.uri)
        editor.notebook_document_did_save(types.DidSaveNotebookDocumentParams(identifier))
        assert "GL401" not in [d.code for d in (await of_cells(editor))[cell.uri]]

        cells = [types.TextDocumentIdentifier(CELL.format(i)) for i in (1, 3)]
        editor.notebook_document_did_close(types.DidCloseNotebookDocumentParams(identifier, cells))
        assert not any((await of_cells(editor)).values())

    session(tmp_path, act)
    assert not path.exists()
