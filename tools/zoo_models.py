"""The table of test models: name -> how to build it and what it takes. Random weights prove structure, not accuracy.

`table()` gives every name; `prepare(name)` gives the model in eval mode, with constants made random, and its inputs.
Adding a model is one line in one of the family functions at the end. Building is lazy: a table costs no model.

    model, inputs = prepare("resnet50")          # inputs = {"x": tensor of shape (1, 3, 224, 224)}
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree
from zoo_nets import Recurrent, Unet, Yolo, dcgan, espcn

FIRST = [
    "resnet50", "densenet121", "mobilenet_v2", "shufflenet_v2_x1_0", "vit_b_16", "swin_t", "convnext_tiny",
    "regnet_y_400mf", "efficientnet_b0", "googlenet",
]  # fmt: skip


@dataclass(frozen=True)
class Input:
    """One example input: its shape without the batch, and for integers the bound below which they are drawn."""

    shape: tuple[int, ...]
    below: int = 0

    def draw(self, batch: int) -> Tensor:
        size = (batch, *self.shape)
        return torch.randint(0, self.below, size) if self.below else torch.randn(size)


@dataclass(frozen=True)
class Model:
    """`build` makes the model; `inputs` names its inputs, or finds them from the model; `dynamic` frees the batch."""

    build: Callable[[], nn.Module]
    inputs: Mapping[str, Input] | Callable[[nn.Module], Mapping[str, Input]]
    family: str
    dynamic: bool = True


IMAGE = {"x": Input((3, 224, 224))}


def randomise(model: nn.Module) -> nn.Module:
    """Make constant parameters random: equal gains hide wrong pairings, and a zero head hides everything."""
    for parameter in model.parameters():
        if not parameter.is_floating_point():
            continue
        if parameter.dim() == 1:
            parameter.data += torch.randn_like(parameter) * 0.1
        elif parameter.numel() > 1 and parameter.std() == 0:
            parameter.data += torch.randn_like(parameter) * (0.3 if parameter.any() else 0.02)
    return model.eval()


def settle(model: nn.Module, inputs: Mapping[str, Tensor]) -> None:
    """Give every BatchNorm the statistics of what it sees; they differ from channel to channel as trained ones do.

    With the initial statistics the signal of a random deep network dies out (MobileNet's output depends on its input by
    1e-7), and with it the power of every check on it.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches
        norm.train()
    if norms:
        model(*inputs.values())
    for norm in norms:
        norm.eval()


def prepare(name: str, batch: int = 1) -> tuple[nn.Module, dict[str, Tensor]]:
    """The model called `name` and example inputs, the same at every call (seeded by the name)."""
    entry = table()[name]
    torch.manual_seed(zlib.crc32(name.encode()))
    with torch.no_grad():
        model = randomise(entry.build())
        inputs = entry.inputs(model) if callable(entry.inputs) else entry.inputs
        settle(model, {key: value.draw(4) for key, value in inputs.items()})
    return model, {key: value.draw(batch) for key, value in inputs.items()}


class Call(nn.Module):
    """Calls a model in another way, and returns its first output (or all of them, flat) as plain tensors."""

    def __init__(self, model: nn.Module, how: Callable[..., Any], every: bool = False) -> None:
        super().__init__()
        self.model, self.how, self.every = model, how, every

    def forward(self, *args: Tensor) -> Tensor | tuple[Tensor, ...]:
        leaves = [leaf for leaf in _pytree.tree_leaves(self.how(self.model, *args)) if isinstance(leaf, Tensor)]
        return tuple(leaves) if self.every else leaves[0]


# torchvision ---------------------------------------------------------------------------------------------------------


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Greedy non-maximum suppression, for detectors where torchvision's compiled operators are missing."""
    from torchvision.ops import box_iou

    overlap, keep = box_iou(boxes, boxes), []
    for i in scores.argsort(descending=True).tolist():
        if all(overlap[i, j] <= threshold for j in keep):
            keep.append(i)
    return torch.tensor(keep, dtype=torch.int64)


