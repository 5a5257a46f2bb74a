"""Small networks of the zoo that no library offers small enough: recurrent, detection, diffusion, super-resolution.

Yolo()(torch.randn(1, 3, 64, 64))            # (1, 12, 32, 32)
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn


class Recurrent(nn.Module):
    """Two bidirectional recurrent layers and a linear head."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cell = kind(16, 32, 2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0])


def conv(i: int, o: int, k: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm, SiLU: the unit of YOLO."""
    return nn.Sequential(nn.Conv2d(i, o, k, stride, k // 2, bias=False), nn.BatchNorm2d(o), nn.SiLU())


class C2f(nn.Module):
    """YOLOv8's block: one half passes, the other goes through a cascade, and everything is concatenated."""

    def __init__(self, i: int, o: int, n: int = 2) -> None:
        super().__init__()
        half = o // 2
        self.first, self.last = conv(i, 2 * half, 1), conv((2 + n) * half, o, 1)
        self.steps = nn.ModuleList(nn.Sequential(conv(half, half), conv(half, half)) for _ in range(n))

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.first(x).chunk(2, 1))
        for step in self.steps:
            parts.append(parts[-1] + step(parts[-1]))
        return self.last(torch.cat(parts, 1))


class C3(nn.Module):
    """YOLOv5's block: two convolutions side by side, bottlenecks behind one of them, concatenated."""

    def __init__(self, i: int, o: int, n: int = 2) -> None:
        super().__init__()
        half = o // 2
        self.first, self.side, self.last = conv(i, half, 1), conv(i, half, 1), conv(2 * half, o, 1)
        self.steps = nn.ModuleList(nn.Sequential(conv(half, half, 1), conv(half, half)) for _ in range(n))

    def forward(self, x: Tensor) -> Tensor:
        deep = self.first(x)
        for step in self.steps:
            deep = deep + step(deep)
        return self.last(torch.cat([deep, self.side(x)], 1))


