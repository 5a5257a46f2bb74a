"""Small networks of the zoo that no library offers small enough: recurrent, detection, diffusion, super-resolution.

Yolo()(torch.randn(1, 3, 64, 64))            # (1, 12, 32, 32)
"""

from __future__ import annotations

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


class Yolo(nn.Module):
    """C2f blocks, pooled pyramid (SPPF), up-sampling and concatenation: YOLOv8 in small."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(conv(3, 16, 3, 2), C2f(16, 32))
        self.deep = nn.Sequential(conv(32, 32, 3, 2), C2f(32, 48), nn.Conv2d(48, 24, 1))
        self.pool, self.mix = nn.MaxPool2d(5, 1, 2), nn.Conv2d(96, 48, 1)
        self.up, self.head = C2f(80, 32, 1), nn.Conv2d(32, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.down(x)
        pyramid = [self.deep(shallow)]
        for _ in range(3):
            pyramid.append(self.pool(pyramid[-1]))
        up = nn.functional.interpolate(self.mix(torch.cat(pyramid, 1)), scale_factor=2.0)
        return self.head(self.up(torch.cat([up, shallow], 1)))


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
