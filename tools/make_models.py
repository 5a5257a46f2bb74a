"""Train four small digit classifiers and export them to ONNX.

Usage::

    pip install -e .[tools]
    python tools/make_models.py [--out models]

Needs torch, onnx, onnxscript, onnxruntime and scikit-learn (the ``tools`` extra) and a few minutes of one CPU core.
Writes four ``.onnx`` files, ``digits_test.npz`` (held-out ``x`` and ``y``), ``digits_calib.npz`` (training ``x``) and
a ``README.md`` with the measured table.  The weights of the last epoch are kept: held-out data selects nothing.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from google.protobuf.message import Message
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

SEED = 20240
CLASSES = 10
BATCH = 64
TEST_FRACTION = 0.3
CALIB_SAMPLES = 128
MAX_SHIFT_PX = 0.75
MAX_ROTATION_DEG = 8.0
MIN_ACCURACY = 0.97
MAX_BYTES = 1 << 20
LOGIT_TOLERANCE = 1e-3


class Residual(nn.Module):
    """Sum of a body and a shortcut, the identity unless given."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None) -> None:
        """Keep both branches."""
        super().__init__()
        self.body = body
        self.shortcut = nn.Identity() if shortcut is None else shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Add the two branches."""
        out: Tensor = self.shortcut(x) + self.body(x)
        return out


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    """Return a convolution without bias and its batch norm."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def residual_block(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    """Return two 3x3 convolutions with an identity or 1x1 projection shortcut."""
    body = nn.Sequential(conv_bn(inputs, outputs, 3, stride), nn.ReLU(), conv_bn(outputs, outputs, 3))
    shortcut = None if inputs == outputs and stride == 1 else conv_bn(inputs, outputs, 1, stride)
    return nn.Sequential(Residual(body, shortcut), nn.ReLU())


def inverted_residual(inputs: int, outputs: int, stride: int = 1, expand: int = 4) -> nn.Module:
    """Return a 1x1 expansion, a depthwise 3x3 and a linear 1x1, residual where the shapes agree."""
    hidden = inputs * expand
    depthwise = conv_bn(hidden, hidden, 3, stride, groups=hidden)
    body = nn.Sequential(conv_bn(inputs, hidden, 1), nn.ReLU6(), depthwise, nn.ReLU6(), conv_bn(hidden, outputs, 1))
    return Residual(body) if inputs == outputs and stride == 1 else body


def pooled_head(channels: int) -> nn.Module:
    """Return global average pooling and the classifier."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))


def build_resnet() -> nn.Module:
    """Return a residual CNN: a stem and three blocks."""
    blocks = (residual_block(32, 32), residual_block(32, 64, stride=2), residual_block(64, 64))
    return nn.Sequential(conv_bn(1, 32, 3), nn.ReLU(), *blocks, pooled_head(64))


