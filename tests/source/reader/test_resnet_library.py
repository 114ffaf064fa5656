"""Nets derived from torchvision's residual nets."""

import pytest

from tests.source.reader.test_entrances import graphs_of

PLAIN = """
    {imports}

    class Plain({block}):
        def forward(self, x):
            return self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))

    net = {net}(Plain, [3, 4, 6, 3], num_classes=10)
"""


def test_the_library_itself_has_its_shortcuts_and_names():
    (graph,) = graphs_of("""
        from torchvision.models.resnet import Bottleneck, ResNet

        net = ResNet(Bottleneck, [3, 4, 6, 3])
        """)
    assert sum(n.kind == "add" for n in graph.nodes) == 16
    assert sum(n.kind == "conv" for n in graph.nodes) == 53
    shapes = {p.name: p.shape for p in graph.parameters}
    assert shapes["layer2.0.downsample.0.weight"] == (512, 256, 1, 1)
    assert shapes["layer4.2.conv3.weight"] == (2048, 512, 1, 1)


@pytest.mark.parametrize(
    ("imports", "block", "net"),
    [
        ("from torchvision.models.resnet import BasicBlock, ResNet", "BasicBlock", "ResNet"),
        ("import torchvision.models.resnet as R", "R.BasicBlock", "R.ResNet"),
        ("import torchvision", "torchvision.models.resnet.BasicBlock", "torchvision.models.ResNet"),
    ],
)
def test_what_a_derived_block_replaces_is_seen(imports, block, net):
    (graph,) = graphs_of(PLAIN.format(imports=imports, block=block, net=net))
    assert graph.stopped_at is None
    assert not any(n.kind == "add" for n in graph.nodes)
    convolutions = [n for n in graph.nodes if n.kind == "conv"]
    assert len(convolutions) == 33
    assert all(n.location is not None and n.location.path == "/nowhere/train.py" for n in convolutions)


def test_a_ready_made_net_is_left_as_it_is():
    (graph,) = graphs_of("from torchvision.models import resnet18\n\nnet = resnet18()\n")
    assert graph.stopped_at is not None