class C3k2(C2f):
    """YOLOv11's block: C2f whose steps are C3 blocks."""

    def __init__(self, i: int, o: int, n: int = 2) -> None:
        super().__init__(i, o, n)
        self.steps = nn.ModuleList(C3(o // 2, o // 2) for _ in range(n))


class C2psa(nn.Module):
    """YOLOv11's attention: one half of the channels attends, with a depthwise position term on the values."""

    def __init__(self, c: int, heads: int = 2) -> None:
        super().__init__()
        self.half, self.heads, self.d = c // 2, heads, c // 2 // heads
        self.key = self.d // 2
        self.first, self.last = conv(c, c, 1), conv(c, c, 1)
        self.qkv = nn.Conv2d(self.half, self.half + self.key * heads * 2, 1)
        self.place, self.out = nn.Conv2d(self.half, self.half, 3, 1, 1, groups=self.half), conv(self.half, self.half, 1)
        self.dense = nn.Sequential(conv(self.half, 2 * self.half, 1), nn.Conv2d(2 * self.half, self.half, 1))

    def attend(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        mixed = self.qkv(x).view(b, self.heads, 2 * self.key + self.d, h * w)
        q, k, v = mixed.split([self.key, self.key, self.d], 2)
        weight = (q.transpose(-2, -1) @ k * self.key**-0.5).softmax(-1)
        seen = (v @ weight.transpose(-2, -1)).view(b, c, h, w)
        return self.out(seen + self.place(v.reshape(b, c, h, w)))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.first(x).split((self.half, self.half), 1)
        b = b + self.attend(b)
        return self.last(torch.cat([a, b + self.dense(b)], 1))


class Detect(nn.Module):
    """YOLOv8's head at two scales: boxes as distributions (softmax and expectation) beside class scores."""

    def __init__(self, widths: tuple[int, ...], classes: int = 5, bins: int = 8) -> None:
        super().__init__()
        self.classes, self.bins = classes, bins
        self.boxes = nn.ModuleList(nn.Sequential(conv(c, 32), nn.Conv2d(32, 4 * bins, 1)) for c in widths)
        self.scores = nn.ModuleList(nn.Sequential(conv(c, 24), nn.Conv2d(24, classes, 1)) for c in widths)
        self.expect = nn.Conv2d(bins, 1, 1, bias=False)

    def forward(self, xs: list[Tensor]) -> Tensor:
        maps = [torch.cat([b(x), s(x)], 1) for x, b, s in zip(xs, self.boxes, self.scores, strict=True)]
        flat = torch.cat([m.flatten(2) for m in maps], 2)
        box, score = flat.split((4 * self.bins, self.classes), 1)
        n, _, a = box.shape
        box = self.expect(box.view(n, 4, self.bins, a).transpose(2, 1).softmax(1)).view(n, 4, a)
        low, high = box.chunk(2, 1)
        return torch.cat([(high - low) / 2, high + low, score.sigmoid()], 1)


class Yolo(nn.Module):
    """Backbone of `block`, pooled pyramid (SPPF), up-sampling and concatenation, two-scale head: YOLO in small."""

    def __init__(self, block: type[nn.Module] = C2f, attention: type[nn.Module] = nn.Identity) -> None:
        super().__init__()
        self.down = nn.Sequential(conv(3, 16, 3, 2), block(16, 32))
        self.deep = nn.Sequential(conv(32, 32, 3, 2), block(32, 48), conv(48, 24, 1))
        self.pool, self.mix = nn.MaxPool2d(5, 1, 2), nn.Sequential(conv(96, 48, 1), attention(48))
        self.up, self.head = block(80, 32, 1), Detect((32, 48))

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.down(x)
        pyramid = [self.deep(shallow)]
        for _ in range(3):
            pyramid.append(self.pool(pyramid[-1]))
        deep = self.mix(torch.cat(pyramid, 1))
        up = nn.functional.interpolate(deep, scale_factor=2.0)
        return self.head([self.up(torch.cat([up, shallow], 1)), deep])


class TimedBlock(nn.Module):
    """The residual block of a diffusion UNet: GroupNorm, convolution, and the time embedding added between."""

    def __init__(self, i: int, o: int, time: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(8, i), nn.SiLU(), nn.Conv2d(i, o, 3, padding=1))
        self.time = nn.Linear(time, o)
        self.last = nn.Sequential(nn.GroupNorm(8, o), nn.SiLU(), nn.Conv2d(o, o, 3, padding=1))
        self.skip = nn.Conv2d(i, o, 1) if i != o else nn.Identity()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.skip(x) + self.last(self.first(x) + self.time(t)[:, :, None, None])


class Unet(nn.Module):
    """A DDPM-style UNet in small: time embedding, self-attention at the bottom, skip concatenation."""

    def __init__(self, width: int = 32, time: int = 64) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(16, time), nn.SiLU(), nn.Linear(time, time))
        self.start, self.head = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 3, 3, padding=1)
        self.a, self.b = TimedBlock(width, width, time), TimedBlock(width, 2 * width, time)
        self.down, self.up = nn.Conv2d(width, width, 3, 2, 1), nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.norm, self.qkv = nn.GroupNorm(8, 2 * width), nn.Conv2d(2 * width, 6 * width, 1)
        self.out, self.c = nn.Conv2d(2 * width, 2 * width, 1), TimedBlock(2 * width, width, time)
        self.register_buffer("frequency", torch.exp(-torch.arange(8) / 2))

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).flatten(2).chunk(3, 1)
        weight = torch.softmax(q.transpose(1, 2) @ k * q.shape[1] ** -0.5, -1)
        return x + self.out((v @ weight.transpose(1, 2)).view_as(x))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angle = t * self.frequency
        time = self.time(torch.cat([angle.sin(), angle.cos()], 1))
        high = self.a(self.start(x), time)
        low = self.attend(self.b(self.down(high), time))
        return self.head(self.c(torch.cat([self.up(low), high], 1), time))


class CrossBlock(nn.Module):
    """Stable Diffusion's transformer block: self-attention, attention to a text, gated feed-forward (GEGLU)."""

    def __init__(self, c: int, text: int, heads: int = 4) -> None:
        super().__init__()
        self.norm, self.enter, self.leave = nn.GroupNorm(8, c), nn.Conv2d(c, c, 1), nn.Conv2d(c, c, 1)
        self.norms = nn.ModuleList(nn.LayerNorm(c) for _ in range(3))
        self.own = nn.MultiheadAttention(c, heads, batch_first=True, bias=False)
        self.q, self.k, self.v = nn.Linear(c, c), nn.Linear(text, c), nn.Linear(text, c)
        self.out, self.gate, self.last = nn.Linear(c, c), nn.Linear(c, 8 * c), nn.Linear(4 * c, c)
        self.heads = heads

    def split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = self.enter(self.norm(x)).flatten(2).transpose(1, 2)
        z = self.norms[0](y)
        y = y + self.own(z, z, z, need_weights=False)[0]
        q, k, v = (self.split(f(a)) for f, a in ((self.q, self.norms[1](y)), (self.k, text), (self.v, text)))
        seen = nn.functional.scaled_dot_product_attention(q, k, v)
        y = y + self.out(seen.transpose(1, 2).reshape(n, h * w, c))
        value, gate = self.gate(self.norms[2](y)).chunk(2, -1)
        y = y + self.last(value * nn.functional.gelu(gate))
        return x + self.leave(y.transpose(1, 2).reshape(n, c, h, w))


