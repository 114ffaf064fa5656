"""What clips a step, what recurs, and what of a checkpoint is trained, in forms seen in public scripts."""

from __future__ import annotations

import pytest

from gradlint.rules.clip_ineffective import ClipIneffective
from gradlint.rules.clip_misplaced import ClipMisplaced

LSTM = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(4, 8)
    def forward(self, x):
        return self.rnn(x)[0]

net = Net()
"""
PLAIN = LSTM + "opt = torch.optim.SGD(net.parameters(), lr=0.1)\n"


def test_a_clip_that_is_looked_up_by_name_clips(read):
    text = PLAIN + "mode = input()\nloss = net(x).sum()\nloss.backward()\n"
    text += "getattr(torch.nn.utils, 'clip_grad_%s_' % mode)(net.parameters(), 0.1)\nopt.step()\n"
    (step,) = read("train.py", {"train.py": text}).steps
    assert step.clipping is not None
    assert step.clipping.enabled


def test_an_optimizer_wrapped_to_clamp_the_gradient_in_its_closure_clips(read):
    text = (
        PLAIN
        + """
from torch.nn.functional import hardtanh

def clipped(inner):
    class Wrapper:
        def step(self, closure):
            def around():
                loss = closure()
                for group in inner.param_groups:
                    for p in group["params"]:
                        hardtanh(p.grad, -1, 1, inplace=True)
                return loss
            return inner.step(around)
    return Wrapper()

opt = clipped(opt)
def closure():
    loss = net(x).sum()
    loss.backward()
    return loss
opt.step(closure)
"""
    )
    steps = [s for s in read("train.py", {"train.py": text}).steps if s.models]
    assert steps
    assert all(s.clipping is not None for s in steps)


def test_bert_adam_clips_by_its_own_default(read):
    text = LSTM + "from pytorch_pretrained_bert import BertAdam\nopt = BertAdam(net.parameters(), lr=5e-5)\n"
    (step,) = read("train.py", {"train.py": text + "net(x).sum().backward()\nopt.step()\n"}).steps
    assert step.clipping is not None


def test_only_the_optimizers_of_a_model_library_are_optimizers(read):
    text = (
        "from pytorch_pretrained_bert import BertModel, BertConfig\nfrom torch.optim import Adam\n"
        "net = BertModel(BertConfig(9))\nopt = Adam(net.parameters(), lr=1e-4)\nnet(x).sum().backward()\nopt.step()\n"
    )
    script = read("train.py", {"train.py": text})
    assert [o.algorithms for o in script.optimizers] == [("Adam",)]


@pytest.mark.parametrize("default", [-1, 0])
def test_a_bound_that_is_asked_for_first_is_not_ineffective(read, default):
    text = (
        f"import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('--clip', default={default})\n"
        "args = parser.parse_args()\n" + PLAIN + "net(x).sum().backward()\nif args.clip > 0:\n"
        "    torch.nn.utils.clip_grad_norm_(net.parameters(), args.clip)\nopt.step()\n"
    )
    assert not list(ClipIneffective().check_script(read("train.py", {"train.py": text})))


def test_scaling_the_gradient_of_another_module_after_the_step_is_no_misplaced_clip(read):
    text = PLAIN + (
        "centers = nn.Embedding(3, 4)\nslow = torch.optim.SGD(centers.parameters(), lr=0.5)\nfor x in data:\n"
        "    (net(x) + centers(x)).sum().backward()\n    opt.step()\n    for p in centers.parameters():\n"
        "        p.grad.data *= 0.1\n    slow.step()\n"
    )
    assert not list(ClipMisplaced().check_script(read("train.py", {"train.py": text})))


def recurrence(read, init, forward):
    text = (
        "import torch\nfrom torch import nn\n\nclass Cell(nn.Module):\n    def __init__(self):\n"
        "        super().__init__()\n        self.gates = nn.Linear(12, 8)\n    def forward(self, x, h):\n"
        "        return torch.tanh(self.gates(torch.cat([x, h], 1)))\n\n\nclass Net(nn.Module):\n"
        f"    def __init__(self):\n        super().__init__()\n        {init}\n    def forward(self, x):\n"
    )
    text += "".join(f"        {line}\n" for line in forward.splitlines()) + "\nnet = Net()\n"
    (model,) = read("train.py", {"train.py": text}).models
    return model.recurrence


@pytest.mark.parametrize(
    ("init", "forward"),
    [
        ("self.cell = Cell()", "h = x[0]\nfor t in range(9):\n    h = self.cell(x[t], h)\nreturn h"),
        ("self.cells = nn.ModuleList([Cell()])", "h = x[0]\nfor x_t in x:\n    h = self.cells[0](x_t, h)\nreturn h"),
        (
            "self.w = nn.ParameterList([nn.Parameter(torch.zeros(8, 8)), nn.Parameter(torch.zeros(8, 8))])",
            "a, b = self.w\nh = x[0]\nfor t in range(9):\n    h = torch.tanh(x[t] @ a + h @ b)\nreturn h",
        ),
        (
            "self.w = nn.ParameterDict()",
            "for name, w in self.w.items():\n    h = x[0]\n    for t in range(9):\n"
            "        h = torch.tanh(torch.matmul(h, w) + x[t])\nreturn h",
        ),
        (
            "self.mix = nn.Sequential(nn.Linear(8, 8), nn.Tanh())",
            "y = x[0]\nfor x_t in x:\n    y = self.mix(x_t + y)\nreturn y",
        ),
    ],
)
def test_a_loop_over_time_recurs_through_any_own_weight(read, init, forward):
    found = recurrence(read, init, forward)
    assert found is not None
    assert "hand-written" in found.kinds


@pytest.mark.parametrize(
    ("init", "forward"),
    [
        ("self.cell = Cell()", "for i in range(9):\n    x = self.cell(x, x)\nreturn x"),
        ("self.cells = nn.ModuleList([Cell()])", "for cell in self.cells:\n    x = cell(x, x)\nreturn x"),
        ("self.cell = Cell()", "found = []\nfor x_t in x:\n    found.append(self.cell(x_t, x_t))\nreturn found"),
        ("self.up = Cell()", "y = x[0]\nfor i in range(3):\n    y = self.up(x[i], y)\nreturn y"),
    ],
)
def test_depth_and_scales_are_no_time(read, init, forward):
    assert recurrence(read, init, forward) is None


BERT = """
import torch
from torch import nn
from transformers import BertModel

