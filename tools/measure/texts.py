"""Language models trained for minutes on the docstrings of this machine: perplexity after pruning, by token ids.

    python -m tools.measure.texts --folder DIR [--models gpt2,llama,mixtral] [--seconds 360] [--ratios 0.3,0.5]

Needs torch, transformers, tokenizers, onnxscript. Texts, tokenizer and models are kept in the folder and made once;
perplexity is that of 600 texts of files that the training has not seen. Nothing is fine-tuned.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import site
import sysconfig
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
import transformers
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn

from tools.measure.accuracy import BLOCK_OBS, CUT, METHODS, compile_model

Ids = NDArray[np.int64]
VOCABULARY, LENGTH, BATCH, MEASURED, REAL = 512, 64, 8, 600, 320
TEXT = 10_000_000
SHAPE = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "max_position_embeddings": LENGTH}
GPT = {"n_positions": LENGTH, "n_embd": 128, "n_layer": 4, "n_head": 4, "resid_pdrop": 0, "embd_pdrop": 0}
EXPERTS = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 3, "num_local_experts": 4}
NETS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", {**GPT, "attn_pdrop": 0}),
    "llama": ("LlamaForCausalLM", "LlamaConfig", {**SHAPE, "num_key_value_heads": 2, "intermediate_size": 352}),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", {**SHAPE, "num_key_value_heads": 4, **EXPERTS}),
}
IDS = {
    "likely (default)": "calibrate," + BLOCK_OBS,
    "by Zipf's law": "calibrate{source=tokens}," + BLOCK_OBS,
    "real texts": "calibrate{source=REAL}," + BLOCK_OBS,
    "magnitude": "score{criterion=l2}," + CUT,
    "FLAP": METHODS["FLAP"],
    "merge": METHODS["merge"],
}


def docstrings() -> list[str]:
    """Of the standard library and of all packages, in ASCII, of 200 to 8000 characters, TEXT characters in all."""
    files = {f for root in (sysconfig.get_paths()["stdlib"], *site.getsitepackages()) for f in Path(root).rglob("*.py")}
    found: dict[str, str] = {}
    for file in random.Random(0).sample(sorted(files), len(files)):
        try:
            tree = ast.parse(file.read_text())
        except (SyntaxError, ValueError, RecursionError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                text = ast.get_docstring(node) or ""
                if 200 < len(text) < 8000 and text.isascii():
                    found[text[:150]] = text
        if sum(map(len, found.values())) > TEXT:
            break
    return list(found.values())


def corpus(folder: Path) -> tuple[Ids, Ids]:
    """Ids to train on and others to measure on, in one row each."""
    file = folder / "ids.npz"
    if not file.exists():
        texts = docstrings()
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["<end>"]))
        rows = [[*tokenizer.encode(t).ids, 0] for t in texts]
        cut = int(0.92 * len(rows))
        np.savez(file, train=np.concatenate(rows[:cut]), test=np.concatenate(rows[cut:]))
    held = np.load(file)
    return held["train"], held["test"]


def windows(ids: Ids, n: int, seed: int) -> Ids:
    """Random texts (n, LENGTH)."""
    at = np.random.default_rng(seed).integers(0, len(ids) - LENGTH, n)
    return np.stack([ids[k : k + LENGTH] for k in at])


def train_network(name: str, ids: Ids, seconds: float) -> nn.Module:
    """The network after so many seconds of processor time."""
    model, config, options = NETS[name]
    torch.manual_seed(0)
    net: nn.Module = getattr(transformers, model)(getattr(transformers, config)(vocab_size=VOCABULARY, **options))
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.05, betas=(0.9, 0.98))
    start, step = time.process_time(), 0
    while (done := (time.process_time() - start) / seconds) < 1:
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 50) * (1 - done) ** 0.7
        x = torch.from_numpy(windows(ids, 24, step + 1))
        told = net(input_ids=x).logits[:, :-1]
        loss = nn.functional.cross_entropy(told.flatten(0, 1), x[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        step += 1
    return net.eval()


class Call(nn.Module):
    """Logits only."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, input_ids: Tensor) -> Tensor:
        logits: Tensor = self.net(input_ids=input_ids, use_cache=False).logits
        return logits


def export_network(name: str, folder: Path, ids: Ids, seconds: float) -> Path:
    """The file of a network, by torch.export, with a fixed batch; experts as products of looked-up weights."""
    file = folder / f"{name}.onnx"
    if not file.exists():
        net = train_network(name, ids, seconds)
        for part in net.modules():
            if hasattr(part, "config"):
                part.config._experts_implementation = "batched_mm"
        x = torch.zeros(BATCH, LENGTH, dtype=torch.int64)
        names = {"input_names": ["input_ids"], "output_names": ["logits"]}
        torch.onnx.export(Call(net), (x,), file, dynamo=True, opset_version=18, external_data=False, **names)
    return file


def perplexity(file: Path, ids: Ids) -> float:
    """The exponential of the mean negative log-likelihood of every id after the first."""
    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    total = 0.0
    for k in range(0, len(ids), BATCH):
        x = ids[k : k + BATCH]
        told = session.run(None, {"input_ids": x})[0][:, :-1].astype(np.float64)
        told -= np.log(np.exp(told - told.max(-1, keepdims=True)).sum(-1, keepdims=True)) + told.max(-1, keepdims=True)
        total -= float(np.take_along_axis(told, x[:, 1:, None], 2).sum())
    return float(np.exp(total / (len(ids) * (LENGTH - 1))))


def main() -> None:
    """Parse the command line; rows are printed as they come."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--models", default=",".join(NETS))
    parser.add_argument("--seconds", type=float, default=360)
    parser.add_argument("--ratios", default="0.3,0.5")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    train, test = corpus(given.folder)
    measured = windows(test, MEASURED, 5)
    real, target = given.folder / "real.npz", given.folder / "out.onnx"
    np.savez(real, input_ids=windows(train, REAL, 7))
    print("| model | dense | MACs removed | " + " | ".join(IDS) + " |\n" + "|---" * (len(IDS) + 3) + "|", flush=True)
    for name in given.models.split(","):
        file = export_network(name, given.folder, train, given.seconds)
        for ratio in given.ratios.split(","):
            cells = [name, f"{perplexity(file, measured):.1f}", ratio]
            for text in IDS.values():
                steps = "normalize,erase," + text.replace("RATIO", ratio).replace("REAL", json.dumps(str(real)))
                found = compile_model(file, steps, target)
                cells.append(found["error"][:60] if "error" in found else f"{perplexity(target, measured):.1f}")
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
