"""Small model graphs, profiles and measurements written by hand."""

from __future__ import annotations

import math
from dataclasses import replace

from gradlint.graph.model import WEIGHTED, InitLaw, ModelGraph, Node, Parameter
from gradlint.graph.profile import LayerProfile, Profile
from gradlint.location import Location
from gradlint.probe.experiment import LayerMeasurement, Measurement, Measurements

PATH = "train.py"


def default_law(fan_in: int, fan_out: int) -> InitLaw:
    return InitLaw("uniform", 0.0, math.sqrt(1 / (3 * fan_in)), fan_in, fan_out, 1 / 3, scheme="kaiming_uniform")


def normal_law(std: float, fan_in: int, fan_out: int, line: int = 100) -> InitLaw:
    return InitLaw(
        "normal", 0.0, std, fan_in, fan_out, fan_in * std**2, "explicit", None, location=Location(PATH, line)
    )


def he_law(fan_in: int, fan_out: int, mode: str = "fan_in", line: int = 100) -> InitLaw:
    std = math.sqrt(2 / (fan_in if mode == "fan_in" else fan_out))
    gain = fan_in * std**2
    at = Location(PATH, line)
    return InitLaw("normal", 0.0, std, fan_in, fan_out, gain, "explicit", "kaiming_normal", mode, at)


def xavier_law(fan_in: int, fan_out: int, line: int = 100) -> InitLaw:
    std = math.sqrt(2 / (fan_in + fan_out))
    at = Location(PATH, line)
    return InitLaw("uniform", 0.0, std, fan_in, fan_out, fan_in * std**2, "explicit", "xavier_uniform", None, at)


class Net:
    """Builds a ModelGraph one operation at a time; every method returns the new node's id."""

    def __init__(self, shape: tuple[int | None, ...] | None = (32, 64), dtype: str = "float32") -> None:
        self.nodes: list[Node] = []
        self.parameters: list[Parameter] = []
        self.last = self.node("input", "input", shape=shape, attributes={"dtype": dtype}, inputs=())

    def node(self, kind: str, op: str, inputs: tuple[int, ...] | None = None, **more: object) -> int:
        i = len(self.nodes)
        given = (self.last,) if inputs is None else inputs
        if "shape" not in more:
            more["shape"] = self.nodes[given[0]].shape if given else None
        at = Location(PATH, 10 + i)
        name = str(more.pop("name", f"{op}{i}"))
        self.nodes.append(Node(i, kind, op, name, given, constructor=at, **more))  # type: ignore[arg-type]
        self.last = i
        return i

    def linear(self, out: int = 64, law: InitLaw | str | None = "default", at: int | None = None, **more: str) -> int:
        source = self.last if at is None else at
        shape = self.nodes[source].shape
        fan_in = (shape[-1] if shape else None) or 64
        name = more.get("name", f"fc{len(self.nodes)}")
        weight = more.get("weight", f"{name}.weight")
        found = default_law(fan_in, out) if law == "default" else law
        assert not isinstance(found, str)
        if all(p.name != weight for p in self.parameters):
            self.parameters.append(Parameter(weight, (out, fan_in), found))
        return self.node(
            "linear",
            "linear",
            (source,),
            shape=(*shape[:-1], out) if shape else None,
            attributes={"in_features": fan_in, "out_features": out},
            parameters={"weight": weight},
            name=name,
        )

    def act(self, op: str = "relu", at: int | None = None, **attributes: object) -> int:
        return self.node("activation", op, None if at is None else (at,), attributes=attributes)

    def norm(self, op: str = "layer_norm", at: int | None = None) -> int:
        return self.node("normalization", op, None if at is None else (at,))

    def add(self, a: int, b: int) -> int:
        return self.node("add", "add", (a, b))

    def mul(self, a: int, b: int, op: str = "mul") -> int:
        return self.node("mul", op, (a, b))

    def dense(self, count: int, op: str, width: int = 64, norm: str | None = None, law: object = "default") -> Net:
        for _ in range(count):
            self.linear(width, law=law)  # type: ignore[arg-type]
            if norm:
                self.norm(norm)
            self.act(op)
        return self

    def graph(self, **more: object) -> ModelGraph:
        if self.nodes[-1].kind != "output":
            self.node("output", "output")
        known = {"name": "Net", "class_name": "Net", "location": Location(PATH, 5)} | more
        return ModelGraph(nodes=tuple(self.nodes), parameters=tuple(self.parameters), **known)  # type: ignore[arg-type]


def sloped(graph: ModelGraph, decades: float, **more: object) -> Profile:
    """A profile whose gradient changes by `decades` for every weighted layer back towards the input."""
    depth: dict[int, int] = {}
    for node in reversed(graph.nodes):
        below = [depth[c] + (graph.nodes[c].kind in WEIGHTED) for c in graph.consumers[node.id] if c in depth]
        depth[node.id] = max(below, default=0)
    at = tuple(decades * depth[n.id] for n in graph.nodes)
    layers = tuple(
        LayerProfile(n.id, n.name, n.kind, activation_std=0.0, gradient=at[n.id], weight_gradient=-1.0)
        for n in graph.nodes
        if n.kind in WEIGHTED
    )
    known: dict[str, object] = {
        "layers": layers,
        "gradient_at": at,
        "std_at": tuple(0.0 for _ in graph.nodes),
        "uncertainty_at": tuple(0.0 for _ in graph.nodes),
        "void": tuple(False for _ in graph.nodes),
    }
    return Profile(**(known | more))  # type: ignore[arg-type]


def measured(layers: tuple[str, ...], ratio: float, weight_gradient: float = 0.1, **more: object) -> Measurement:
    """A baseline in which the gradient changes evenly by `ratio` from the last of the layers to the first."""
    steps = max(1, len(layers) - 1)
    values = {name: ratio ** ((steps - i) / steps) for i, name in enumerate(layers)}
    seen = {
        name: LayerMeasurement(name, activation_std=1.0, gradient=v, weight_gradient=weight_gradient)
        for name, v in values.items()
    }
    known: dict[str, object] = {"kind": "baseline", "layers": seen, "seeds": 3}
    known["per_seed"] = {name: (v, v, v) for name, v in values.items()}
    return Measurement(**(known | more))  # type: ignore[arg-type]


def seen(**by_key: Measurement) -> Measurements:
    return Measurements({key.replace("_", " "): value for key, value in by_key.items()})


def labelled(measurement: Measurement, label: str) -> Measurement:
    return replace(measurement, label=label)
