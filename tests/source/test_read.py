"""Facts of whole scripts: models, optimizers, steps, clipping."""

from __future__ import annotations

import pytest

NET = """
import torch
import torch.optim as O
from torch import nn as n

class Net(n.Module):
    def __init__(self):
        super().__init__()
        self.rnn = n.LSTM(8, 8)
        self.head = n.Linear(8, 2)
    def forward(self, x):
        return self.head(self.rnn(x)[0])
"""

LOOP = (
    NET
    + """
net = Net()
opt = O.Adam(net.parameters(), lr=1e-3)
for x in data:
    loss = net(x).sum()
    loss.backward()
    {clip}
    opt.step()
"""
)


def test_a_plain_loop(read):
    script = read("t.py", {"t.py": LOOP.format(clip="pass")})
    (step,) = script.steps
    assert step.optimizer_step.line == 20
    assert step.backward.line == 18
    assert step.clipping is None
    (model,) = step.models
    assert (model.name, model.recurrence.kinds, model.location.line) == ("net", ("LSTM",), 14)
    assert script.optimizers[0].algorithm == "Adam"
    assert script.optimizers[0].learning_rate.only.value == 1e-3
    assert [e.kind for e in step.events] == ["backward", "step"]


@pytest.mark.parametrize(
    ("clip", "how"),
    [
        ("torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)", "clip_grad_norm_"),
        ("n.utils.clip_grad_value_(net.parameters(), 0.5)", "clip_grad_value_"),
        ("accelerator.clip_grad_norm_(net.parameters(), 1.0)", "clip_grad_norm_"),
        ("[p.grad.data.clamp_(-1, 1) for p in net.parameters()]", "by hand"),
    ],
)
def test_forms_of_clipping(read, clip, how):
    (step,) = read("t.py", {"t.py": LOOP.format(clip=clip)}).steps
    assert step.clipping.how == how
    assert step.clipping.enabled
    assert not step.clipping.conditional


def test_a_commented_clip_is_none(read):
    (step,) = read("t.py", {"t.py": LOOP.format(clip="pass  # clip_grad_norm_(net.parameters(), 1)")}).steps
    assert step.clipping is None


def test_a_clip_after_the_step_is_misplaced(read):
    text = LOOP.format(clip="pass") + "    torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)\n"
    (step,) = read("t.py", {"t.py": text}).steps
    assert step.clipping is None
    assert step.misplaced_clipping.position == "after_step"


@pytest.mark.parametrize(("default", "enabled"), [("5.0", True), ("None", False), ("0", False)])
def test_a_conditional_clip_follows_the_default_of_its_flag(read, default, enabled):
    text = "import argparse\np = argparse.ArgumentParser()\n"
    text += f"p.add_argument('--clip', default={default})\na = p.parse_args()\n"
    clip = "if a.clip: torch.nn.utils.clip_grad_norm_(net.parameters(), a.clip)"
    (step,) = read("t.py", {"t.py": text + LOOP.format(clip=clip)}).steps
    assert step.clipping.enabled is enabled


def test_a_clip_of_another_model_does_not_count(read):
    text = NET + (
        "a, b = Net(), n.Linear(2, 2)\n"
        "opt = O.SGD(a.parameters(), 0.1)\n"
        "a(x).backward()\n"
        "n.utils.clip_grad_norm_(b.parameters(), 1)\n"
        "opt.step()\n"
    )
    (step,) = read("t.py", {"t.py": text}).steps
    assert step.clipping is None


def test_a_helper_in_another_file_clips(read):
    helper = "import torch\ndef tame(model):\n    torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)\n"
    text = "from helper import tame\n" + LOOP.format(clip="tame(net)")
    (step,) = read("t.py", {"t.py": text, "helper.py": helper}).steps
    assert step.clipping.how == "helper"
    assert step.clipping.bound.only.value == 2.0