def import_torchvision() -> Any:
    """torchvision, also where its wheel was built against another torch and cannot load its compiled operators.

    Declaring their signatures is enough for the model definitions, which are pure Python.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.impl("nms", nms, "CPU")
        import torchvision

        torchvision.declared = library  # its operators live as long as the object
    return torchvision


def torchvision_models() -> dict[str, Model]:
    """Every classifier of torchvision."""
    models = import_torchvision().models
    found = {}
    for name in models.list_models(module=models):
        options = {"init_weights": False, "aux_logits": False} if name in ("googlenet", "inception_v3") else {}
        inputs = {"x": Input((3, 299, 299))} if name == "inception_v3" else IMAGE
        found[name] = Model(lambda n=name, o=options: models.get_model(n, weights=None, **o), inputs, "torchvision")
    return found


def torchvision_tasks() -> dict[str, Model]:
    """Segmentation, video, detection (batch fixed: it takes a list of images) and optical flow."""
    models = import_torchvision().models
    clip, frame = {"x": Input((3, 16, 112, 112))}, Input((3, 128, 128))
    found = {}

    def segment(m: nn.Module, x: Tensor) -> Tensor:
        return m(x)["out"]

    def build(name: str, how: Callable[..., Any], every: bool) -> nn.Module:
        bare = {"weights_backbone": None} if how is segment or every else {}
        return Call(models.get_model(name, weights=None, **bare), how, every)

    def add(module: Any, inputs: Mapping[str, Input], how: Callable[..., Any], every: bool = False) -> None:
        for name in models.list_models(module=module):
            wide = {"x": Input((3, 16, 224, 224))} if name.startswith(("mvit", "swin3d", "s3d")) else inputs
            found[name] = Model(lambda n=name: build(n, how, every), wide, "torchvision_tasks", dynamic=not every)

    add(models.segmentation, IMAGE, segment)
    add(models.video, clip, lambda m, x: m(x))
    add(models.detection, {"x": Input((3, 320, 320))}, lambda m, x: m([x[0]]), every=True)
    add(models.optical_flow, {"a": frame, "b": frame}, lambda m, a, b: m(a, b, num_flow_updates=2)[-1])
    return found


# timm and transformers -----------------------------------------------------------------------------------------------

TIMM = """vit_tiny_patch16_224 deit_tiny_patch16_224 deit3_small_patch16_224 cait_xxs24_224 coat_lite_tiny
    coatnet_nano_rw_224 convit_tiny crossvit_tiny_240 cs3darknet_focus_s cspresnet50 davit_tiny dla60_res2net dpn48b
    eca_nfnet_l0 edgenext_xx_small efficientformer_l1 efficientformerv2_s0 eva02_tiny_patch14_224 flexivit_small
    focalnet_tiny_srf mobileone_s0 repvgg_a0 hrnet_w18_small res2net50_26w_4s selecsls42b xcit_nano_12_p16_224
    beit_base_patch16_224 mixer_s16_224 gmlp_s16_224 poolformer_s12 levit_128s tiny_vit_5m_224 mobilevit_xxs fastvit_t8
    ghostnet_100 lcnet_050 tresnet_m resnet10t nf_resnet26 mobilenetv4_conv_small"""


def timm_models() -> dict[str, Model]:
    """One or two per family of timm, as `timm_NAME`."""

    def build(name: str) -> nn.Module:
        import_torchvision()
        import timm

        return timm.create_model(name, pretrained=False)

    def inputs(model: nn.Module) -> Mapping[str, Input]:
        return {"x": Input(tuple(model.default_cfg["input_size"]))}

    return {f"timm_{name}": Model(lambda n=name: build(n), inputs, "timm") for name in TIMM.split()}


TINY = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = TINY | {"vocab_size": 200, "max_position_embeddings": 64}
GPT = {"vocab_size": 200, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}
SEQ2SEQ = {
    "vocab_size": 200, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip
IDS = {"ids": Input((9,), below=200)}
PAIR = IDS | {"decoder_ids": Input((7,), below=200)}
PIXELS = {"x": Input((3, 32, 32))}
VISION = TINY | {"image_size": 32, "patch_size": 8}
LLAMA = TEXT | {"num_key_value_heads": 2}
T5 = {"vocab_size": 200, "d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4}
EAGER = {"attn_implementation": "eager"}  # the exporter fails on the fused attention of some
EXPERTS = {"num_local_experts": 4, "experts_implementation": "batched_mm"}
DISTIL = {"vocab_size": 200, "dim": 64, "hidden_dim": 96, "n_layers": 2, "n_heads": 4}
SPEECH = {"x": Input((16, 40)), "decoder_ids": PAIR["decoder_ids"]}
AUDIO = {"num_mel_bins": 16, "max_source_positions": 20, "max_target_positions": 20}
TRANSFORMERS: dict[str, tuple[str, str, dict[str, Any], Mapping[str, Input]]] = {
    "bert": ("BertForMaskedLM", "BertConfig", TEXT, IDS),
    "bert_trunk": ("BertModel", "BertConfig", TEXT, IDS),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT, IDS),
    "llama_gqa": ("LlamaForCausalLM", "LlamaConfig", LLAMA, IDS),
    "llama_mqa": ("LlamaForCausalLM", "LlamaConfig", TEXT | {"num_key_value_heads": 1}, IDS),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", LLAMA, IDS),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", LLAMA | {"head_dim": 16}, IDS),
    "phi": ("PhiForCausalLM", "PhiConfig", TEXT, IDS),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", LLAMA | EXPERTS, IDS),
    "mamba": ("MambaForCausalLM", "MambaConfig", {"vocab_size": 200, "hidden_size": 64, "num_hidden_layers": 2}, IDS),
    "distilbert": ("DistilBertForMaskedLM", "DistilBertConfig", DISTIL, IDS),
    "t5": ("T5ForConditionalGeneration", "T5Config", T5 | EAGER, PAIR),
    "bart": ("BartForConditionalGeneration", "BartConfig", SEQ2SEQ | {"max_position_embeddings": 64}, PAIR),
    "whisper": ("WhisperForConditionalGeneration", "WhisperConfig", SEQ2SEQ | AUDIO, SPEECH),
    "hf_vit": ("ViTForImageClassification", "ViTConfig", VISION, PIXELS),
    "clip_vision": ("CLIPVisionModelWithProjection", "CLIPVisionConfig", VISION | {"projection_dim": 24}, PIXELS),
    "segformer": ("SegformerForSemanticSegmentation", "SegformerConfig", {}, {"x": Input((3, 64, 64))}),
}
NO_CACHE = ("Bert", "DistilBert", "ViT", "CLIP", "Segformer")  # models whose forward knows no use_cache


def transformers_models() -> dict[str, Model]:
    """The rows of TRANSFORMERS, random weights, without caches."""

    def build(model: str, config: str, options: dict[str, Any], inputs: Mapping[str, Input]) -> nn.Module:
        import_torchvision()
        import transformers

        made = getattr(transformers, model)(getattr(transformers, config)(**options))
        cached = {} if config.startswith(NO_CACHE) else {"use_cache": False}
        if len(inputs) == 2:
            return Call(made, lambda m, a, b: m(a, decoder_input_ids=b, return_dict=False, **cached))
        return Call(made, lambda m, a: m(a, return_dict=False, **cached))

    return {name: Model(lambda r=row: build(*r), row[3], "transformers") for name, row in TRANSFORMERS.items()}


# small models of our own ----------------------------------------------------------------------------------------------


def own_models() -> dict[str, Model]:
    """The networks of zoo_nets."""
    steps = {"x": Input((7, 16))}
    return {
        "rnn": Model(lambda: Recurrent(nn.RNN), steps, "recurrent"),
        "gru": Model(lambda: Recurrent(nn.GRU), steps, "recurrent"),
        "lstm": Model(lambda: Recurrent(nn.LSTM), steps, "recurrent"),
        "yolo_c2f": Model(Yolo, {"x": Input((3, 64, 64))}, "dense"),
        "ddpm_unet": Model(Unet, {"x": Input((3, 16, 16)), "t": Input((1,))}, "dense"),
        "dcgan": Model(dcgan, {"x": Input((32, 1, 1))}, "dense"),
        "espcn": Model(espcn, {"x": Input((1, 24, 24))}, "dense"),
    }


def table() -> dict[str, Model]:
    """Every model by name, the first list first."""
    found = torchvision_models() | own_models() | transformers_models() | timm_models() | torchvision_tasks()
    return {name: found[name] for name in FIRST} | found
