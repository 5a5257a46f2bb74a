"""Models of torchvision with hundreds of megabytes: their own depth and blocks at a fraction of the width.

Two of them are larger than protobuf allows (2 GB); of the others, structure and not size is what is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from torch import nn

NARROW = """vit_h_14 vit_l_16 vit_l_32 regnet_y_128gf regnet_y_32gf convnext_large vgg11 vgg13 vgg16 vgg19
vgg11_bn vgg13_bn vgg16_bn vgg19_bn""".split()


def narrow(name: str) -> nn.Module | None:
    """The model at a fraction of its width, or None for one that is small enough."""
    from torchvision.models import convnext, regnet, vgg, vision_transformer

    if name == "vit_h_14":
        return vision_transformer.VisionTransformer(56, 14, num_layers=32, num_heads=16, hidden_dim=320, mlp_dim=1280)
    if name in ("vit_l_16", "vit_l_32"):
        return vision_transformer.VisionTransformer(64, int(name[-2:]), 24, 16, hidden_dim=256, mlp_dim=1024)
    if name in ("regnet_y_128gf", "regnet_y_32gf"):
        depth, w_0, w_a, w_m, group = (27, 56, 20.1, 2.52, 32) if "128" in name else (20, 56, 28.9, 2.53, 56)
        return regnet.RegNet(regnet.BlockParams.from_init_params(depth, w_0, w_a, w_m, group, se_ratio=0.25))
    if name == "convnext_large":
        widths = (48, 96, 192, 384, None)
        depths = (3, 3, 27, 3)
        stages = [convnext.CNBlockConfig(w, widths[i + 1], depths[i]) for i, w in enumerate(widths[:4])]
        return convnext.ConvNeXt(stages, stochastic_depth_prob=0.5)
    if name.startswith("vgg"):
        plan = vgg.cfgs[{"11": "A", "13": "B", "16": "D", "19": "E"}[name[3:5]]]
        model = vgg.VGG(vgg.make_layers([c if c == "M" else c // 4 for c in plan], name.endswith("_bn")))
        model.classifier[0], model.classifier[3] = nn.Linear(128 * 49, 1024), nn.Linear(1024, 1024)
        model.classifier[6] = nn.Linear(1024, 1000)
        return model
    return None


@contextmanager
def short_clips(clip: tuple[int, int, int, int]) -> Iterator[None]:
    """MViTs built inside take clips of this size: torchvision fixes it, for the tables of relative positions."""
    from torchvision.models.video import mvit

    build, (_, frames, *sides) = mvit._mvit, clip

    def small(**options: Any) -> nn.Module:
        return build(**options | {"spatial_size": tuple(sides), "temporal_size": frames})

    with patch.object(mvit, "_mvit", small):
        yield
