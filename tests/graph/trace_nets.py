"""Nets as people write them, for the tests of tracing and for benchmarks/coverage.py."""

import math
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x):
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = x.view(-1, 16 * 5 * 5)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)


class MnistConv(nn.Module):
    """pytorch/examples mnist."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, 1)
        self.conv2 = nn.Conv2d(32, 64, 3, 1)
        self.dropout1 = nn.Dropout(0.25)
        self.fc1 = nn.Linear(9216, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x):
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        x = self.dropout1(F.max_pool2d(x, 2))
        x = F.relu(self.fc1(torch.flatten(x, 1)))
        return F.log_softmax(self.fc2(x), dim=1)


class FlattenedImages(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(784, 64), nn.Linear(64, 64), nn.Linear(64, 10)])
        self.act = {"sigmoid": nn.Sigmoid(), "tanh": nn.Tanh()}["sigmoid"]

    def forward(self, x):
        b, c, h, w = x.shape
        x = x.reshape(b, c * h * w)
        for layer in self.layers[:-1]:
            x = self.act(layer(x))
        return self.layers[-1](x)


class Residual(nn.Module):
    def __init__(self, width=16, blocks=3):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
                nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width),
            )
            for _ in range(blocks)
        )  # fmt: skip
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        x = F.relu(self.stem(x))
        for block in self.blocks:
            identity = x
            x = block(x)
            x += identity
            x = F.relu_(x)
        return self.head(x.mean((2, 3)))


class ManualRNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.i2h = nn.Linear(16, 32)
        self.h2h = nn.Linear(32, 32)
        self.out = nn.Linear(32, 5)

    def forward(self, ids):
        x = self.embed(ids)
        h = torch.zeros(x.size(0), 32, device=x.device)
        outputs = []
        for t in range(x.size(1)):
            h = torch.tanh(self.i2h(x[:, t]) + self.h2h(h))
            outputs.append(self.out(h))
        return torch.stack(outputs, 1)


class NameRNN(nn.Module):
    """The tutorial's character RNN: one linear layer over input and hidden state together."""

    def __init__(self):
        super().__init__()
        self.i2h = nn.Linear(57 + 128, 128)
        self.i2o = nn.Linear(57 + 128, 18)

    def forward(self, x):
        hidden = x.new_zeros(x.size(1), 128)
        for step in x:
            combined = torch.cat((step, hidden), 1)
            hidden = torch.tanh(self.i2h(combined))
            output = self.i2o(combined)
        return F.log_softmax(output, dim=1)