def test_a_train_function_gets_model_and_optimizer_from_its_caller_in_another_file(read):
    files = {
        "loop.py": "def train(model, opt, data):\n    for x in data:\n        model(x).backward(); opt.step()\n",
        "net.py": NET,
        "main.py": (
            "from net import Net\nfrom loop import train\nimport torch\nm = Net()\n"
            "train(m, torch.optim.SGD(m.parameters(), lr=0.1), [])\n"
        ),
    }
    for entry in ("loop.py", "main.py"):
        (step,) = read(entry, files).steps
        assert step.optimizer_step.path.endswith("loop.py")
        assert step.models[0].recurrence.kinds == ("LSTM",)
        assert step.optimizer.algorithm == "SGD"


def test_two_optimizers_of_a_gan_give_two_steps(read):
    text = """
    import torch
    from torch import nn
    G, D = nn.Linear(2, 2), nn.Linear(2, 1)
    optG = torch.optim.Adam(G.parameters())
    optD = torch.optim.Adam(D.parameters())
    for x in data:
        d_loss = D(x).mean()
        d_loss.backward()
        optD.step()
        g_loss = -D(G(x)).mean()
        g_loss.backward()
        optG.step()
    """
    steps = read("t.py", {"t.py": text}).steps
    assert [[m.name for m in s.models] for s in steps] == [["D"], ["G"]]
    assert all(s.adversarial for s in steps)
    assert steps[0].optimizer.learning_rate.only.value == 1e-3


def test_a_scaler_and_a_closure(read):
    scaled = LOOP.replace("loss.backward()", "scaler.scale(loss).backward()").replace("opt.step()", "scaler.step(opt)")
    (step,) = read("t.py", {"t.py": scaled.format(clip="pass")}).steps
    assert step.scaler
    assert step.optimizer.algorithm == "Adam"
    closure = NET + (
        "net = Net()\nopt = O.LBFGS(net.parameters())\ndef closure():\n    loss = net(x)\n    loss.backward()\n"
        "    return loss\nopt.step(closure)\n"
    )
    (step,) = read("t.py", {"t.py": closure}).steps
    assert step.optimizer.algorithms == ("LBFGS",)


def test_lightning_reports_at_the_trainer(read):
    text = """
    import torch, pytorch_lightning as pl
    class Lit(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.rnn = torch.nn.GRU(2, 2)
        def training_step(self, batch, i):
            return self.rnn(batch)[0].sum()
        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.01)
    trainer = pl.Trainer(max_epochs=1{clip})
    trainer.fit(Lit())
    """
    (step,) = read("t.py", {"t.py": text.replace("{clip}", "")}).steps
    assert (step.framework, step.clipping, step.optimizer_step.line) == ("lightning", None, 11)
    assert step.models[0].recurrence.kinds == ("GRU",)
    assert step.optimizer.learning_rate.only.value == 0.01
    (step,) = read("t.py", {"t.py": text.replace("{clip}", ", gradient_clip_val=0.5")}).steps
    assert step.clipping.enabled


def test_the_hugging_face_trainer_has_its_own_defaults(read):
    text = """
    from transformers import AutoModelForSequenceClassification as A, Trainer, TrainingArguments
    model = A.from_pretrained("bert-base-uncased")
    args = TrainingArguments("out", learning_rate=5e-4{more})
    Trainer(model=model, args=args).train()
    """
    (step,) = read("t.py", {"t.py": text.replace("{more}", "")}).steps
    assert step.optimizer.learning_rate.only.value == 5e-4
    assert step.models[0].pretrained.family == "bert"
    assert step.clipping.enabled
    (step,) = read("t.py", {"t.py": text.replace("{more}", ", max_grad_norm=0")}).steps
    assert not step.clipping.enabled


@pytest.mark.parametrize(
    ("construct", "family", "name"),
    [
        ("torchvision.models.resnet50(pretrained=True)", "cnn", "resnet50 pretrained=True"),
        ("torchvision.models.resnet50(weights='DEFAULT')", "cnn", "resnet50 pretrained=DEFAULT"),
        ("timm.create_model('vit_base_patch16_224', pretrained=True)", "vit", None),
        ("transformers.T5Model.from_pretrained('t5-small')", "t5", "t5-small"),
        ("transformers.AutoModelForCausalLM.from_pretrained('meta-llama/Llama-2-7b-hf')", "decoder-1b", None),
    ],
)
def test_pretrained_families(read, construct, family, name):
    text = f"import torchvision, timm, transformers\nm = {construct}\n"
    (model,) = read("t.py", {"t.py": text}).models
    assert model.pretrained.family == family
    assert model.pretrained.certain
    assert name is None or model.pretrained.name == name


