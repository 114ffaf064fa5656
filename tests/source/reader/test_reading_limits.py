"""Where the source reader stops, so that a file costs what its text is worth, and what it says then."""

from __future__ import annotations

import pytest

from gradlint.source.reader import branches
from tests.source.reader.test_source_reader import graphs_of, ops

TREE = """
    import sys

    class Tree(nn.Module):
        def __init__(self, depth):
            super().__init__()
            self.fc = nn.Linear(4, 4)
            if depth > 0:
                self.left = Tree(depth - 1)
                self.right = Tree(depth - 1)

        def forward(self, x):
            return self.fc(x)

    net = Tree({depth})
"""


def test_a_module_that_contains_itself_to_an_unknown_depth_is_left_at_its_first_turn():
    graphs = graphs_of(TREE.format(depth="int(sys.argv[1])"))
    assert [g.class_name for g in graphs] == ["Tree"]
    assert len(graphs[0].parameters) <= 6


def test_a_module_that_contains_itself_to_a_known_depth_is_read_to_the_end():
    (graph,) = graphs_of(TREE.format(depth="2"))
    assert len(graph.parameters) == 2 * (1 + 2 + 4)


def test_a_layer_chosen_in_a_branch_that_was_not_read_is_not_invented(monkeypatch):
    text = """
        import sys
        if len(sys.argv) > 1:
            act = nn.ReLU()
        else:
            act = nn.Tanh()
        net = nn.Sequential(nn.Linear(4, 4), act, nn.Linear(4, 4))
    """
    both = graphs_of(text)
    monkeypatch.setattr(branches, "MAX_DOUBTFUL", -1)
    (unread,) = graphs_of(text)
    assert any("relu" in ops(g) or "tanh" in ops(g) for g in both)
    assert not {"relu", "tanh"} & set(ops(unread))
    assert unread.confidence != "high"


@pytest.mark.parametrize("kept", ["return nn.Linear(4, 4)", "made = nn.Linear(4, 4)\n            return made"])
def test_a_value_returned_from_a_branch_that_was_not_read_is_not_known(monkeypatch, kept):
    monkeypatch.setattr(branches, "MAX_DOUBTFUL", -1)
    graphs = graphs_of(f"""
        import sys
        def make():
            if len(sys.argv) > 1:
                return nn.Conv2d(3, 3, 3)
            {kept}
        net = nn.Sequential(make(), nn.ReLU())
    """)
    assert all("conv2d" not in ops(g) for g in graphs)
    assert all(g.confidence != "high" for g in graphs if g.class_name == "Sequential")
