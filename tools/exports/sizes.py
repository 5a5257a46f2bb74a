"""Exports whose shape arithmetic follows a symbolic size, by both exporters of PyTorch (tests/sizes).

    python -m tools.exports.sizes --out FOLDER          every network by every exporter that takes it
    python -m tools.exports.sizes --committed           the sample in tests/sizes
    python -m tools.exports.sizes --out FOLDER --only pad
    python -m tools.exports.sizes --out FOLDER --real   networks as they are published (sizes_real)

Needs torch, onnxscript, timm and transformers. Beside the files lies `inputs.json`: the shape of every input, with the
names of its free axes as expressions ("P + 1"), so that a test can draw inputs of any size without reading the file's
own names. Each file is compared with PyTorch at the size of the export. What an exporter refuses is listed with its
message.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import re
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from tools import isolation
from tools.coverage.zoo_models import Call, randomise
from tools.exports import sizes_nets as nets
from tools.exports.clean import agree, clean
from tools.exports.torch_export import Way, dynamo, legacy
from tools.isolation import Row

ROOT = Path(__file__).resolve().parents[2]
CODES = re.compile(r"\x1b\[\d+m")
"""Colours of a terminal."""
COMMITTED = ROOT / "tests" / "sizes"
LARGEST = 60_000  # bytes of a committed file
SECONDS, MEMORY = 300.0, 16 << 30
"""Limits of one export."""
BOTH = legacy(17), dynamo(18)
EXAMPLE = {"N": 2, "H": 50, "W": 71, "T": 37, "L": 643, "S": 7777, "P": 7, "n": 11}
"""Sizes at the export: of the batch, a picture's sides, tokens, a wave, a past, the nodes of a graph."""


@dataclass(frozen=True)
class Free:
    """One input: its axes, numbers or expressions of names in EXAMPLE; integers are drawn below `below`."""

    axes: tuple[int | str, ...]
    below: int = 0

    def draw(self, sizes: Mapping[str, int]) -> Tensor:
        shape = [a if isinstance(a, int) else eval(a, {}, dict(sizes)) for a in self.axes]
        return torch.randint(0, self.below, shape) if self.below else torch.randn(shape)


@dataclass(frozen=True)
class Sample:
    """One network, its inputs, the ways in which it is exported, and which of the files are committed."""

    build: Callable[[], nn.Module]
    inputs: Mapping[str, Free]
    ways: tuple[Way, ...] = BOTH
    committed: tuple[str, ...] = ()


PICTURE = {"x": Free(("N", 3, "H", "W"))}
ONE_PICTURE = {"x": Free((1, 3, "H", "W"))}
TOKENS = {"x": Free(("N", "T", 8))}
WIDE = {"x": Free(("N", "T", 16))}
IDS = {"ids": Free(("N", "T"), 20)}
NODES = {"x": Free(("n", 8)), "adjacency": Free(("n", "n"))}
WAVE = {"x": Free(("N", "L"))}
STEP = {
    "ids": Free(("N", 1), 20), "mask": Free(("N", "P + 1"), 2),
    "past_k": Free(("N", 2, "P", 8)), "past_v": Free(("N", 2, "P", 8)),
}  # fmt: skip
"""A decoder's step."""


def make_pretrained(
    name: str, config: str, options: dict[str, Any], call: Callable[..., Any], every: bool = False
) -> Call:
    """A network of the transformers package with random weights."""
    import transformers

    return Call(getattr(transformers, name)(getattr(transformers, config)(**options)), call, every)


SPEECH = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24,
    "conv_dim": (8, 12), "conv_kernel": (10, 3), "conv_stride": (5, 2), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4, "vocab_size": 12, "apply_spec_augment": False,
    "attn_implementation": "eager",
}  # fmt: skip
"""A speech encoder of one block, ten samples a frame."""


def speech(name: str, config: str, **more: Any) -> Callable[[], nn.Module]:
    """A speech encoder of the transformers package."""
    return lambda: make_pretrained(name, config, SPEECH | more, lambda m, x: m(x, return_dict=False))


