"""Published networks with few blocks and random weights, whose computation follows the size of their input.

    python -m tools.exports.sizes --out FOLDER --real       # then: python -m tools.measure.every_size FOLDER

Widths, kernels and strides are those of the published configuration; what is repeated is there once or twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from tools.coverage.zoo_models import Call, import_torchvision
from tools.exports.sizes import IDS, PICTURE, STEP, Free, Sample, make_pretrained, step_with_past

PLAIN = {"num_hidden_layers": 2, "attn_implementation": "eager"}
WAVE = {"x": Free(("N", "S"))}
PAST = STEP | {"past_k": Free(("N", 4, "P", 64)), "past_v": Free(("N", 4, "P", 64))}


def speech(name: str, **more: Any) -> Callable[[], nn.Module]:
    """A speech encoder of the transformers package."""
    options = PLAIN | {"apply_spec_augment": False} | more
    return lambda: make_pretrained(f"{name}Model", f"{name}Config", options, lambda m, x: m(x, return_dict=False))


def transformer(name: str, config: str, call: Callable[..., Any], **options: Any) -> Callable[[], nn.Module]:
    """Another network of the transformers package."""
    return lambda: make_pretrained(name, config, options, call)


def segmentation(name: str) -> Callable[[], nn.Module]:
    """A network of torchvision that gives a class per pixel."""

    def build() -> nn.Module:
        make = getattr(import_torchvision().models.segmentation, name)
        made = make(weights=None, weights_backbone=None, num_classes=8)
        return Call(made, lambda m, x: m(x)["out"])

    return build


def timm(name: str, **options: Any) -> Callable[[], nn.Module]:
    """A network of timm."""

    def build() -> nn.Module:
        import timm as package

        return package.create_model(name, num_classes=10, **options)

    return build


def step(name: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    """A step of a decoder of one block with the keys and values of its past."""
    return lambda: make_pretrained(name, config, options | {"attn_implementation": "eager"}, step_with_past, every=True)


def plain(m: nn.Module, *args: Tensor) -> Any:
    """Call a network of the transformers package."""
    return m(*args, return_dict=False)


def both_ways(m: Any, x: Tensor) -> Tensor:
    """A codec without its codes."""
    return m.decoder(m.encoder(x[:, None]))


SWIN = {"embed_dim": 96, "depths": [2, 2], "num_heads": [3, 6], "image_size": 224}
SMALL = {"vocab_size": 20, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024}
GPT2 = {"vocab_size": 20, "n_embd": 256, "n_layer": 1, "n_head": 4}
LLAMA = SMALL | {"num_key_value_heads": 4, "num_hidden_layers": 1}
T5 = {"vocab_size": 20, "num_layers": 2}
ROTARY = {"position_embeddings_type": "rotary", "num_attention_heads": 8}
BERT = SMALL | PLAIN

SAMPLES = {
    "wav2vec2_base": Sample(speech("Wav2Vec2"), WAVE),
    "hubert_base": Sample(speech("Hubert"), WAVE),
    "sew_tiny": Sample(speech("SEW"), WAVE),
    "data2vec_base": Sample(speech("Data2VecAudio"), WAVE),
    "conformer_rotary": Sample(speech("Wav2Vec2Conformer", **ROTARY), WAVE),
    "encodec_24khz": Sample(transformer("EncodecModel", "EncodecConfig", both_ways), WAVE),
    "dac_16khz": Sample(transformer("DacModel", "DacConfig", both_ways, encoder_hidden_size=32), WAVE),
    "swin_tiny": Sample(transformer("SwinModel", "SwinConfig", plain, **SWIN), PICTURE),
    "segformer_b0": Sample(transformer("SegformerForSemanticSegmentation", "SegformerConfig", plain), PICTURE),
    "lraspp": Sample(segmentation("lraspp_mobilenet_v3_large"), PICTURE),
    "deeplab": Sample(segmentation("deeplabv3_mobilenet_v3_large"), PICTURE),
    "tf_efficientnet_lite0": Sample(timm("tf_efficientnet_lite0"), PICTURE),
    "tf_mobilenetv3_small": Sample(timm("tf_mobilenetv3_small_minimal_100"), PICTURE),
    "vit_tiny": Sample(timm("vit_tiny_patch16_224", dynamic_img_size=True, dynamic_img_pad=True, depth=2), PICTURE),
    "gpt2_past": Sample(step("GPT2LMHeadModel", "GPT2Config", **GPT2), PAST),
    "llama_past": Sample(step("LlamaForCausalLM", "LlamaConfig", **LLAMA), PAST),
    "t5_small": Sample(transformer("T5EncoderModel", "T5Config", plain, **T5), IDS),
    "bert_mini": Sample(transformer("BertModel", "BertConfig", plain, **BERT), IDS),
}
