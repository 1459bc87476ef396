"""Train the tiny CLIP that ships with the package: ``python tools/train_tiny_clip.py --out FOLDER``.

Contrastive training from scratch on still images of shapes, from a seed; about ten minutes on two cores. FOLDER
then holds everything that ``--model FOLDER`` needs. The vocabulary is the head of CLIP's own byte-pair table:
any text can be read, rare words in more pieces, and the file stays small.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track
from safetensors.torch import save_file

from videoclip.backbone.openclip import OpenClip, default_vocabulary
from videoclip.cli.arguments import count, positive, seed
from videoclip.synthetic import stills

VOCABULARY = 4096
CONFIG = {
    "model_cfg": {
        "embed_dim": 128,
        "vision_cfg": {"image_size": 64, "patch_size": 8, "width": 128, "layers": 4, "head_width": 32},
        "text_cfg": {
            "context_length": 32,
            "vocab_size": VOCABULARY,
            "width": 128,
            "heads": 4,
            "layers": 3,
            "tokenizer_kwargs": {"bpe_path": "bpe.txt.gz"},
        },
    },
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
}


def write_architecture(folder: Path) -> None:
    """Write the model's config and vocabulary, all that is needed to build it with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    merges = default_vocabulary()[: 1 + VOCABULARY - 2 * 256 - 2]  # a header line; bytes twice; start and end token
    (folder / "bpe.txt.gz").write_bytes(gzip.compress("\n".join(merges).encode(), mtime=0))


def spread_positions(model: OpenClip) -> None:
    """Start the image tower's positions as sines and cosines of x and y; from random ones, place is learned last."""
    positions = model.clip.visual.positional_embedding
    side = math.isqrt(len(positions) - 1)
    y, x = torch.meshgrid(*[(torch.arange(side) + 0.5) / side] * 2, indexing="ij")
    frequencies = math.pi * 2 ** torch.linspace(-1, 3, positions.shape[1] // 4)
    waves = [wave(axis.reshape(-1, 1) * frequencies) for axis in (x, y) for wave in (torch.sin, torch.cos)]
    positions.data[1:] = 0.5 * torch.cat(waves, 1)


def train(model: OpenClip, steps: int, batch: int, lr: float, seed: int) -> None:
    """Symmetric contrastive training on fresh pictures at every step."""
    generator = np.random.default_rng(seed)
    model.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.1)
    for step in track(range(steps), "training"):
        optimizer.param_groups[0]["lr"] = lr * min((step + 1) / 100, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        images, texts = stills.training_batch(generator, batch)
        image = F.normalize(model.encode_image(torch.from_numpy(images).permute(0, 3, 1, 2)), dim=-1)
        text = F.normalize(model.encode_text(model.tokenize(texts)).sentence, dim=-1)
        logits = model.clip.logit_scale.exp() * image @ text.T
        same = torch.tensor([[a == b for b in texts] for a in texts])
        logits = logits.masked_fill(same & ~torch.eye(batch, dtype=torch.bool), -math.inf)
        target = torch.arange(batch)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.clip.logit_scale.data.clamp_(max=math.log(100))
        if step % 100 == 99:
            print(f"step {step + 1}: loss {loss.item():.3f}", flush=True)
    model.eval()


@torch.no_grad()
def settle_lengths(model: OpenClip, per_value: float = 0.45) -> None:
    """Scale both projections so that embeddings are as large as real CLIP's: about 10 long for 512 values.

    The contrastive loss leaves their length free; temporal modules that add to plain frames do not.
    """
    pictures, _, captions = stills.measuring_set(0, 500)
    image = model.encode_image(torch.from_numpy(pictures).permute(0, 3, 1, 2))
    text = model.encode_text(model.tokenize(captions)).sentence
    for projection, embeddings in ((model.clip.visual.proj, image), (model.clip.text_projection, text)):
        projection.data *= per_value * math.sqrt(model.width) / embeddings.norm(dim=-1).mean()


@torch.no_grad()
def accuracy(model: OpenClip, seed: int, images: int = 2000) -> float:
    """Share, in per cent, of fresh pictures whose exact caption scores best among all 480."""
    pictures, answers, captions = stills.measuring_set(seed, images)
    image = F.normalize(model.encode_image(torch.from_numpy(pictures).permute(0, 3, 1, 2)), dim=-1)
    text = F.normalize(model.encode_text(model.tokenize(captions)).sentence, dim=-1)
    return 100 * float(((image @ text.T).argmax(-1) == torch.from_numpy(answers)).float().mean())


def main() -> None:
    """Train, measure, save as half-precision safetensors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--steps", type=count, default=1400)
    parser.add_argument("--batch", type=count, default=128)
    parser.add_argument("--lr", type=positive, default=2e-3)
    parser.add_argument("--seed", type=seed, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    write_architecture(args.out)
    model = OpenClip(str(args.out), random_weights=True)
    spread_positions(model)
    train(model, args.steps, args.batch, args.lr, args.seed)
    settle_lengths(model)
    weights = {name: tensor.half().contiguous() for name, tensor in model.clip.state_dict().items()}
    save_file(weights, args.out / "open_clip_model.safetensors")
    print(f"exact caption among 480: {accuracy(OpenClip(str(args.out)), args.seed + 1):.1f} % of 2000 fresh pictures")


if __name__ == "__main__":
    main()