def conformer() -> nn.Module:
    """Convolution beside attention, with rotary positions of the length."""
    more = {"position_embeddings_type": "rotary", "conv_depthwise_kernel_size": 5, "max_source_positions": 400}
    return speech("Wav2Vec2ConformerModel", "Wav2Vec2ConformerConfig", **more)()


def data2vec() -> nn.Module:
    """Positions by several convolutions."""
    return speech("Data2VecAudioModel", "Data2VecAudioConfig", num_conv_pos_embeddings=2)()


def encodec() -> nn.Module:
    """EnCodec's encoder and decoder without the codes between them."""
    options = {
        "num_filters": 4, "upsampling_ratios": [4, 2], "hidden_size": 16, "num_lstm_layers": 1, "codebook_size": 16,
        "codebook_dim": 16, "norm_type": "weight_norm", "kernel_size": 3,
        "last_kernel_size": 3,
    }  # fmt: skip
    return make_pretrained("EncodecModel", "EncodecConfig", options, lambda m, x: m.decoder(m.encoder(x[:, None])))


def t5() -> nn.Module:
    """The encoder of T5: a bias by distance, RMS normalisation, no other positions."""
    options = {"vocab_size": 20, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
    options |= {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 16}
    return make_pretrained("T5EncoderModel", "T5Config", options, lambda m, ids: m(ids, return_dict=False))


def step_with_past(m: nn.Module, ids: Tensor, mask: Tensor, k: Tensor, v: Tensor) -> Any:
    """A step of a decoder: logits, and keys and values with those of the past in front."""
    from transformers import DynamicCache

    cache = DynamicCache()
    cache.update(k, v, 0)
    out = m(ids, attention_mask=mask, past_key_values=cache, use_cache=True)
    layer = out.past_key_values.layers[0]
    return out.logits, layer.keys, layer.values


def gpt2_step() -> nn.Module:
    """One step of GPT-2 with the keys and values of the past."""
    options = {"vocab_size": 20, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64, "n_inner": 24}

    return make_pretrained(
        "GPT2LMHeadModel", "GPT2Config", options | {"attn_implementation": "eager"}, step_with_past, True
    )


def bert() -> nn.Module:
    """A text encoder with positions cut to the length and a mask."""
    options = {
        "vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24,
        "max_position_embeddings": 160, "attn_implementation": "eager",
    }  # fmt: skip
    return make_pretrained(
        "BertModel", "BertConfig", options, lambda m, a, b: m(a, attention_mask=b, return_dict=False)
    )


def swin() -> nn.Module:
    """Swin of the transformers package: windows that are padded, shifted in the second block."""
    options = {
        "image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [2], "num_heads": [2], "window_size": 4,
        "mlp_ratio": 2.0,
    }  # fmt: skip
    return make_pretrained("SwinModel", "SwinConfig", options, lambda m, x: m(x, return_dict=False))


def segformer() -> nn.Module:
    """Attention with fewer keys, and maps of all stages brought to the size of the first."""
    options = {
        "num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1], "hidden_sizes": [8, 16], "patch_sizes": [7, 3],
        "strides": [4, 2], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2], "decoder_hidden_size": 12,
        "num_labels": 5,
    }  # fmt: skip
    name, config = "SegformerForSemanticSegmentation", "SegformerConfig"
    return make_pretrained(name, config, options, lambda m, x: m(x, return_dict=False))


