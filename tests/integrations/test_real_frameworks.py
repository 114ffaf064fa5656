"""Scripts that leave the loop to a framework, run in the real cage up to their first steps."""

import textwrap

import pytest

torch = pytest.importorskip("torch")

from gradlint.probe.real import run_script  # noqa: E402

pytestmark = pytest.mark.torch

HEAD = """
import torch
from torch import nn
torch.set_num_threads(1)
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
x, y = torch.randn(64, 8), torch.randint(0, 3, (64,))
data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=16)
"""

LIGHTNING = """
import lightning.pytorch as pl
class Task(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = net
    def training_step(self, batch, index):
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("loss", loss)
        return loss
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)
pl.Trainer(accelerator="cpu", max_epochs=50, enable_checkpointing=False, logger=False, gradient_clip_val=0.5,
           enable_progress_bar=False, enable_model_summary=False, precision=PRECISION).fit(Task(), data)
raise RuntimeError("went on")
"""

FABRIC = """
from lightning.fabric import Fabric
fabric = Fabric(accelerator="cpu", devices=1)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
model, optimizer = fabric.setup(net, optimizer)
loader = fabric.setup_dataloaders(data)
for _ in range(50):
    for a, b in loader:
        optimizer.zero_grad()
        fabric.backward(nn.functional.cross_entropy(model(a), b))
        fabric.clip_gradients(model, optimizer, max_norm=0.5)
        optimizer.step()
raise RuntimeError("went on")
"""

ACCELERATE = """
from accelerate import Accelerator
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
model, optimizer, loader = accelerator.prepare(net, optimizer, data)
for _ in range(50):
    for a, b in loader:
        with accelerator.accumulate(model):
            accelerator.backward(nn.functional.cross_entropy(model(a), b))
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
raise RuntimeError("went on")
"""

TRAINER = """
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments
config = BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
                    num_labels=3)
rows = [{"input_ids": torch.randint(0, 40, (8,)), "labels": torch.tensor(i % 3)} for i in range(64)]
arguments = TrainingArguments(output_dir="out", max_steps=100, per_device_train_batch_size=8, use_cpu=True,
                              report_to=[], disable_tqdm=True, save_strategy="no", bf16=BF16)
Trainer(BertForSequenceClassification(config), arguments, train_dataset=rows).train()
raise RuntimeError("went on")
"""


@pytest.mark.parametrize(
    ("package", "text", "model", "optimizer"),
    [
        ("lightning", LIGHTNING.replace("PRECISION", "32"), "Sequential", "Adam"),
        ("lightning", LIGHTNING.replace("PRECISION", '"bf16-mixed"'), "Sequential", "Adam"),
        ("lightning", FABRIC, "Sequential", "SGD"),
        ("accelerate", ACCELERATE, "Sequential", "AdamW"),
        ("transformers", TRAINER.replace("BF16", "False"), "BertForSequenceClassification", "AdamW"),
        ("transformers", TRAINER.replace("BF16", "True"), "BertForSequenceClassification", "AdamW"),
    ],
    ids=["lightning", "lightning bf16", "fabric", "accelerate", "trainer", "trainer bf16"],
)
def test_the_first_step_is_measured_and_the_rest_is_not_run(tmp_path, package, text, model, optimizer):
    pytest.importorskip(package)
    path = tmp_path / "train.py"
    path.write_text(HEAD + textwrap.dedent(text))
    outcome = run_script(path, steps=2, seconds=300)
    assert outcome.failed is None, outcome.output
    (seen,) = outcome.watched
    assert (seen.model, seen.optimizer) == (model, optimizer) and len(seen.measurement.losses) == 2
    weighted = [m for m in seen.measurement.layers.values() if m.weight_gradient is not None]
    assert weighted and all(m.weight_gradient > 0 and m.update_ratio > 0 for m in weighted)
    # The weights' part of the gradient that the script itself had, of which the biases have the rest.
    total = sum(m.weight_gradient**2 for m in weighted) ** 0.5
    assert 0.3 < total / seen.measurement.gradient_norms[0] < 1.001
    assert seen.clipped
