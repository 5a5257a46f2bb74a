"""Networks of a few channels whose computation follows the size of their input; `sizes` exports them.

Each has an inner width that can be cut, and one idiom that an exporter writes as shape arithmetic: padding to a
multiple and cropping back, windows, tables cut to the length, a branch on the length.

    Restore(32)(torch.randn(1, 3, 50, 71)).shape        # (1, 3, 50, 71): padded to 64 x 96 and cropped back
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 5


def conv(i: int, o: int, k: int = 3, stride: int = 1) -> nn.Conv2d:
    """A convolution that keeps the size where the stride is 1."""
    return nn.Conv2d(i, o, k, stride, k // 2)


# pictures ------------------------------------------------------------------------------------------------------------


class Restore(nn.Module):
    """Pads to a multiple, computes at the coarse grid and at the fine one, crops back."""

    def __init__(self, multiple: int, mode: str = "constant") -> None:
        super().__init__()
        self.multiple, self.mode = multiple, mode
        self.fine, self.coarse, self.inner, self.last = conv(3, 12), conv(12, 16), conv(16, 12), conv(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        m = self.multiple
        x = functional.pad(x, (0, (m - w % m) % m, 0, (m - h % m) % m), mode=self.mode)
        fine = torch.relu(self.fine(x))
        coarse = self.inner(torch.relu(self.coarse(functional.max_pool2d(fine, m))))
        return self.last(fine + functional.interpolate(coarse, scale_factor=float(m)))[:, :, :h, :w]


class Gate(nn.Module):
    """Half of the channels times the other half."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        return a * b