SAMPLES = {
    "pad8": Sample(lambda: nets.Restore(8, "reflect"), PICTURE, committed=("legacy17", "dynamo18")),
    "pad16": Sample(lambda: nets.Restore(16), ONE_PICTURE, committed=("legacy17",)),
    "pad32": Sample(lambda: nets.Restore(32), PICTURE, committed=("dynamo18",)),
    "naf": Sample(nets.Naf, ONE_PICTURE, committed=("legacy17",)),
    "same": Sample(nets.Same, PICTURE, committed=("dynamo18",)),
    "padded": Sample(lambda: nets.Padded(2), PICTURE, committed=("legacy17",)),
    "skip": Sample(lambda: nets.Skip("nearest"), PICTURE, committed=("dynamo18",)),
    "skip_linear": Sample(lambda: nets.Skip("bilinear"), PICTURE),
    "unet": Sample(nets.Unet, PICTURE, committed=("legacy17", "dynamo18")),
    "pool1": Sample(lambda: nets.Pyramid(1), PICTURE),
    "pool2": Sample(lambda: nets.Pyramid(2), PICTURE, committed=("dynamo18",)),
    "windows": Sample(lambda: nets.Windows(0), PICTURE),
    "shifted": Sample(lambda: nets.Windows(2), PICTURE, committed=("legacy17", "dynamo18")),
    "positions": Sample(nets.Positions, PICTURE, committed=("legacy17",)),
    "grid": Sample(nets.Grid, PICTURE),
    "smallest": Sample(nets.Smallest, PICTURE, committed=("dynamo18",)),
    "parity": Sample(nets.Parity, PICTURE, committed=("legacy17",)),
    "swin": Sample(swin, PICTURE),
    "segformer": Sample(segformer, PICTURE),
    "frames": Sample(nets.Frames, {"x": Free((1, 8, "T"))}, committed=("legacy17", "dynamo18")),
    "frames_mlp": Sample(lambda: nets.Frames(False), {"x": Free(("N", 8, "T"))}),
    "relative": Sample(nets.Relative, WIDE, committed=("dynamo18",)),
    "chunks": Sample(nets.Chunks, WIDE, committed=("legacy17",)),
    "causal": Sample(lambda: nets.Causal(False), IDS, committed=("legacy17",)),
    "causal_table": Sample(lambda: nets.Causal(True), IDS, committed=("dynamo18",)),
    "waves": Sample(nets.Waves, WIDE),
    "long": Sample(nets.Long, TOKENS, committed=("legacy17", "dynamo18")),
    "longer": Sample(nets.Longer, TOKENS, committed=("dynamo18",)),
    "halves": Sample(nets.Halves, TOKENS, committed=("legacy17",)),
    "first": Sample(nets.First, TOKENS),
    "squeeze": Sample(nets.Squeeze, {"x": Free(("N", 8))}, committed=("legacy17",)),
    "gru": Sample(nets.Gru, TOKENS, committed=("dynamo18",)),
    "gru_program": Sample(nets.Gru, {"x": Free(("N", 9, 8))}, (dynamo(18, "auto"),), committed=("dynamo18",)),
    "neighbours": Sample(nets.Neighbours, NODES, committed=("legacy17",)),
    "step": Sample(nets.Step, STEP, committed=("legacy17", "dynamo18")),
    "gpt2_step": Sample(gpt2_step, STEP, committed=("dynamo18",)),
    "bert": Sample(bert, IDS | {"mask": Free(("N", "T"), 2)}),
    "t5": Sample(t5, IDS),
    "codec": Sample(nets.Codec, {"x": Free(("N", 1, "L"))}, committed=("dynamo18",)),
    "spectrum": Sample(nets.Spectrum, WAVE),
    "wav2vec2": Sample(speech("Wav2Vec2ForCTC", "Wav2Vec2Config"), WAVE, committed=("legacy17",)),
    "hubert": Sample(speech("HubertModel", "HubertConfig"), WAVE, committed=("dynamo18",)),
    "sew": Sample(speech("SEWModel", "SEWConfig", squeeze_factor=2), WAVE, committed=("dynamo18",)),
    "data2vec": Sample(data2vec, WAVE, committed=("dynamo18",)),
    "conformer": Sample(conformer, WAVE, committed=("dynamo18",)),
    "encodec": Sample(encodec, WAVE),
}


def axes(sample: Sample, way: Way) -> Any:
    """The exporter's argument that frees the axes that have names; "auto" leaves it to the exporter which are free."""
    named = [{i: a for i, a in enumerate(v.axes) if isinstance(a, str)} for v in sample.inputs.values()]
    if not way.dynamo:
        return dict(zip(sample.inputs, named, strict=True))
    if way.free == "auto":
        return tuple(dict.fromkeys(range(len(v.axes) - 1), torch.export.Dim.AUTO) for v in sample.inputs.values())
    return tuple(dict.fromkeys(n, torch.export.Dim.DYNAMIC) for n in named)