class StackedCells(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.LSTMCell(1, 51)
        self.second = nn.LSTMCell(51, 51)
        self.linear = nn.Linear(51, 1)

    def forward(self, inputs, future=0):
        outputs = []
        h = torch.zeros(inputs.size(0), 51, dtype=inputs.dtype, device=inputs.device)
        c, h2, c2 = torch.zeros_like(h), torch.zeros_like(h), torch.zeros_like(h)
        for step in inputs.split(1, dim=1):
            h, c = self.first(step, (h, c))
            h2, c2 = self.second(h, (h2, c2))
            outputs.append(self.linear(h2))
        return torch.cat(outputs, dim=1)


class LanguageModel(nn.Module):
    """pytorch/examples word_language_model: the caller hands the hidden state in."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.2)
        self.encoder = nn.Embedding(100, 20)
        self.rnn = nn.LSTM(20, 30, 2, dropout=0.2)
        self.decoder = nn.Linear(30, 100)

    def forward(self, input, hidden):  # noqa: A002
        output, hidden = self.rnn(self.drop(self.encoder(input)), hidden)
        return self.decoder(self.drop(output)).view(-1, 100), hidden


class SentimentLSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(200, 24, padding_idx=0)
        self.lstm = nn.LSTM(24, 32, num_layers=2, bidirectional=True, batch_first=True)
        self.fc = nn.Linear(64, 1)

    def forward(self, text, text_lengths):
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embedding(text), text_lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        _, (hidden, _) = self.lstm(packed)
        return self.fc(torch.cat((hidden[-2], hidden[-1]), dim=1))


class SelfAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.heads = heads
        self.register_buffer("bias", torch.tril(torch.ones(64, 64)).view(1, 1, 64, 64))

    def forward(self, x):
        b, t, c = x.size()
        q, k, v = self.qkv(x).split(c, dim=2)
        q, k, v = (z.view(b, t, self.heads, c // self.heads).transpose(1, 2) for z in (q, k, v))
        scores = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        scores = scores.masked_fill(self.bias[:, :, :t, :t] == 0, float("-inf"))
        y = F.softmax(scores, dim=-1) @ v
        return self.proj(y.transpose(1, 2).contiguous().view(b, t, c))


class GPTBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = SelfAttention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(0.1))

    def forward(self, x):
        x = x + self.attn(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class MiniGPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.block_size = 64
        self.tok = nn.Embedding(65, 32)
        self.pos = nn.Parameter(torch.zeros(1, 64, 32))
        self.blocks = nn.Sequential(*[GPTBlock(32, 4) for _ in range(2)])
        self.ln = nn.LayerNorm(32)
        self.head = nn.Linear(32, 65, bias=False)

    def forward(self, idx, targets=None):
        x = self.tok(idx) + self.pos[:, : idx.size(1)]
        logits = self.head(self.ln(self.blocks(x)))
        loss = None
        if targets is not None:
            loss = F.cross_entropy(logits.view(-1, 65), targets.view(-1))
        return logits, loss


class Seq2SeqTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.src_embed, self.tgt_embed = nn.Embedding(40, 16), nn.Embedding(44, 16)
        self.transformer = nn.Transformer(16, 2, 1, 1, 32, batch_first=True)
        self.out = nn.Linear(16, 44)

    def forward(self, src, tgt):
        mask = nn.Transformer.generate_square_subsequent_mask(tgt.size(1), device=tgt.device)
        return self.out(self.transformer(self.src_embed(src), self.tgt_embed(tgt), tgt_mask=mask))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.conv = nn.Conv2d(16, 8, 3, padding=1)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        a = F.relu(self.down1(x))
        b = F.relu(self.down2(F.max_pool2d(a, 2)))
        return self.out(F.relu(self.conv(torch.cat([a, self.up(b)], dim=1))))


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(100, 64, 4, 1, 0, bias=False), nn.BatchNorm2d(64), nn.ReLU(True),
            nn.ConvTranspose2d(64, 3, 4, 2, 1, bias=False), nn.Tanh(),
        )  # fmt: skip

    def forward(self, z):
        return self.main(z)


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.mu, self.logvar = nn.Linear(784, 400), nn.Linear(400, 20), nn.Linear(400, 20)
        self.fc3, self.fc4 = nn.Linear(20, 400), nn.Linear(400, 784)

    def forward(self, x):
        h = F.relu(self.fc1(x.view(-1, 784)))
        mu, logvar = self.mu(h), self.logvar(h)
        std = torch.exp(0.5 * logvar)
        z = mu + torch.randn_like(std) * std
        return torch.sigmoid(self.fc4(F.relu(self.fc3(z)))), mu, logvar


class ActorCritic(nn.Module):
    def __init__(self):
        super().__init__()
        self.affine = nn.Linear(4, 128)
        self.actor, self.critic = nn.Linear(128, 2), nn.Linear(128, 1)

    def forward(self, x):
        x = F.relu(self.affine(x))
        return torch.distributions.Categorical(logits=self.actor(x)), self.critic(x)


class Highway(nn.Module):
    def __init__(self):
        super().__init__()
        self.h = nn.ModuleList(nn.Linear(32, 32) for _ in range(4))
        self.t = nn.ModuleList(nn.Linear(32, 32) for _ in range(4))

    def forward(self, x):
        for h, t in zip(self.h, self.t, strict=True):
            gate = torch.sigmoid(t(x))
            x = gate * torch.relu(h(x)) + (1 - gate) * x
        return x


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc1, self.fc2 = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 4), nn.Linear(4, 16)

    def forward(self, x):
        x = F.silu(self.conv(x))
        s = torch.sigmoid(self.fc2(F.relu(self.fc1(x.mean((2, 3))))))
        return x * s[:, :, None, None]


class DecidesByValue(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        h = self.a(x)
        if h.abs().mean() > 1e-6:
            h = torch.relu(h)
        return self.b(h)


class RandomDepth(nn.Module):
    """pytorch/examples "dynamic net": the number of layers is drawn in each forward."""

    def __init__(self):
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 2)

    def forward(self, x):
        x = self.first(x).clamp(min=0)
        for _ in range(int(torch.randint(1, 4, (1,)))):
            x = self.middle(x).clamp(min=0)
        return self.last(x)


class DictBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.fc = nn.Embedding(30, 8), nn.Linear(8, 2)

    def forward(self, batch):
        mask = batch["attention_mask"].unsqueeze(-1).float()
        x = self.embed(batch["input_ids"]) * mask
        return self.fc(x.sum(1) / mask.sum(1))


class FrozenBackbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        with torch.no_grad():
            features = self.backbone(x)
        return self.head(features)


class WeightNormed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.b = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


class Attended(nn.Module):
    """Graph attention as a dense matrix over nodes, with a config object for its sizes."""

    def __init__(self):
        super().__init__()
        config = SimpleNamespace(width=12)
        self.query = nn.Parameter(torch.randn(config.width, config.width) * 0.02)
        self.scale = nn.Parameter(torch.ones(config.width))
        self.mean = nn.Linear(config.width, 4)

    def forward(self, x):
        weights = torch.softmax((x @ self.query) @ x.transpose(-2, -1), dim=-1)
        return self.mean((weights @ x) * self.scale)


class ByHandNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(20, 20) for _ in range(3))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
            x = (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-5)
            x = torch.tanh(x)
        return x


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 8))

    def forward(self, left, right):
        return F.pairwise_distance(self.net(left), self.net(right))


NETS = {
    cls.__name__: cls
    for cls in (
        LeNet, MnistConv, FlattenedImages, Residual, ManualRNN, NameRNN, StackedCells, LanguageModel, SentimentLSTM,
        MiniGPT, Seq2SeqTransformer, UNet, Generator, VAE, ActorCritic, Highway, SqueezeExcite, DecidesByValue,
        RandomDepth, DictBatch, FrozenBackbone, WeightNormed, Attended, ByHandNorm, Siamese,
    )
}  # fmt: skip
