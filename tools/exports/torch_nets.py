"""Networks of a few channels, one per idiom that an exporter has to write down; `torch_export` exports them.

Widths inside a network differ wherever they may, so that a group found by the analysis can be told from every other.

    Resnet()(torch.randn(2, 3, 8, 8))            # (2, 7)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 7


def conv(i: int, o: int, k: int = 3, stride: int = 1, groups: int = 1, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Convolution without bias, BatchNorm, activation."""
    body = nn.Conv2d(i, o, k, stride, k // 2, groups=groups, bias=False)
    return nn.Sequential(body, nn.BatchNorm2d(o), act())


class Residual(nn.Module):
    """A basic block; the shortcut is a convolution where the width changes."""

    def __init__(self, i: int, inner: int, o: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(i, inner, 3, stride), conv(inner, o, act=nn.Identity))
        self.short = conv(i, o, 1, stride, act=nn.Identity) if i != o else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.short(x))


class Resnet(nn.Sequential):
    """Two residual blocks."""

    def __init__(self) -> None:
        blocks = conv(3, 6), Residual(6, 5, 6), Residual(6, 4, 8, 2)
        super().__init__(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))


class Squeeze(nn.Module):
    """Squeeze and excitation by convolutions."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, inner, 1), nn.ReLU(), nn.Conv2d(inner, width, 1), nn.Hardsigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class Inverted(nn.Module):
    """Expand, depthwise, squeeze and excite, project; a shortcut where the width stays."""

    def __init__(self, i: int, inner: int, o: int, stride: int, squeeze: int) -> None:
        super().__init__()
        gate = Squeeze(inner, squeeze) if squeeze else nn.Identity()
        wide = conv(i, inner, 1, act=nn.Hardswish), conv(inner, inner, 3, stride, inner, nn.ReLU6), gate
        self.body, self.short = nn.Sequential(*wide, conv(inner, o, 1, act=nn.Identity)), i == o

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.short else self.body(x)


class Mobilenet(nn.Sequential):
    """One inverted residual with a gate and a shortcut, one without."""

    def __init__(self) -> None:
        blocks = conv(3, 8, act=nn.Hardswish), Inverted(8, 12, 8, 1, 5), Inverted(8, 10, 6, 2, 0), conv(6, 14, 1)
        super().__init__(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(14, CLASSES))


class Shuffle(nn.Module):
    """ShuffleNet v2's unit: half of the channels pass, the others go through a branch, then all are shuffled."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        half = width // 2
        parts = conv(half, inner, 1), conv(inner, inner, 3, 1, inner, nn.Identity), conv(inner, half, 1)
        self.branch = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        both = torch.cat([left, self.branch(right)], 1)
        n, c, h, w = both.shape
        return both.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class Shufflenet(nn.Sequential):
    """Two units and a head that averages by `mean`."""

    def __init__(self) -> None:
        super().__init__(conv(3, 12), Shuffle(12, 5), Shuffle(12, 4))
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for block in list(self)[:3]:
            x = block(x)
        return self.head(x.mean([2, 3]))


