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

from tools.coverage import zoo_nets as nets
from tools.coverage.zoo_narrow import narrow, short_clips

FIRST = [
    "resnet50", "densenet121", "mobilenet_v2", "shufflenet_v2_x1_0", "vit_b_16", "swin_t", "convnext_tiny",
    "regnet_y_400mf", "efficientnet_b0", "googlenet",
]  # fmt: skip


SAMPLES = 16
"""Random inputs that BatchNorms take their statistics from."""


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
    1e-7), and with it the power of every check on it. With those of few samples it grows from block to block on any
    other input (1e5 at the output of EfficientNet-B7 after 4, 1 after 16), and rounding with it.
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
        settle(model, {key: value.draw(SAMPLES) for key, value in inputs.items()})
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


SIDES = {"alexnet": 224, "vgg": 224, "swin_v2": 256, "swin_": 224, "maxvit": 224, "inception": 96, "vit_h_14": 56}
"""Image sides by the start of a name; 64 otherwise: the structure of a network that pools does not depend on it."""


def torchvision_models() -> dict[str, Model]:
    """Every classifier of torchvision, on small images."""
    models = import_torchvision().models

    def build(name: str, options: dict[str, Any]) -> nn.Module:
        return narrow(name) or models.get_model(name, weights=None, **options)

    found = {}
    for name in models.list_models(module=models):
        side = next((s for start, s in SIDES.items() if name.startswith(start)), 64)
        options: dict[str, Any] = {"image_size": side} if name.startswith("vit") else {}
        if name in ("googlenet", "inception_v3"):
            options = {"init_weights": False, "aux_logits": False}
        inputs = {"x": Input((3, side, side))}
        found[name] = Model(lambda n=name, o=options: build(n, o), inputs, "torchvision")
    return found


def torchvision_tasks() -> dict[str, Model]:
    """Segmentation, video, detection (batch fixed: it takes a list of images) and optical flow."""
    models = import_torchvision().models
    clip, frame = {"x": Input((3, 8, 64, 64))}, Input((3, 128, 128))
    found = {}

    def segment(m: nn.Module, x: Tensor) -> Tensor:
        return m(x)["out"]

    def build(name: str, how: Callable[..., Any], every: bool) -> nn.Module:
        bare: dict[str, Any] = {"weights_backbone": None} if how is segment or every else {}
        if every:  # random weights find something only without a threshold
            bare["box_score_thresh" if "rcnn" in name else "score_thresh"] = 0.0
        if "rcnn" in name:  # their heads work on a thousand places, of which a hundred go on
            bare |= {"rpn_pre_nms_top_n_test": 100, "rpn_post_nms_top_n_test": 50, "box_detections_per_img": 10}
        if every and not name.startswith("ssd"):  # the others scale the image up to 800 pixels
            bare |= {"min_size": 128, "max_size": 160}
        with short_clips((3, 8, 64, 64)):
            return Call(models.get_model(name, weights=None, **bare), how, every)

    def add(module: Any, inputs: Mapping[str, Input], how: Callable[..., Any], every: bool = False) -> None:
        for name in models.list_models(module=module):
            wide = {"x": Input((3, 16, 224, 224))} if name == "s3d" else inputs  # it ends with a pool of 7 x 7
            found[name] = Model(lambda n=name: build(n, how, every), wide, "torchvision_tasks", dynamic=not every)

    add(models.segmentation, {"x": Input((3, 64, 64))}, segment)
    add(models.video, clip, lambda m, x: m(x))
    add(models.detection, {"x": Input((3, 128, 128))}, lambda m, x: m(list(x)), every=True)
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
OPT = {"vocab_size": 200, "hidden_size": 64, "ffn_dim": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
       "max_position_embeddings": 64, "word_embed_proj_dim": 64}  # fmt: skip
SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
CLIP = {"text_config": TEXT | {"eos_token_id": 1}, "vision_config": VISION, "projection_dim": 24}
WAVES = {"vocab_size": 32, "conv_dim": [32, 32, 48], "conv_stride": [5, 4, 2], "conv_kernel": [10, 8, 4],
         "num_feat_extract_layers": 3, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}  # fmt: skip
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
    "roberta": ("RobertaForMaskedLM", "RobertaConfig", TEXT, IDS),
    "opt": ("OPTForCausalLM", "OPTConfig", OPT, IDS),
    "gpt2_untied": ("GPT2LMHeadModel", "GPT2Config", GPT | {"tie_word_embeddings": False}, IDS),
    "llama_tied": ("LlamaForCausalLM", "LlamaConfig", LLAMA | {"tie_word_embeddings": True}, IDS),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", LLAMA | {"head_dim": 16}, IDS),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", LLAMA | {"pad_token_id": 0}, IDS),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", LLAMA | {"head_dim": 16}, IDS),
    "hf_deit": ("DeiTForImageClassification", "DeiTConfig", VISION, PIXELS),
    "hf_swin": ("SwinForImageClassification", "SwinConfig", SWIN, PIXELS),
    "clip": ("CLIPModel", "CLIPConfig", CLIP, IDS | PIXELS),
    "wav2vec2": ("Wav2Vec2ForCTC", "Wav2Vec2Config", TINY | WAVES, {"x": Input((3200,))}),
    "hf_vit": ("ViTForImageClassification", "ViTConfig", VISION, PIXELS),
    "clip_vision": ("CLIPVisionModelWithProjection", "CLIPVisionConfig", VISION | {"projection_dim": 24}, PIXELS),
    "segformer": ("SegformerForSemanticSegmentation", "SegformerConfig", {}, {"x": Input((3, 64, 64))}),
}
NO_CACHE = (
    "Bert",
    "DistilBert",
    "ViT",
    "CLIP",
    "Segformer",
    "Roberta",
    "DeiT",
    "Swin",
    "Wav2Vec2",
)  # models whose forward knows no use_cache


