"""Recurrences written by hand: what is one, and which loops are none."""

from __future__ import annotations

import pytest

RECURRENT_BODIES = {
    "a cell of the project under a name of its own": """
        self.cell = Cell(2, 4)
    def forward(self, x):
        hn = torch.zeros(4)
        for t in range(x.size(0)):
            hn = self.cell(x[t], hn)
        return hn
    """,
    "cells that are registered by name and kept for each layer": """
        self.cells = []
        for i in range(2):
            cell = self.make_cell()
            setattr(self, f"cell{i}", cell)
            self.cells.append(cell)
    def make_cell(self):
        return Cell(2, 4)
    def forward(self, x):
        kept = [torch.zeros(4)] * 2
        for t in range(x.size(1)):
            y = x[:, t]
            for i in range(2):
                cell = self.cells[i]
                h = kept[i]
                y = cell(y, h)
                kept[i] = y
        return y
    """,
    "scalar weights in a method that makes one step": """
        self.u, self.v = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))
    def advance(self, value, memory):
        return torch.tanh(memory * self.u + value * self.v)
    def forward(self, x):
        memory = 0
        for t in range(len(x)):
            memory = self.advance(x[t], memory)
        return memory
    """,
    "weights that a method makes": """
        self.inner = self.make()
    def make(self):
        return nn.Linear(4, 4).to("cpu")
    def forward(self, x):
        h = torch.zeros(4)
        for t in range(x.size(0)):
            h = torch.tanh(self.inner(h) + x[t])
        return h
    """,
    "a method that calls itself on the children of a node": """
        self.up, self.own = nn.Linear(4, 4), nn.Linear(2, 4)
    def forward(self, tree, values):
        for child in tree.children:
            self.forward(child, values)
        below = sum(child.state for child in tree.children)
        tree.state = torch.tanh(self.up(below) + self.own(values[tree.index]))
        return tree.state
    """,
    "a method that walks down a tree and leaves the weights to another": """
        self.up, self.own = nn.Linear(4, 4), nn.Linear(2, 4)
    def forward(self, tree):
        for child in tree.children:
            self.forward(child)
        return self.join(tree)
    def join(self, tree):
        return torch.tanh(self.up(sum(c.state for c in tree.children)) + self.own(tree.value))
    """,
    "a state that only some turns write before they read it": """
        self.inner, self.own = nn.Linear(4, 4), nn.Linear(2, 4)
    def forward(self, x):
        for t in range(x.size(0)):
            if t == 0:
                h = torch.zeros(4)
            with torch.autocast("cpu"):
                h = torch.tanh(self.inner(h) + self.own(x[t]))
        return h
    """,
}
FEEDFORWARD_BODIES = {
    "a block that is applied again without an input": """
        self.cell = Cell(4, 4)
    def forward(self, x):
        h = x
        for i in range(3):
            h = self.cell(h, h)
        return h
    """,
    "a cell for each layer": """
        self.cells = nn.ModuleList(Cell(4, 4) for _ in range(3))
    def forward(self, x):
        h = x
        for i in range(3):
            h = self.cells[i](h, x)
        return h
    """,
    "a scale for each layer": """
        self.scale = nn.Parameter(torch.ones(3))
        self.cells = nn.ModuleList(Cell(4, 4) for _ in range(3))
    def forward(self, x):
        for i, cell in enumerate(self.cells):
            x = x + self.scale[i] * cell(x, x)
        return x
    """,
    "a method that calls itself on a smaller level": """
        self.low = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(4))
    def forward(self, x, level=3):
        y = self.low[level](x)
        return y if level == 0 else y + self.forward(y, level - 1)
    """,
    "heads over the parts of an input": """
        self.head = nn.Linear(4, 4)
    def forward(self, x):
        found = []
        for i in range(x.size(1)):
            y = self.head(x[:, i])
            found.append(y)
        return torch.stack(found)
    """,
    "layers one after the other over the parts of an input": """
        self.head, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
    def forward(self, x):
        found = []
        for i in range(x.size(1)):
            y = self.head(x[:, i])
            y = self.last(y)
            found.append(y)
        for part in x:
            if part.dim() == 1:
                part = part[None]
            with torch.autocast("cpu"):
                part = self.last(part)
            found.append(part)
        return torch.stack(found)
    """,
    "a variable that both branches write first": """
        self.head, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
    def forward(self, x):
        found = []
        for i in range(x.size(1)):
            if i % 2:
                y = self.head(x[:, i])
            else:
                y = x[:, i]
            y = self.last(y)
            found.append(y)
        return torch.stack(found)
    """,
    "a method that goes through the modules below": """
        self.head = nn.Linear(4, 4)
    def freeze(self, module):
        for child in module.children():
            self.freeze(child)
    def forward(self, x):
        return self.head(x)
    """,
    "a method that counts the nodes of a tree": """
        self.head = nn.Linear(4, 4)
    def count(self, node):
        return 1 + self.count(node.left) + self.count(node.right) if node else 0
    def forward(self, tree, x):
        return self.head(x) / self.count(tree)
    """,
}


def recurrence_of(read, body):
    text = """
import torch
from torch import nn

class Cell(nn.Module):
    def __init__(self, size, hidden):
        super().__init__()
        self.x2h, self.h2h = nn.Linear(size, hidden), nn.Linear(hidden, hidden)
    def forward(self, x, hidden):
        return torch.tanh(self.x2h(x) + self.h2h(hidden))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
"""
    classes = read("t.py", {"t.py": text + body + "\n"}).classes
    return next(c.recurrence for c in classes if c.name == "Net")


@pytest.mark.parametrize("body", RECURRENT_BODIES)
def test_forms_of_a_recurrence(read, body):
    found = recurrence_of(read, RECURRENT_BODIES[body])
    assert found is not None
    assert found.kinds == ("hand-written",)


@pytest.mark.parametrize("body", FEEDFORWARD_BODIES)
def test_loops_that_are_no_recurrence(read, body):
    assert recurrence_of(read, FEEDFORWARD_BODIES[body]) is None


def test_a_recurrence_written_by_hand(read):
    text = """
    import torch
    from torch import nn
    class Cell(nn.Module):
        def __init__(self):
            super().__init__()
            self.i2h, self.h2h = nn.Linear(2, 4), nn.Linear(4, 4)
            self.W = nn.Linear(4, 4)
        def forward(self, x):
            h = torch.zeros(4)
            for t in range(x.size(0)):
                h = torch.tanh(self.W(h) + x[t])
            return h
    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(9)])
            self.out = nn.Linear(4, 4)
        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            for i in range(9):
                x = self.layers[i](x)
            return self.out(x)
    """
    by_name = {c.name: c for c in read("t.py", {"t.py": text}).classes}
    assert by_name["Cell"].recurrence.kinds == ("hand-written",)
    assert by_name["Stack"].recurrence is None