def write(model: nn.Module, inputs: Mapping[str, Tensor], way: Way, free: Any) -> onnx.ModelProto:
    """The model that the exporter makes of a network."""
    options: dict[str, Any] = {"input_names": list(inputs), "opset_version": way.opset, "verbose": False}
    given = tuple(inputs.values())
    with torch.no_grad():
        if not way.dynamo:
            buffer = io.BytesIO()
            torch.onnx.export(model, given, buffer, dynamo=False, dynamic_axes=free, **options)
            return onnx.load_from_string(buffer.getvalue())
        free = (free,) if isinstance(model, Call) else free  # its *args are one argument
        if way.free == "auto":
            program = torch.export.export(model, given, dynamic_shapes=free, strict=False)
            return torch.onnx.export(program, (), dynamo=True, **options).model_proto
        return torch.onnx.export(model, given, dynamo=True, dynamic_shapes=free, **options).model_proto


def export(name: str, sample: Sample, way: Way) -> onnx.ModelProto:
    """One file, compared with PyTorch at the size of the export."""
    torch.manual_seed(zlib.crc32(name.encode()))
    with torch.no_grad():
        model = randomise(sample.build())
        inputs = {k: v.draw(EXAMPLE) for k, v in sample.inputs.items()}
        if "mask" in inputs:
            inputs["mask"][:, 0] = 1
        wanted = model(*inputs.values())
    proto = write(model, inputs, way, axes(sample, way))
    outputs = [wanted] if isinstance(wanted, Tensor) else list(wanted)
    agree(proto, {k: v.numpy() for k, v in inputs.items()}, [v.numpy() for v in outputs])
    return proto


def inputs_of(sample: Sample) -> dict[str, Any]:
    """The entry of `inputs.json` about a network."""
    return {k: {"axes": list(v.axes), "below": v.below} for k, v in sample.inputs.items()}


def first_line(error: BaseException) -> str:
    """The message of an exporter and of what made it fail, short enough for a table."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [CODES.sub("", s).strip() for s in str(error).splitlines() if s.strip() and "===" not in s]
    return f"{type(error).__name__}: {' '.join(lines[:2])}"[:220].replace("|", "\\|")


def samples_of(real: bool) -> Mapping[str, Sample]:
    """The table of small networks, or of published ones."""
    return importlib.import_module("tools.exports.sizes_real").SAMPLES if real else SAMPLES


def make(name: str, real: bool, way: Way) -> Row:
    """The bytes of one file, or what the exporter said."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    sample = samples_of(real)[name]
    try:
        data = clean(export(name, sample, way))
    except Exception as error:  # an exporter may fail in any way: say so, go on with the others
        return {"error": first_line(error)}
    if way.name in sample.committed and len(data) > LARGEST:
        return {"error": f"{len(data)} bytes: choose narrower widths"}
    return {"data": data}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=COMMITTED)
    parser.add_argument("--only", default="", help="file names that contain this")
    parser.add_argument("--committed", action="store_true", help="only what is in the repository")
    parser.add_argument("--real", action="store_true", help="networks as they are published")
    a = parser.parse_args()
    isolation.preload("torch", "onnx", "onnxruntime")
    a.out.mkdir(parents=True, exist_ok=True)
    samples = samples_of(a.real)
    for name, sample in samples.items():
        for way in sample.ways:
            if a.only not in f"{name}.{way.name}" or (a.committed and way.name not in sample.committed):
                continue
            row = isolation.run(make, (name, a.real, way), SECONDS, MEMORY)
            if "data" in row:
                (a.out / f"{name}.{way.name}.onnx").write_bytes(row["data"])
            told = row.get("error") or f"{len(row['data'])} bytes"
            print(f"| {name} | {way.name} | {told} |", flush=True)
    made = {p.name.partition(".")[0] for p in a.out.glob("*.onnx")}
    told = {n: inputs_of(s) for n, s in samples.items() if n in made}
    (a.out / "inputs.json").write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