def build_mobilenet() -> nn.Module:
    """Return an inverted-residual CNN in the manner of MobileNetV2."""
    shapes = ((24, 24, 1), (24, 40, 2), (40, 40, 1), (40, 64, 1), (64, 64, 1))
    blocks = (inverted_residual(*shape) for shape in shapes)
    return nn.Sequential(conv_bn(1, 24, 3), nn.ReLU6(), *blocks, conv_bn(64, 192, 1), nn.ReLU6(), pooled_head(192))


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection for query, key and value."""

    def __init__(self, dim: int, heads: int) -> None:
        """Create the projections."""
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens [N, T, dim] to [N, T, dim]."""
        n, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(n, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        weights = torch.softmax(query @ key.transpose(-2, -1) / math.sqrt(dim // self.heads), dim=-1)
        out: Tensor = self.proj((weights @ value).transpose(1, 2).reshape(n, tokens, dim))
        return out


def encoder_layer(dim: int, heads: int, hidden: int) -> nn.Module:
    """Return a pre-norm transformer layer: attention and a GELU perceptron, each with a residual."""
    mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
    return nn.Sequential(Residual(nn.Sequential(nn.LayerNorm(dim), Attention(dim, heads))), Residual(mlp))


class VisionTransformer(nn.Module):
    """ViT on sixteen 2x2 patches with a class token and learned positions."""

    def __init__(self, dim: int = 64, heads: int = 4, hidden: int = 192, depth: int = 3) -> None:
        """Create patch embedding, encoder and classifier."""
        super().__init__()
        self.patches = nn.Conv2d(1, dim, 2, 2)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 17, dim))
        self.layers = nn.Sequential(*(encoder_layer(dim, heads, hidden) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [N, 1, 8, 8] to logits [N, 10]."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(x.shape[0], -1, -1), tokens], dim=1)
        tokens = self.norm(self.layers(tokens + self.positions))
        logits: Tensor = self.head(tokens[:, 0])
        return logits


class GruClassifier(nn.Module):
    """Two-layer GRU that reads the eight pixel rows and classifies from its last output."""

    def __init__(self, hidden: int = 112) -> None:
        """Create the recurrent layers and the classifier."""
        super().__init__()
        self.gru = nn.GRU(8, hidden, num_layers=2, batch_first=True)
        self.head = nn.Linear(hidden, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [N, 1, 8, 8] to logits [N, 10]."""
        outputs, _ = self.gru(x.squeeze(1))
        logits: Tensor = self.head(outputs[:, -1])
        return logits


@dataclass(frozen=True)
class Spec:
    """A model to train and its export; ``required_op`` must be present in the exported graph."""

    name: str
    build: Callable[[], nn.Module]
    exporter: str
    options: dict[str, Any]
    required_op: str
    epochs: int
    rate: float


@dataclass(frozen=True)
class Split:
    """Training and held-out images [n, 1, 8, 8] in 0..1 and labels."""

    train_x: Tensor
    test_x: Tensor
    train_y: Tensor
    test_y: Tensor


DYNAMO = {"dynamo": True, "opset_version": 18, "dynamic_shapes": ({0: "N"},), "external_data": False, "verbose": False}
SCRIPT = {"dynamo": False, "opset_version": 17, "dynamic_axes": {"x": {0: "N"}, "logits": {0: "N"}}}
# Batch norms stay only without folding and in PRESERVE mode: EVAL fuses them into convolutions in any case.
UNFOLDED = SCRIPT | {"do_constant_folding": False, "training": torch.onnx.TrainingMode.PRESERVE}

SPECS = (
    Spec("digits_resnet", build_resnet, "TorchScript, no folding", UNFOLDED, "BatchNormalization", 60, 3e-3),
    Spec("digits_mobilenet", build_mobilenet, "dynamo, default", DYNAMO, "Conv", 80, 3e-3),
    Spec("digits_vit", VisionTransformer, "dynamo, default", DYNAMO, "LayerNormalization", 300, 1e-3),
    Spec("digits_gru", GruClassifier, "TorchScript, default", SCRIPT, "GRU", 150, 3e-3),
)


def load_split() -> Split:
    """Load the digits as 0..1 images and split them by class with a fixed seed."""
    data = load_digits()
    images = (data.images / 16.0).astype(np.float32)[:, None]
    labels = data.target.astype(np.int64)
    parts = train_test_split(images, labels, test_size=TEST_FRACTION, stratify=labels, random_state=SEED)
    return Split(*(torch.from_numpy(part) for part in parts))


def augment(images: Tensor) -> Tensor:
    """Shift and rotate each image a little, filling with background."""
    count = images.shape[0]
    angle = (2 * torch.rand(count) - 1) * math.radians(MAX_ROTATION_DEG)
    shift = (2 * torch.rand(count, 2, 1) - 1) * (2 * MAX_SHIFT_PX / images.shape[-1])
    cos, sin = angle.cos(), angle.sin()
    rotation = torch.stack([torch.stack([cos, -sin], dim=1), torch.stack([sin, cos], dim=1)], dim=1)
    grid = F.affine_grid(torch.cat([rotation, shift], dim=2), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def train(spec: Spec, split: Split) -> nn.Module:
    """Train one model from the fixed seed and return it in evaluation mode."""
    torch.manual_seed(SEED)
    model = spec.build()
    batches = len(split.train_x) // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec.rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, spec.rate, total_steps=spec.epochs * batches)
    for _ in range(spec.epochs):
        for chosen in torch.randperm(len(split.train_x))[: batches * BATCH].view(batches, BATCH):
            logits = model(augment(split.train_x[chosen]))
            loss = F.cross_entropy(logits, split.train_y[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return model.eval()


def strip_comments(message: Message) -> None:
    """Remove doc strings and exporter metadata everywhere: they hold stack traces with local paths."""
    for field, value in message.ListFields():
        if field.name in {"doc_string", "metadata_props"}:
            message.ClearField(field.name)
        elif field.message_type is not None:
            for child in value if field.is_repeated else [value]:
                strip_comments(child)


def export(spec: Spec, model: nn.Module, path: Path) -> onnx.ModelProto:
    """Write the model to one file without comments and return what was written."""
    sample = (torch.zeros(2, 1, 8, 8),)
    torch.onnx.export(model, sample, path, input_names=["x"], output_names=["logits"], **spec.options)
    proto = onnx.load(path)
    strip_comments(proto)
    path.write_bytes(proto.SerializeToString(deterministic=True))
    return proto


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the fraction of rows whose largest logit is the label."""
    return (logits.argmax(dim=1) == labels).float().mean().item()


def check_graph(spec: Spec, proto: onnx.ModelProto) -> None:
    """Raise unless the file is valid, small enough and holds the operator it is meant to show."""
    onnx.checker.check_model(proto, full_check=True)
    if proto.ByteSize() >= MAX_BYTES:
        raise RuntimeError(f"{spec.name}: {proto.ByteSize()} bytes is over the limit of {MAX_BYTES}")
    if spec.required_op not in {node.op_type for node in proto.graph.node}:
        raise RuntimeError(f"{spec.name}: the exported graph has no {spec.required_op} node")


def check_outputs(spec: Spec, model: nn.Module, path: Path, split: Split) -> float:
    """Compare the file with torch on several batch sizes and return its held-out accuracy."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = model(split.test_x)
    for batch in (1, 7, len(split.test_x)):
        logits = torch.from_numpy(session.run(["logits"], {"x": split.test_x[:batch].numpy()})[0])
        error = (logits - expected[:batch]).abs().max().item()
        if logits.shape != (batch, CLASSES) or error > LOGIT_TOLERANCE:
            raise RuntimeError(f"{spec.name}: batch {batch} differs from torch by {error:.2e}")
    score = accuracy(logits, split.test_y)
    if score != accuracy(expected, split.test_y) or score < MIN_ACCURACY:
        raise RuntimeError(f"{spec.name}: held-out accuracy {score:.4f} is too low or not that of torch")
    return score


def table_row(spec: Spec, proto: onnx.ModelProto, score: float) -> str:
    """Return the model's line of the README table."""
    opset = next(entry.version for entry in proto.opset_import if not entry.domain)
    parameters = sum(math.prod(t.dims) for t in proto.graph.initializer if t.data_type == onnx.TensorProto.FLOAT)
    return (
        f"| `{spec.name}.onnx` | {spec.exporter} | {opset} | {len(proto.graph.node)} "
        f"| {parameters:,} | {proto.ByteSize() / 1024:.0f} | {100 * score:.2f} % |"
    )


def make_model(spec: Spec, split: Split, out: Path) -> str:
    """Train, export, check and write one model; return its README row."""
    model = train(spec, split)
    path = out / f"{spec.name}.onnx"
    proto = export(spec, model, path)
    check_graph(spec, proto)
    return table_row(spec, proto, check_outputs(spec, model, path, split))


def readme(split: Split, table: str) -> str:
    """Return the text of the README."""
    return f"""# Digit classifiers

Written by `python tools/make_models.py`; do not edit by hand.

| model | exporter | opset | nodes | parameters | KiB | held-out accuracy |
|---|---|---:|---:|---:|---:|---:|
{table}

Accuracy is measured with onnxruntime on all of `digits_test.npz`. Parameters are the elements of the float
initializers in the file, batch norm statistics included.

Every model takes `x`, float32 [N, 1, 8, 8], and returns `logits`, float32 [N, 10]. The pixels are those of
scikit-learn's `load_digits` divided by 16, so they lie in 0..1; both `.npz` files are scaled already.

- `digits_test.npz`: `x` and `y` (int64) of the {len(split.test_x)} held-out images.
- `digits_calib.npz`: `x` of {CALIB_SAMPLES} of the {len(split.train_x)} training images.

The split is stratified by class (seed {SEED}). Training uses small shifts and rotations, label smoothing and weight
decay for a fixed number of epochs. Made with torch {torch.__version__.split("+")[0]} and onnx {onnx.__version__}.
"""


def main() -> None:
    """Write models, data and README into the output folder."""
    parser = argparse.ArgumentParser(description="Train the digit classifiers and export them to ONNX.")
    parser.add_argument("--out", type=Path, default=Path("models"), help="output folder (default: models)")
    out: Path = parser.parse_args().out
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    out.mkdir(parents=True, exist_ok=True)
    split = load_split()
    np.savez_compressed(out / "digits_test.npz", x=split.test_x.numpy(), y=split.test_y.numpy())
    np.savez_compressed(out / "digits_calib.npz", x=split.train_x[:CALIB_SAMPLES].numpy())
    rows = []
    for spec in SPECS:
        rows.append(make_model(spec, split, out))
        print(rows[-1], flush=True)
    (out / "README.md").write_text(readme(split, "\n".join(rows)), encoding="utf-8")


if __name__ == "__main__":
    main()