class LatentUnet(nn.Module):
    """Stable Diffusion's UNet in small: residual blocks with time, cross attention to a text, skip concatenation."""

    def __init__(self, width: int = 32, time: int = 64, text: int = 24) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(1, time), nn.SiLU(), nn.Linear(time, time))
        self.start, self.head = nn.Conv2d(4, width, 3, padding=1), nn.Conv2d(width, 4, 3, padding=1)
        self.a, self.b = TimedBlock(width, width, time), TimedBlock(width, 2 * width, time)
        self.cross_a, self.cross_b = CrossBlock(width, text), CrossBlock(2 * width, text)
        self.down, self.up = nn.Conv2d(width, width, 3, 2, 1), nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.c, self.cross_c = TimedBlock(3 * width, width, time), CrossBlock(width, text)

    def forward(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        time = self.time(t)
        high = self.cross_a(self.a(self.start(x), time), text)
        low = self.cross_b(self.b(self.down(high), time), text)
        low = self.up(nn.functional.interpolate(low, scale_factor=2.0))
        return self.head(self.cross_c(self.c(torch.cat([low, high], 1), time), text))


class Edsr(nn.Module):
    """EDSR in small: residual blocks without norms, pixel shuffle twice."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.start, self.end = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))
            for _ in range(2)
        )
        self.grow = nn.Sequential(nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2))
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        start = y = self.start(x)
        for block in self.blocks:
            y = y + 0.1 * block(y)
        return self.last(self.grow(start + self.end(y)))


class Stateful(nn.Module):
    """An LSTM whose initial state is given, and a projection after it."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTM(16, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> Tensor:
        return self.head(self.cell(x, (h[None], c[None]))[0])


class GraphConv(nn.Module):
    """Two graph convolutions: the adjacency multiplies from the left."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(16, 32), nn.Linear(32, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        y = torch.relu(adjacency @ self.a(x))
        return self.head(torch.relu(adjacency @ self.b(y)).mean(1))


class TwoTower(nn.Module):
    """A dense and a convolutional tower, compared by an inner product."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Linear(24, 48), nn.ReLU(), nn.Linear(48, 32))
        self.b = nn.Sequential(conv(3, 16, 3, 2), conv(16, 24, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                               nn.Linear(24, 32))  # fmt: skip

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x, y = self.a(a), self.b(b)
        return (x * y).sum(1, keepdim=True)


def autoencoder() -> nn.Module:
    """A dense autoencoder."""
    widths, parts = (48, 64, 32, 8, 32, 64), []
    for i, o in itertools.pairwise(widths):
        parts += [nn.Linear(i, o), nn.BatchNorm1d(o), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(64, 48))


def conv1d() -> nn.Module:
    """A keyword spotter on features over time."""
    return nn.Sequential(
        nn.Conv1d(8, 32, 5, 2, 2), nn.BatchNorm1d(32), nn.ReLU(), nn.Conv1d(32, 32, 5, padding=2, groups=32),
        nn.Conv1d(32, 48, 1), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(48, 6),
    )  # fmt: skip


def conv3d() -> nn.Module:
    """A small volume classifier."""
    return nn.Sequential(
        nn.Conv3d(2, 16, 3, padding=1), nn.BatchNorm3d(16), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(16, 24, 3, padding=1),
        nn.ReLU(), nn.Flatten(), nn.Linear(24 * 4 * 8 * 8, 6),
    )  # fmt: skip


def dcgan() -> nn.Module:
    """DCGAN's generator in small: a ladder of transposed convolutions."""
    parts: list[nn.Module] = []
    for i, o, stride, pad in ((32, 64, 1, 0), (64, 48, 2, 1), (48, 32, 2, 1)):
        parts += [nn.ConvTranspose2d(i, o, 4, stride, pad, bias=False), nn.BatchNorm2d(o), nn.ReLU()]
    return nn.Sequential(*parts, nn.ConvTranspose2d(32, 3, 4, 2, 1), nn.Tanh())


def espcn() -> nn.Module:
    """ESPCN: super-resolution whose last step moves channels to pixels."""
    return nn.Sequential(
        nn.Conv2d(1, 64, 5, padding=2), nn.Tanh(), nn.Conv2d(64, 32, 3, padding=1), nn.Tanh(),
        nn.Conv2d(32, 9, 3, padding=1), nn.PixelShuffle(3),
    )  # fmt: skip
