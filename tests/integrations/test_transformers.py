"""The callback of Hugging Face's Trainer, in a real one."""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from gradlint.integrations.transformers import GradientProbe  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]


def trainer(tmp_path, **more):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, num_labels=3
    )
    rows = [{"input_ids": torch.randint(0, 50, (12,)), "labels": torch.tensor(i % 3)} for i in range(32)]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=3, per_device_train_batch_size=8, logging_steps=1, report_to=[],
        save_strategy="no", use_cpu=True, disable_tqdm=True, seed=0, **more,
    )  # fmt: skip
    return transformers.Trainer(transformers.BertForSequenceClassification(config), arguments, train_dataset=rows)


def test_the_first_batch_is_measured_and_logged(tmp_path):
    made = trainer(tmp_path, learning_rate=3e-4)
    callback = GradientProbe(made)
    made.add_callback(callback)
    made.train()
    (report,) = callback.reports
    assert report.optimizer.startswith("Adam") and report.healthy
    history = made.state.log_history
    (said,) = [h for h in history if "gradlint/severity" in h]
    first = next(h for h in history if "loss" in h)
    assert said["gradlint/loss"] == pytest.approx(first["loss"], rel=1e-2)
    assert said["gradlint/gradient_norm"] == pytest.approx(first["grad_norm"], rel=1e-2)


def test_training_goes_on_as_it_would_have(tmp_path):
    plain, probed = trainer(tmp_path), trainer(tmp_path)
    probed.add_callback(GradientProbe())
    for made in (plain, probed):
        torch.manual_seed(1)  # of the order of the rows and of dropout, which a Trainer draws while it trains
        made.train()
    pairs = zip(plain.model.parameters(), probed.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert any("gradlint/severity" in h for h in probed.state.log_history)


def test_accumulated_batches_count_as_one_step(tmp_path):
    made = trainer(tmp_path, gradient_accumulation_steps=2)
    callback = GradientProbe(made, layers=True)
    made.add_callback(callback)
    made.train()
    assert len(callback.reports) == 1