@pytest.mark.parametrize(
    "construct",
    [
        "torchvision.models.resnet50(weights=None)",
        "torchvision.models.resnet50()",
        "timm.create_model('resnet50')",
        "torchvision.models.resnet50(pretrained=False)",
    ],
)
def test_random_weights_are_not_pretrained(read, construct):
    (model,) = read("t.py", {"t.py": f"import torchvision, timm\nm = {construct}\n"}).models
    assert model.pretrained is None


def test_a_tokenizer_is_not_a_model(read):
    text = "from transformers import AutoTokenizer\nt = AutoTokenizer.from_pretrained('bert-base-uncased')\n"
    assert read("t.py", {"t.py": text}).models == ()


def test_a_branch_that_the_default_does_not_take_is_not_pretrained(read):
    text = """
    import torch.optim as O
    from transformers import GPT2LMHeadModel, GPT2Config
    init_from = "scratch"
    if init_from == "scratch":
        model = GPT2LMHeadModel(GPT2Config())
    else:
        model = GPT2LMHeadModel.from_pretrained("gpt2")
    opt = O.AdamW(model.parameters())
    opt.step()
    """
    script = read("t.py", {"t.py": text})
    (model,) = script.optimizers[0].models
    assert model.pretrained is None


def test_freezing_and_heads(read):
    text = """
    import torch, torchvision
    m = torchvision.models.resnet18(pretrained=True)
    for p in m.parameters():
        p.requires_grad = False
    m.fc = torch.nn.Linear(512, 2)
    opt = torch.optim.Adam(m.fc.parameters(), lr=1e-2)
    opt.step()
    """
    script = read("t.py", {"t.py": text})
    model = next(m for m in script.models if m.name == "m")
    assert [f.what for f in model.frozen] == ["all"]
    assert script.optimizers[0].groups[0].part in {"head", "all"}


def test_parameter_groups_keep_their_own_rates(read):
    text = """
    import torch, torchvision
    m = torchvision.models.resnet18(pretrained=True)
    opt = torch.optim.SGD([
        {"params": m.layer4.parameters(), "lr": 1e-4},
        {"params": m.fc.parameters()},
    ], lr=1e-2, momentum=0.9)
    opt.step()
    """
    (optimizer,) = read("t.py", {"t.py": text}).optimizers
    assert [g.learning_rate.only.value for g in optimizer.groups] == [1e-4, 1e-2]
    assert optimizer.groups[1].part == "head"
    assert optimizer.momentum.only.value == 0.9


def test_a_syntax_error_is_raised(read):
    with pytest.raises(SyntaxError):
        read("t.py", {"t.py": "print 'python 2'\n"})


def test_async_as_a_name_is_read_as_older_python_meant_it(read):
    text = LOOP.format(clip="pass").replace("net(x)", "net(x.cuda(async=True))")
    (step,) = read("t.py", {"t.py": text}).steps
    assert (step.optimizer_step.line, step.optimizer_step.column) == (20, 5)


def test_an_attribute_that_is_made_again_from_itself_keeps_what_it_was(read):
    text = """
        import torch
        from transformers import AutoModelForCausalLM

        class Writer:
            def __init__(self, device, start=None):
                if start:
                    self.net = AutoModelForCausalLM.from_pretrained(start)
                else:
                    self.net = AutoModelForCausalLM.from_pretrained("gpt2")
                self.net = self.net.to(device)
                self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=5e-4)

            def update(self, batch):
                self.net(batch).loss.backward()
                self.optimizer.step()
    """
    (optimizer,) = read("write.py", {"write.py": text}).optimizers
    (model,) = optimizer.models
    assert model.pretrained is not None
    assert model.pretrained.name == "gpt2"