class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.bert = BertModel.from_pretrained("bert-base-cased")
    def forward(self, x):
        {}

net = Tagger()
opt = torch.optim.Adam(net.parameters(), lr=1e-3)
"""


def test_features_are_frozen_where_no_gradient_ever_passes(read):
    body = "with torch.no_grad():\n            y = self.bert(x)\n        return y"
    (model,) = read("train.py", {"train.py": BERT.format(body)}).models
    assert [f.how for f in model.frozen] == ["no_grad"]


@pytest.mark.parametrize(("made", "frozen"), [("", ["no_grad"]), ("True", [])])
def test_features_are_frozen_where_the_branch_with_a_gradient_is_off_by_default(read, made, frozen):
    body = (
        "if self.tuned:\n            return self.bert(x)\n        with torch.no_grad():\n            "
        "return self.bert(x)"
    )
    text = BERT.format(body).replace("def __init__(self):", "def __init__(self, tuned=False):", 1)
    text = text.replace("super().__init__()", "super().__init__()\n        self.tuned = tuned", 1)
    (model,) = read("train.py", {"train.py": text.replace("Tagger()", f"Tagger({made})")}).models
    assert [f.how for f in model.frozen] == frozen


def test_features_are_trained_where_the_branch_without_a_gradient_is_off_by_default(read):
    body = (
        "if self.fixed:\n            with torch.no_grad():\n                return self.bert(x)\n        "
        "return self.bert(x)"
    )
    text = BERT.format(body).replace("def __init__(self):", "def __init__(self, fixed=False):", 1)
    text = text.replace("super().__init__()", "super().__init__()\n        self.fixed = fixed", 1)
    (model,) = read("train.py", {"train.py": text}).models
    assert model.frozen == ()


def test_no_gradient_in_evaluation_alone_freezes_nothing(read):
    body = (
        "if self.training:\n            return self.bert(x)\n        with torch.no_grad():\n            "
        "return self.bert(x)"
    )
    (model,) = read("train.py", {"train.py": BERT.format(body)}).models
    assert model.frozen == ()


RESNET = """
import torch
from torch import nn
from torchvision import models

def init_all(net):
    for m in net.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight)

def init_one(m):
    if isinstance(m, nn.Linear):
        nn.init.xavier_uniform_(m.weight)

net = models.resnet18(pretrained=True)
net.fc = nn.Linear(512, 10)
"""


@pytest.mark.parametrize("draw", ["init_all(net)", "net.apply(init_one)"])
def test_weights_that_are_drawn_anew_are_not_pretrained(read, draw):
    models = read("train.py", {"train.py": RESNET + draw + "\n"}).models
    assert [m.pretrained for m in models if m.name == "net"] == [None]


@pytest.mark.parametrize("draw", ["init_one(net.fc)", "net.fc.apply(init_one)", ""])
def test_a_head_that_is_drawn_leaves_the_rest_pretrained(read, draw):
    models = read("train.py", {"train.py": RESNET + draw + "\n"}).models
    assert {m.pretrained is not None for m in models if m.name == "net"} == {True}


CRITIC = """
import torch
from torch import nn
import torch.nn.functional as F