class Naf(nn.Module):
    """A restoration network as NAFNet: down by strided convolution, gates, up by pixels, padded by what is missing."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.end = conv(3, 8), conv(8, 3)
        self.down, self.up = nn.Conv2d(8, 16, 4, 4), nn.Conv2d(16, 128, 1, bias=False)
        self.body = nn.Sequential(conv(16, 24, 1), Gate(), conv(12, 16, 1))
        self.attend = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 16, 1))

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        x = functional.pad(x, (0, -w % 4, 0, -h % 4))
        skip = self.start(x)
        low = self.down(skip)
        low = low + self.body(low * self.attend(low))
        out = self.end(skip + functional.pixel_shuffle(self.up(low), 4)) + x
        return out[:, :, :h, :w]


class Same(nn.Module):
    """Convolutions and a pooling with the padding that TensorFlow calls SAME, as timm writes it."""

    def __init__(self) -> None:
        from timm.layers.conv2d_same import Conv2dSame
        from timm.layers.pool2d_same import MaxPool2dSame

        super().__init__()
        first, second = Conv2dSame(3, 10, 3, stride=2), Conv2dSame(10, 12, 5, stride=2)
        pool = MaxPool2dSame(3, 2)
        self.body = nn.Sequential(first, nn.ReLU(), pool, second, nn.ReLU(), nn.Conv2d(12, CLASSES, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Padded(nn.Module):
    """SAME padding written out: ceil(size / stride), computed in integers."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.first, self.second = nn.Conv2d(3, 12, 3, stride), nn.Conv2d(12, CLASSES, 1)

    def count_missing(self, size: Any) -> Any:
        """The padding that has to be added to one axis."""
        total = ((size + self.stride - 1) // self.stride - 1) * self.stride + 3 - size
        return torch.clamp(total, min=0) if torch.jit.is_tracing() else max(total, 0)

    def forward(self, x: Tensor) -> Tensor:
        a, b = (self.count_missing(size) for size in x.shape[2:])
        x = functional.pad(x, [b // 2, b - b // 2, a // 2, a - a // 2])
        return self.second(torch.relu(self.first(x)))


class Skip(nn.Module):
    """A feature pyramid: what is coarse is brought to the size of the skip by `interpolate`."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.high, self.low, self.lowest = conv(3, 10), conv(10, 12, 3, 2), conv(12, 14, 3, 2)
        self.sides = nn.ModuleList(nn.Conv2d(i, 8, 1) for i in (10, 12, 14))
        self.last = conv(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        high = torch.relu(self.high(x))
        low = torch.relu(self.low(high))
        y = self.sides[2](torch.relu(self.lowest(low)))
        for side, skip in ((self.sides[1], low), (self.sides[0], high)):
            options = {} if self.mode == "nearest" else {"align_corners": False}
            y = side(skip) + functional.interpolate(y, size=skip.shape[-2:], mode=self.mode, **options)
        return self.last(torch.relu(y))


class Unet(nn.Module):
    """Up by transposed convolution, padded by the difference to the skip, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.high, self.low, self.up = conv(3, 8), conv(8, 12), nn.ConvTranspose2d(12, 6, 2, 2)
        self.join, self.last = conv(14, 10), conv(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        high = torch.relu(self.high(x))
        low = self.up(torch.relu(self.low(functional.max_pool2d(high, 2))))
        y, z = high.shape[2] - low.shape[2], high.shape[3] - low.shape[3]
        low = functional.pad(low, [z // 2, z - z // 2, y // 2, y - y // 2])
        return self.last(torch.relu(self.join(torch.cat([high, low], 1))))


class Pyramid(nn.Module):
    """Pooling to grids of fixed size, brought back to the size of the picture."""

    def __init__(self, *grids: int) -> None:
        super().__init__()
        self.grids = grids
        self.first, self.last = conv(3, 10), conv(10 + 6 * len(grids), CLASSES)
        self.sides = nn.ModuleList(nn.Conv2d(10, 6, 1) for _ in grids)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        parts = [x]
        for grid, side in zip(self.grids, self.sides, strict=True):
            low = torch.relu(side(functional.adaptive_avg_pool2d(x, grid)))
            parts.append(functional.interpolate(low, x.shape[2:], mode="bilinear", align_corners=False))
        return self.last(torch.cat(parts, 1))


class Windows(nn.Module):
    """Swin's attention in windows that are padded to fit and shifted, then a network per token."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.shift, self.window, self.heads = shift, 4, 2
        self.patch = nn.Conv2d(3, 16, 2, 2)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.table = nn.Parameter(torch.randn(2, 16, 16))
        self.wide, self.thin, self.last = nn.Linear(16, 24), nn.Linear(24, 16), nn.Linear(16, CLASSES)
        self.one, self.two = nn.LayerNorm(16), nn.LayerNorm(16)

    def cut(self, x: Tensor) -> Tensor:
        """(b, h, w, c) to (b windows, 16, c)."""
        b, h, w, c = x.shape
        x = x.reshape(b, h // 4, 4, w // 4, 4, c)
        return x.permute(0, 1, 3, 2, 4, 5).reshape(b * (h // 4) * (w // 4), 16, c)

    def seam(self, x: Tensor) -> Tensor:
        """A number per part of the padded picture that was moved together."""
        rows = torch.arange(x.shape[1])[:, None]
        columns = torch.arange(x.shape[2])[None]
        h, w = x.shape[1], x.shape[2]
        part = 3 * ((rows >= h - 4).long() + (rows >= h - self.shift).long())
        part = part + (columns >= w - 4).long() + (columns >= w - self.shift).long()
        cut = self.cut(part[None, :, :, None])[..., 0]
        return (cut[:, :, None] != cut[:, None]) * -100.0

    def attend(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        x = functional.pad(x, (0, 0, 0, (4 - w % 4) % 4, 0, (4 - h % 4) % 4))
        tall, wide = x.shape[1], x.shape[2]
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
        parts = self.cut(x)
        q, k, v = self.qkv(parts).reshape(-1, 16, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        score = q @ k.transpose(-2, -1) * 8**-0.5 + self.table
        if self.shift:
            seam = self.seam(x)
            score = (score.reshape(b, -1, 2, 16, 16) + seam[None, :, None]).reshape(-1, 2, 16, 16)
        y = self.out((score.softmax(-1) @ v).transpose(1, 2).reshape(-1, 16, c))
        y = y.reshape(b, tall // 4, wide // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(b, tall, wide, c)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        return y[:, :h, :w]

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).permute(0, 2, 3, 1)
        x = x + self.attend(self.one(x))
        x = x + self.thin(functional.gelu(self.wide(self.two(x))))
        return self.last(x)


class Positions(nn.Module):
    """Patches with learned positions, which are interpolated to the grid of the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.position = nn.Conv2d(3, 12, 4, 4), nn.Parameter(torch.randn(1, 12, 5, 5))
        self.wide, self.thin = nn.Linear(12, 24), nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x)
        grid = functional.interpolate(self.position, size=x.shape[-2:], mode="bilinear", align_corners=False)
        x = (x + grid).flatten(2).transpose(1, 2)
        return self.thin(torch.relu(self.wide(x)))


class Grid(nn.Module):
    """A detector's head: offsets to the places of a grid, in pixels, beside the classes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.last = conv(3, 10, 3, 2), conv(10, 14, 3, 2), conv(14, 2 + CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.last(torch.relu(self.inner(torch.relu(self.first(x)))))
        rows, columns = torch.arange(y.shape[2]), torch.arange(y.shape[3])
        place = torch.stack(torch.meshgrid(columns, rows, indexing="xy")).to(y.dtype)
        return (y[:, :2] + place) * 4, torch.sigmoid(y[:, 2:]).flatten(2)


class Smallest(nn.Module):
    """A picture brought to at most 48 rows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = conv(3, 12), conv(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        traced = torch.jit.is_tracing()
        rows = torch.clamp(torch._shape_as_tensor(x)[2], max=48) if traced else torch.sym_min(x.shape[2], 48)
        x = functional.interpolate(x, size=[rows, x.shape[3]], mode="nearest")
        return self.last(torch.relu(self.first(x)))


class Parity(nn.Module):
    """A scale that follows the width: 1 where it is even, 2 where it is odd."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = conv(3, 12), conv(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x * (1 + x.shape[3] % 2))))


# sequences -----------------------------------------------------------------------------------------------------------


class Mlp(nn.Module):
    """A network per token."""

    def __init__(self, width: int, inner: int, out: int) -> None:
        super().__init__()
        self.wide, self.thin = nn.Linear(width, inner), nn.Linear(inner, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.thin(torch.relu(self.wide(x)))


class Attention(nn.Module):
    """Attention of 2 heads; `bias` is added to the scores."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.scale = (width // 2) ** -0.5

    def split(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        return x.view(b, t, 2, -1).transpose(1, 2)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        b, t, c = x.shape
        q, k, v = (self.split(f(x)) for f in (self.q, self.k, self.v))
        score = q @ k.transpose(2, 3) * self.scale
        score = score if bias is None else score + bias
        return self.o((score.softmax(-1) @ v).transpose(1, 2).reshape(b, t, c))


class Block(nn.Module):
    """Attention and a network per token on a stream without normalisation."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.attention, self.mlp = Attention(width), Mlp(width, 24, width)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        x = x + self.attention(x, bias)
        return x + self.mlp(x)


class Frames(nn.Module):
    """A speech encoder: two strided convolutions, a table of positions cut to what is left, attention."""

    def __init__(self, attention: bool = True) -> None:
        super().__init__()
        self.one, self.two = nn.Conv1d(8, 12, 3, 2, 1), nn.Conv1d(12, 16, 3, 2, 1)
        self.position = nn.Parameter(torch.randn(1, 64, 16))
        self.block, self.head = Block() if attention else Mlp(16, 24, 16), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.two(torch.relu(self.one(x)))).transpose(1, 2)
        return self.head(self.block(x + self.position[:, : x.shape[1]]))


class Relative(nn.Module):
    """T5's bias: a bucket of the distance between two tokens picks a number per head."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.block, self.head = nn.Embedding(8, 2), Block(), nn.Linear(16, CLASSES)

    def bias(self, length: int) -> Tensor:
        place = torch.arange(length)
        far = place[None] - place[:, None]
        near = far.abs()
        large = 2 + (torch.log(near.clamp(min=1).float() / 2) / math.log(8) * 2).long()
        bucket = (far > 0).long() * 4 + torch.where(near < 2, near, large.clamp(max=3))
        return self.table(bucket).permute(2, 0, 1)[None]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(x, self.bias(x.shape[1])))


class Chunks(nn.Module):
    """Attention inside chunks of 8 tokens; the last chunk is padded."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = Block(), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        x = functional.pad(x, (0, 0, 0, -t % 8))
        x = self.block(x.reshape(-1, 8, c))
        return self.head(x.reshape(b, -1, c)[:, :t])


class Causal(nn.Module):
    """A mask of the length: made by `triu`, or cut out of a table."""

    def __init__(self, table: bool) -> None:
        super().__init__()
        self.words, self.block, self.head = nn.Embedding(20, 16), Block(), nn.Linear(16, 20)
        if table:
            self.register_buffer("mask", torch.full((64, 64), -100.0).triu(1))

    def forward(self, ids: Tensor) -> Tensor:
        t = ids.shape[1]
        mask = self.mask[:t, :t] if hasattr(self, "mask") else torch.full((t, t), -100.0).triu(1)
        return self.head(self.block(self.words(ids), mask))


class Waves(nn.Module):
    """Sine positions of the length."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rate", torch.exp(torch.arange(8) * -0.5))
        self.mlp = Mlp(16, 24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        place = torch.arange(x.shape[1]).to(x.dtype)[:, None] * self.rate
        return self.mlp(x + torch.cat([place.sin(), place.cos()], -1))


@torch.jit.script
def stretch(x: Tensor) -> Tensor:
    """Three times the values of a long input."""
    return x * 3.0 if x.size(1) > 100 else x


class Long(nn.Module):
    """Another branch for a long input (LongRoPE, sliding windows): an If."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = Mlp(8, 24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_tracing():
            return self.mlp(stretch(x))
        return self.mlp(torch.cond(x.shape[1] > 100, lambda x: x * 3.0, lambda x: x * 1.0, (x,)))


class Longer(nn.Module):
    """Another scale for a long input: a Where."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = Mlp(8, 24, CLASSES)
        self.register_buffer("far", torch.rand(8) + 3)
        self.register_buffer("near", torch.rand(8) + 1)

    def forward(self, x: Tensor) -> Tensor:
        count = torch.arange(x.shape[1]).sum() if not torch.jit.is_tracing() else torch._shape_as_tensor(x)[1]
        limit = 4950 if not torch.jit.is_tracing() else 100  # 0 + 1 + ... + 99
        return self.mlp(x * torch.where(count > limit, self.far, self.near))


class Halves(nn.Module):
    """A scale of how many whole chunks of 16 there are."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = Mlp(8, 24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x * (1 + x.shape[1] // 16))


class First(nn.Module):
    """At most 5 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = Mlp(8, 24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x[:, :5]).sum(1)


class Squeeze(nn.Module):
    """A batch axis that goes where it is 1."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = Mlp(8, 24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x).squeeze(0)


class Gru(nn.Module):
    """Two recurrent cells and a head on every step."""

    def __init__(self) -> None:
        super().__init__()
        self.cells, self.head = nn.GRU(8, 12, 2, batch_first=True), Mlp(12, 16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x)[0])


class Neighbours(nn.Module):
    """A graph network: features per node, and an adjacency."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 24), nn.Linear(24, CLASSES)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        return adjacency @ self.two(torch.relu(adjacency @ self.one(x)))


class Step(nn.Module):
    """One step of a decoder: the keys and values of the past, and a mask one longer."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(20, 16), nn.Linear(16, 20)
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))
        self.mlp = Mlp(16, 24, 16)

    def forward(self, ids: Tensor, mask: Tensor, past_k: Tensor, past_v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.words(ids)
        b, t, _ = x.shape
        q, k, v = (f(x).view(b, t, 2, 8).transpose(1, 2) for f in (self.q, self.k, self.v))
        k, v = torch.cat([past_k, k], 2), torch.cat([past_v, v], 2)
        score = q @ k.transpose(2, 3) / 8**0.5
        score = score.masked_fill(mask[:, None, None] == 0, -1e9)
        x = x + self.o((score.softmax(-1) @ v).transpose(1, 2).reshape(b, t, 16))
        return self.head(x + self.mlp(x)), k, v


# sound ---------------------------------------------------------------------------------------------------------------


class Padder(nn.Module):
    """A strided convolution that pads by what its length needs to be covered, as EnCodec's."""

    def __init__(self, i: int, o: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride, self.conv = kernel, stride, nn.Conv1d(i, o, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        total = self.kernel - self.stride
        frames = (x.shape[-1] - self.kernel + total + self.stride - 1) // self.stride
        extra = frames * self.stride + self.kernel - total - x.shape[-1]
        return self.conv(functional.pad(x, (total, extra)))


class Codec(nn.Module):
    """Down by 2, 4 and 5, up again, cut to the length."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([Padder(1, 6, 7, 1), Padder(6, 8, 4, 2), Padder(8, 10, 8, 4), Padder(10, 12, 10, 5)])
        self.up = nn.ModuleList(nn.ConvTranspose1d(i, o, 2 * s, s) for i, o, s in ((12, 10, 5), (10, 8, 4), (8, 6, 2)))
        self.last = Padder(6, 1, 7, 1)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[-1]
        for step in self.down:
            x = functional.elu(step(x))
        for step in self.up:
            x = functional.elu(step(x))
        return self.last(x)[..., :length]


class Spectrum(nn.Module):
    """Frames of a wave by `unfold` of a padded signal, then a network per frame."""

    def __init__(self) -> None:
        super().__init__()
        self.frames, self.mlp = nn.Conv1d(1, 12, 16, 8, bias=False), Mlp(12, 24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.pad(x[:, None], (8, 8 + (-x.shape[-1]) % 8), mode="constant")
        x = torch.log1p(self.frames(x).abs())
        return self.mlp(x.transpose(1, 2))
