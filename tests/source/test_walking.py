from __future__ import annotations

import ast
from pathlib import Path

import pytest

from gradlint.source.walking import child_nodes, parents_in, walk

SPELLING = (ast.expr_context, ast.operator, ast.unaryop, ast.boolop, ast.cmpop)

SOURCE = '''
import os.path as p, sys
from a import b as c

@decorated(x=1)
async def f(a, /, b: int = 2, *rest, c=3, **more) -> str:
    """Text."""
    global g
    nonlocal_ = lambda q, *r: (yield q)
    async with open(a) as h, b:
        async for i in [x for x in a if x not in b]:
            a[i:2, ...] = {**more, "k": f"{i!r:>{b}}"}
    try:
        del a.b.c
    except (A, B) as error:
        raise C from error
    else:
        assert not a < b <= c, "text"
    finally:
        while (n := a) and b or c:
            break
    match a:
        case {"k": [1, *others], **rest} | P(x, y=None) if a:
            return -a if b else await c
        case _:
            a @= b
            pass
    return {1, 2}

class D(E, metaclass=F):
    attribute: int
'''


@pytest.mark.parametrize("path", [None, __file__, ast.__file__])
def test_everything_but_the_spelling_is_met_in_the_order_of_ast(path: str | None) -> None:
    tree = ast.parse(SOURCE if path is None else Path(path).read_text())
    assert list(walk(tree)) == [n for n in ast.walk(tree) if not isinstance(n, SPELLING)]


def test_the_nodes_inside_a_node_are_those_of_ast() -> None:
    for node in walk(ast.parse(SOURCE)):
        assert child_nodes(node) == [c for c in ast.iter_child_nodes(node) if not isinstance(c, SPELLING)]


def test_every_node_but_the_outermost_knows_the_one_around_it() -> None:
    tree = ast.parse(SOURCE)
    parents = parents_in(tree)
    nodes = list(walk(tree))
    assert id(tree) not in parents
    assert all(n in child_nodes(parents[id(n)]) for n in nodes[1:])