class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.q = nn.Linear(4, 1)
    def forward(self, s, a):
        return self.q(torch.cat([s, a], 1))

critic = Critic()
opt = torch.optim.Adam(critic.parameters())
"""


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("F.mse_loss(critic(s, a), y)", False),
        ("F.mse_loss(Critic()(s, a), y)", False),
        ("F.mse_loss(critic(s, a), reward + 0.9 * after)", True),
        ("-(log_prob * advantages.detach()).mean()", True),
        ("0.5 * (real_loss + loss_adv)", False),
        ("F.mse_loss(critic(s, a), cross_entropy)", False),
        ("-(log_prob * adv).mean()", True),
        ("-(log_alpha * (log_prob + target_entropy).detach()).mean()", False),
    ],
)
def test_rewards_are_told_by_the_data_and_not_by_the_name_of_a_class(read, loss, expected):
    text = CRITIC + f"print('reward so far')\nloss = {loss}\nloss.backward()\nopt.step()\n"
    (step,) = read("train.py", {"train.py": text}).steps
    assert step.reinforcement is expected


@pytest.mark.parametrize(
    ("before", "loss", "expected"),
    [
        ("", "-F.logsigmoid(rewards_chosen - rewards_rejected).mean()", False),
        ("returns = prices[1:] / prices[:-1] - 1", "F.mse_loss(critic(s, a), returns)", False),
        ("returns = values + 1\nprint(log_probs)", "F.mse_loss(critic(s, a), returns)", True),
    ],
)
def test_preferences_and_what_shares_earn_are_no_rewards(read, before, loss, expected):
    text = CRITIC + f"{before}\nloss = {loss}\nloss.backward()\nopt.step()\n"
    text = text.replace("Critic", "Net").replace("critic", "net")
    (step,) = read("train.py", {"train.py": text}).steps
    assert step.reinforcement is expected


@pytest.mark.parametrize(("loss", "expected"), [("disc(s).mean()", False), ("(log_prob * weight).mean()", True)])
@pytest.mark.parametrize("rows", ["zip(states, advantages)", "batches(states, advantages)"])
def test_an_item_of_a_row_is_not_made_of_the_data_beside_it(read, rows, loss, expected):
    text = CRITIC + f"for s, weight in {rows}:\n    loss = {loss}\n    loss.backward()\n    opt.step()\n"
    (step,) = read("train.py", {"train.py": text}).steps
    assert step.reinforcement is (expected and rows.startswith("zip"))


def test_the_option_for_adversarial_examples_is_no_advantage(read):
    text = CRITIC + "loss = F.mse_loss(critic(s, a), y) + opt.adv * regulariser\nloss.backward()\nopt.step()\n"
    (step,) = read("train.py", {"train.py": text}).steps
    assert not step.reinforcement


def test_a_step_of_the_environment_is_none_of_an_optimizer_even_where_a_caller_mixes_up_its_arguments(read):
    text = (
        CRITIC
        + """
class Agent:
    def __init__(self, env, optimizer):
        self.env = env
        self.optimizer = optimizer
    def learn(self, s, a):
        after, reward, done, info = self.env.step(a)
        loss = F.mse_loss(critic(s, a), reward)
        loss.backward()
        self.optimizer.step()

Agent(opt, opt).learn(s, a)
"""
    )
    steps = read("train.py", {"train.py": text}).steps
    assert [s.optimizer_step.line for s in steps] == [text.splitlines().index("        self.optimizer.step()") + 1]


def test_rewards_are_followed_through_names_in_capitals_and_attributes(read):
    text = (
        CRITIC
        + """
class Agent:
    def learn(self, s, a, rewards):
        TD = rewards + 0.9 * s
        self.loss = F.mse_loss(critic(s, a), TD.detach())
        self.loss.backward()
        opt.step()
"""
    )
    (step,) = read("train.py", {"train.py": text}).steps
    assert step.reinforcement


def test_rewards_are_followed_through_the_names_they_are_bound_to(read):
    text = CRITIC + "y = r + gamma * after\ntarget = y.detach()\nloss = F.mse_loss(critic(s, a), target)\n"
    (step,) = read("train.py", {"train.py": text + "loss.backward()\nopt.step()\n"}).steps
    assert step.reinforcement


def test_a_class_that_stands_below_its_user_is_known(read):
    text = """
import torch
from torch import nn

class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Inner()
    def forward(self, x):
        return self.inner(x)

class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(4, 8)
    def forward(self, x):
        return self.rnn(x)[0]

