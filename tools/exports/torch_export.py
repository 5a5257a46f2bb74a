"""Exports by both exporters of PyTorch: TorchScript (`legacy`) and torch.export (`dynamo`).

A sample is a name, what builds the network, its inputs, and the ways in which it is exported. Every file is compared
with PyTorch in onnxruntime before it is written.
"""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from tools.coverage.zoo_models import Call, Input, randomise, settle
from tools.exports import torch_nets as nets
from tools.exports.clean import agree


@dataclass(frozen=True)
class Way:
    """How to export: opset, which axis is free ("" for none), and whether BatchNorm is kept."""

    dynamo: bool
    opset: int
    free: str = "N"
    keep: bool = False

    @property
    def name(self) -> str:
        kept = "_bn" if self.keep else ""
        return f"{'dynamo' if self.dynamo else 'legacy'}{self.opset}{kept}"


@dataclass(frozen=True)
class Sample:
    """One network and its ways."""

    build: Callable[[], nn.Module]
    inputs: Mapping[str, Input]
    ways: tuple[Way, ...]


def legacy(opset: int, free: str = "N", keep: bool = False) -> Way:
    """By TorchScript."""
    return Way(False, opset, free, keep)


def dynamo(opset: int, free: str = "N", keep: bool = False) -> Way:
    """By torch.export."""
    return Way(True, opset, free, keep)


IMAGE = {"x": Input((3, 8, 8))}
STEPS = {"x": Input((5, 6))}
IDS = {"ids": Input((6,), below=20)}
MASKED = IDS | {"mask": Input((6,), below=2)}
TEXT = {"vocab_size": 20, "max_position_embeddings": 16, "num_hidden_layers": 1, "intermediate_size": 10}


def transformer(name: str, config: str, options: dict[str, Any], call: Callable[..., Any]) -> nn.Module:
    """A network of the transformers package with random weights."""
    import transformers

    made = getattr(transformers, name)(getattr(transformers, config)(**options))
    return Call(made, call)


def bert(attention: str) -> nn.Module:
    """One post-norm block with an attention mask, and a pooler."""
    options = TEXT | {"hidden_size": 8, "num_attention_heads": 2, "num_labels": nets.CLASSES}
    options["attn_implementation"] = attention
    call = lambda m, a, b: m(a, attention_mask=b, return_dict=False)  # noqa: E731
    return transformer("BertForSequenceClassification", "BertConfig", options, call)


def gpt2() -> nn.Module:
    """One block, the embedding tied to the head."""
    options = {"vocab_size": 20, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16, "n_inner": 10}
    return transformer("GPT2LMHeadModel", "GPT2Config", options, lambda m, a: m(a, use_cache=False, return_dict=False))


def llama() -> nn.Module:
    """One block: two key-value heads for four queries, rotary positions, RMSNorm, a gated MLP."""
    options = TEXT | {"hidden_size": 8, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6}
    call = lambda m, a: m(a, use_cache=False, return_dict=False)  # noqa: E731
    return transformer("LlamaForCausalLM", "LlamaConfig", options, call)


SAMPLES = {
    "resnet": Sample(nets.Resnet, IMAGE, (legacy(17), legacy(13, "", True))),
    "mobilenet": Sample(nets.Mobilenet, IMAGE, (dynamo(20, "N", True),)),
    "shufflenet": Sample(nets.Shufflenet, IMAGE, (legacy(17), dynamo(18, ""))),
    "convnext": Sample(nets.Convnext, {"x": Input((3, 16, 16))}, (legacy(17, ""),)),
    "vit": Sample(nets.Vit, IMAGE, (legacy(17), dynamo(18), dynamo(23))),
    "swin": Sample(nets.Swin, IMAGE, (dynamo(18),)),
    "lstm": Sample(lambda: nets.Recurrent(nn.LSTM), STEPS, (legacy(17),)),
    "gru": Sample(lambda: nets.Recurrent(nn.GRU), STEPS, (legacy(13, ""), dynamo(18, ""))),
    "unet": Sample(nets.Unet, IMAGE, (legacy(17), dynamo(21))),
    "edsr": Sample(nets.Edsr, IMAGE, (legacy(13),)),
    "c2f": Sample(nets.C2f, IMAGE, (legacy(17, "NHW"),)),
    "bert": Sample(lambda: bert("sdpa"), MASKED, (dynamo(23, ""),)),
    "bert_eager": Sample(lambda: bert("eager"), MASKED, ()),  # for ort_export: what its optimizer knows
    "gpt2": Sample(gpt2, IDS, (dynamo(18, "NT"),)),
    "llama": Sample(llama, IDS, (dynamo(18, "NT"),)),
}


def prepare(name: str, batch: int) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """The network with random constants and settled BatchNorm, and example inputs: the same at every call."""
    sample = SAMPLES[name]
    torch.manual_seed(zlib.crc32(name.encode()))
    with torch.no_grad():
        model = randomise(sample.build())
        for m in model.modules():
            if isinstance(m, nn.Embedding):
                m.weight.data += torch.randn_like(m.weight)
        settle(model, {k: v.draw(8) for k, v in sample.inputs.items()})
        inputs = {k: v.draw(batch) for k, v in sample.inputs.items()}
    if "mask" in inputs:
        inputs["mask"][:, 0] = 1
    return model, inputs


def axes(inputs: Mapping[str, torch.Tensor], way: Way, star: bool) -> dict[str, Any]:
    """The exporter's argument that frees the axes in `way.free`: batch N, steps T, or rows H and columns W.

    `star`: the network takes *args (Call), which torch.export counts as one argument.
    """
    image = way.free == "NHW"
    places = {k: dict(zip((0, 2, 3) if image else range(t.dim()), way.free, strict=False)) for k, t in inputs.items()}
    if not way.free:
        return {}
    if not way.dynamo:
        return {"dynamic_axes": places | {"y": {0: "N"}}}
    free = {c: torch.export.Dim(c, max=16) if c == "T" else torch.export.Dim(c) for c in way.free}
    shapes = tuple({i: free[c] for i, c in p.items()} for p in places.values())
    return {"dynamic_shapes": (shapes,) if star else shapes}


def export(name: str, way: Way) -> onnx.ModelProto:
    """One file, compared with PyTorch."""
    model, inputs = prepare(name, 2)
    options: dict[str, Any] = {"input_names": list(inputs), "output_names": ["y"], "opset_version": way.opset}
    if way.keep:
        plain = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
        options |= {"optimize": False} if way.dynamo else plain
    options |= axes(inputs, way, isinstance(model, Call)) | {"dynamo": way.dynamo, "verbose": False}
    buffer = io.BytesIO()
    made = torch.onnx.export(model, tuple(inputs.values()), None if way.dynamo else buffer, **options)
    proto = made.model_proto if way.dynamo else onnx.load_from_string(buffer.getvalue())
    with torch.no_grad():
        wanted = model(*inputs.values()).numpy()
    agree(proto, {k: v.numpy() for k, v in inputs.items()}, [wanted])
    return proto


def samples(folder: Path) -> Iterator[tuple[str, Callable[[], onnx.ModelProto]]]:
    """(file name, what makes the model) of every sample."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    for name, sample in SAMPLES.items():
        for way in sample.ways:
            yield f"{name}.{way.name}", lambda n=name, w=way: export(n, w)