def transformers_models() -> dict[str, Model]:
    """The rows of TRANSFORMERS, random weights, without caches."""

    def build(model: str, config: str, options: dict[str, Any], inputs: Mapping[str, Input]) -> nn.Module:
        import_torchvision()
        import transformers

        made = getattr(transformers, model)(getattr(transformers, config)(**options))
        cached = {} if config.startswith(NO_CACHE) else {"use_cache": False}
        if model == "CLIPModel":
            return Call(made, lambda m, a, b: m(a, b, return_dict=False)[0])
        if len(inputs) == 2:
            return Call(made, lambda m, a, b: m(a, decoder_input_ids=b, return_dict=False, **cached))
        if made.main_input_name == "input_ids":  # without a mask, causal models look for packed sequences (aten::diff)
            return Call(made, lambda m, a: m(a, attention_mask=torch.ones_like(a), return_dict=False, **cached))
        return Call(made, lambda m, a: m(a, return_dict=False, **cached))

    found = {name: Model(lambda r=row: build(*r), row[3], "transformers") for name, row in TRANSFORMERS.items()}
    for depth in (8, 16, 32, 64):  # what analysis costs by depth
        deep = ("LlamaForCausalLM", "LlamaConfig", LLAMA | {"num_hidden_layers": depth}, IDS)
        found[f"llama_{depth}_blocks"] = Model(lambda r=deep: build(*r), IDS, "scaling")
    return found


# small models of our own ----------------------------------------------------------------------------------------------


def own_models() -> dict[str, Model]:
    """The networks of zoo_nets."""
    steps, image = {"x": Input((7, 16))}, {"x": Input((3, 64, 64))}
    latent = {"x": Input((4, 16, 16)), "t": Input((1,)), "text": Input((7, 24))}
    rows: dict[str, tuple[Callable[[], nn.Module], Mapping[str, Input], str]] = {
        "rnn": (lambda: nets.Recurrent(nn.RNN), steps, "recurrent"),
        "gru": (lambda: nets.Recurrent(nn.GRU), steps, "recurrent"),
        "lstm": (lambda: nets.Recurrent(nn.LSTM), steps, "recurrent"),
        "lstm_states": (nets.Stateful, steps | {"h": Input((32,)), "c": Input((32,))}, "recurrent"),
        "yolo_v5": (lambda: nets.Yolo(nets.C3), image, "dense"),
        "yolo_v8": (lambda: nets.Yolo(nets.C2f), image, "dense"),
        "yolo_v11": (lambda: nets.Yolo(nets.C3k2, nets.C2psa), image, "dense"),
        "ddpm_unet": (lambda: nets.Unet(), {"x": Input((3, 16, 16)), "t": Input((1,))}, "dense"),
        "latent_unet": (lambda: nets.LatentUnet(), latent, "dense"),
        "dcgan": (nets.dcgan, {"x": Input((32, 1, 1))}, "dense"),
        "espcn": (nets.espcn, {"x": Input((1, 24, 24))}, "dense"),
        "edsr": (nets.Edsr, {"x": Input((3, 16, 16))}, "dense"),
        "autoencoder": (nets.autoencoder, {"x": Input((48,))}, "dense"),
        "conv1d": (nets.conv1d, {"x": Input((8, 64))}, "dense"),
        "conv3d": (nets.conv3d, {"x": Input((2, 8, 16, 16))}, "dense"),
        "graph_conv": (nets.GraphConv, {"x": Input((12, 16)), "adjacency": Input((12, 12))}, "dense"),
        "two_tower": (nets.TwoTower, {"a": Input((24,)), "b": Input((3, 16, 16))}, "dense"),
    }
    return {name: Model(*row) for name, row in rows.items()}


def table() -> dict[str, Model]:
    """Every model by name, the first list first."""
    found = torchvision_models() | own_models() | transformers_models() | timm_models() | torchvision_tasks()
    return {name: found[name] for name in FIRST} | found