net = Outer()
"""
    (model,) = read("train.py", {"train.py": text}).models
    assert model.recurrence is not None
    assert model.recurrence.kinds == ("GRU",)


@pytest.mark.parametrize("split", [False, True])
def test_a_trainer_that_inherits_its_constructor_gets_what_it_is_made_with(read, split):
    base = """
class Base:
    def __init__(self, model, optimizer):
        self.model = model
        self.optimizer = optimizer
"""
    heir = """
class Trainer(Base):
    def epoch(self, loader):
        for x in loader:
            self.model(x).sum().backward()
            self.optimizer.step()
"""
    main = PLAIN + "trainer = Trainer(net, opt)\ntrainer.epoch([])\n"
    files = (
        {
            "base.py": base,
            "trainer.py": "from base import Base\n" + heir,
            "train.py": "from trainer import Trainer\n" + main,
        }
        if split
        else {"trainer.py": base + heir + main, "train.py": ""}
    )
    (step,) = read("trainer.py", files).steps
    assert [(m.name, m.recurrence.kinds) for m in step.models] == [("net", ("LSTM",))]
    assert step.notes == ()


@pytest.mark.parametrize(
    ("make", "rates"),
    [
        ("Opt = partial(torch.optim.AdamW, lr=2e-5)\nopt = Opt(net.parameters())", [2e-5]),
        ("Opt = partial(torch.optim.AdamW, lr=2e-5)\nopt = Opt(net.parameters(), lr=1e-4)", [1e-4]),
        ("rate = 3e-5\nopt = partial(torch.optim.AdamW, lr=rate)(net.parameters())", [3e-5]),
        (
            "def kind():\n    r = f()\n    return partial(torch.optim.AdamW, lr=r)\nopt = kind()(net.parameters())",
            [],
        ),
    ],
)
def test_a_partial_optimizer_has_the_rate_that_it_was_given(read, make, rates):
    text = LSTM + f"from functools import partial\n{make}\nnet(x).sum().backward()\nopt.step()\n"
    (step,) = read("train.py", {"train.py": text}).steps
    assert step.optimizer is not None
    assert step.optimizer.algorithms == ("AdamW",)
    assert [v.value for v in step.optimizer.learning_rate.values] == rates
    assert [m.name for m in step.models] == ["net"]


@pytest.mark.parametrize(
    ("arguments", "clipped"),
    [
        ("args, max_epochs=3", False),
        ("args, gradient_clip_val=1.0", True),
        ("args)  # --gradient_clip_val\n    (0", True),
    ],
)
def test_a_lightning_trainer_made_from_arguments_is_a_step(read, arguments, clipped):
    text = f"""
import torch, pytorch_lightning as pl
from torch import nn

class Lit(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(3, 4)
    def training_step(self, batch, i):
        return self.rnn(batch)[0].sum()
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)

def run(args):
    trainer = pl.Trainer.from_argparse_args({arguments})
    trainer.fit(Lit())
"""
    (step,) = read("train.py", {"train.py": text}).steps
    assert step.framework == "lightning"
    assert (step.clipping is not None) is clipped


@pytest.mark.parametrize(
    ("config", "content", "clipped"),
    [
        ("'ds.json'", '{"gradient_clipping": 1.0}', True),
        ("'ds.json'", "{}", False),
        ("{'gradient_clipping': 0.5}", "", True),
        ("{'train_batch_size': 8}", "", False),
        ("unknown()", "", True),
    ],
)
def test_a_deepspeed_engine_clips_as_its_configuration_says(read, config, content, clipped):
    text = LSTM + (
        f"import deepspeed\nengine, _, _, _ = deepspeed.initialize(model=net, config={config})\n"
        "for x in data:\n    engine.backward(engine(x).sum())\n    engine.step()\n"
    )
    (step,) = read("train.py", {"train.py": text, "ds.json": content}).steps
    assert (step.clipping is not None) is clipped


KEEPER = """
class Keeper:
    def __init__(self, optimizer):
        self.optimizer = optimizer
    def step(self, epoch):
        {body}

keeper = Keeper(opt)
for x in data:
    opt.zero_grad()
    net(x).sum().backward()
    opt.step()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    keeper.step(1)
"""


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ("torch.save(self.optimizer.state_dict(), 'last.pth')", 1),
        ("self.optimizer.step()", 2),
        ("self.go()\n    def go(self):\n        self.optimizer.step()", 2),
    ],
)
def test_what_keeps_an_optimizer_to_save_it_steps_nothing(read, body, count):
    steps = read("train.py", {"train.py": PLAIN + KEEPER.format(body=body)}).steps
    assert len(steps) == count
    assert (steps[0].misplaced_clipping is not None) is (count == 1)