class Norm2d(nn.LayerNorm):
    """LayerNorm over the channels of an image."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Next(nn.Module):
    """ConvNeXt's block: depthwise convolution, LayerNorm and MLP with channels last, a scale per channel."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))
        self.scale = nn.Parameter(torch.ones(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.mlp(self.spatial(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Convnext(nn.Sequential):
    """Two stages of one block."""

    def __init__(self) -> None:
        first = nn.Conv2d(3, 8, 4, 4), Norm2d(8), Next(8, 12)
        second = Norm2d(8), nn.Conv2d(8, 10, 2, 2), Next(10, 14), nn.AdaptiveAvgPool2d(1), Norm2d(10)
        super().__init__(*first, *second, nn.Flatten(), nn.Linear(10, CLASSES))


class Attention(nn.Module):
    """Self-attention with one projection for q, k and v, and torch's own scaled dot product."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(b, n, c))


class Vit(nn.Module):
    """Patches, a class token, positions, one pre-norm block."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.attention = nn.Conv2d(3, 8, 4, 4), Attention(8, 2)
        self.token, self.position = nn.Parameter(torch.zeros(1, 1, 8)), nn.Parameter(torch.zeros(1, 5, 8))
        self.one, self.two, self.last = nn.LayerNorm(8), nn.LayerNorm(8), nn.LayerNorm(8)
        self.mlp = nn.Sequential(nn.Linear(8, 10), nn.GELU(), nn.Linear(10, 8))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        x = x + self.attention(self.one(x))
        return self.head(self.last(x + self.mlp(self.two(x)))[:, 0])


class Windows(nn.Module):
    """Swin's attention: rolled windows, a table of relative positions, a mask at the seam."""

    def __init__(self, width: int, heads: int, size: int, window: int, shift: int) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.table = nn.Parameter(torch.randn((2 * window - 1) ** 2, heads))
        place = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
        offset = (place[:, :, None] - place[:, None] + window - 1).permute(1, 2, 0)
        self.register_buffer("index", (offset[..., 0] * (2 * window - 1) + offset[..., 1]).flatten())
        seam = torch.zeros(1, size, size, 1)
        for k, part in enumerate((slice(0, -window), slice(-window, -shift), slice(-shift, None))):
            seam[:, part] += 3 * k
            seam[:, :, part] += k
        seam = self.cut(seam)[..., 0]
        self.register_buffer("mask", (seam[:, None] != seam[:, :, None]) * -9.0)

    def cut(self, x: Tensor) -> Tensor:
        """(b, H, W, c) to (b windows, window * window, c)."""
        b, h, w, c = x.shape
        x = x.view(b, h // self.window, self.window, w // self.window, self.window, c)
        return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, self.window**2, c)

    def paste(self, x: Tensor, h: int, w: int) -> Tensor:
        """The reverse of `cut`."""
        x = x.view(-1, h // self.window, w // self.window, self.window, self.window, x.shape[-1])
        return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, h, w, x.shape[-1])

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[1:3]
        x = self.cut(torch.roll(x, (-self.shift, -self.shift), (1, 2)))
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        score = q * (c // self.heads) ** -0.5 @ k.transpose(-2, -1)
        score = score + self.table[self.index].view(n, n, -1).permute(2, 0, 1)[None]
        parts = self.mask.shape[0]
        score = score.view(-1, parts, self.heads, n, n) + self.mask[None, :, None]
        weight = torch.softmax(score.view(-1, self.heads, n, n), -1)
        x = self.out((weight @ v).transpose(1, 2).reshape(b, n, c))
        return torch.roll(self.paste(x, h, w), (self.shift, self.shift), (1, 2))


class Swin(nn.Module):
    """One block with shifted windows, and patch merging."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.windows = nn.Conv2d(3, 8, 2, 2), Windows(8, 2, 4, 2, 1)
        self.one, self.two, self.four, self.last = (nn.LayerNorm(c) for c in (8, 8, 32, 12))
        self.mlp = nn.Sequential(nn.Linear(8, 10), nn.GELU(), nn.Linear(10, 8))
        self.merge, self.head = nn.Linear(32, 12, bias=False), nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).permute(0, 2, 3, 1)
        x = x + self.windows(self.one(x))
        x = x + self.mlp(self.two(x))
        quarters = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        x = self.last(self.merge(self.four(torch.cat(quarters, -1))))
        return self.head(x.flatten(1, 2).mean(1))


class Recurrent(nn.Module):
    """A bidirectional cell, one in one direction, and a head on the last step."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.first, self.second = kind(6, 5, bidirectional=True, batch_first=True), kind(10, 4, batch_first=True)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)[0])[0][:, -1])


class Unet(nn.Module):
    """GroupNorm, a strided convolution down, a transposed one up, and the skip concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.high = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(4, 8), nn.SiLU())
        self.low = nn.Sequential(nn.Conv2d(8, 9, 3, 2, 1), nn.GroupNorm(3, 9), nn.SiLU())
        self.up = nn.ConvTranspose2d(9, 5, 2, 2)
        self.last = nn.Sequential(nn.Conv2d(13, 10, 1), nn.GroupNorm(2, 10), nn.SiLU(), nn.Conv2d(10, 3, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        high = self.high(x)
        return self.last(torch.cat([self.up(self.low(high)), high], 1))


class Edsr(nn.Module):
    """A residual stream without normalisation, and channels moved to pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.up, self.last = (nn.Conv2d(i, o, 3, padding=1) for i, o in ((3, 6), (6, 20), (5, 3)))
        self.body = nn.Sequential(nn.Conv2d(6, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x)
        return self.last(functional.pixel_shuffle(self.up(x + 0.1 * self.body(x)), 2))


class C2f(nn.Module):
    """YOLOv8's block: one half passes, the other goes through a cascade of residual steps, all are concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.last = conv(3, 6, act=nn.SiLU), conv(6, 8, 1, act=nn.SiLU), conv(16, 9, 1)
        self.steps = nn.ModuleList(nn.Sequential(conv(4, i, act=nn.SiLU), conv(i, 4, act=nn.SiLU)) for i in (3, 5))
        self.head = nn.Conv2d(9, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.first(self.stem(x)).chunk(2, 1))
        for step in self.steps:
            parts.append(parts[-1] + step(parts[-1]))
        wide = functional.interpolate(self.last(torch.cat(parts, 1)), scale_factor=2.0)
        return self.head(functional.max_pool2d(wide, 3, 1, 1))
