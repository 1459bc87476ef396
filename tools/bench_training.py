"""Time training from a store against the same arithmetic on tensors that lie in memory already.

``python tools/bench_training.py`` writes 10,000 clips of 12 frames of 512 half-precision numbers, each with a
caption, under a CLIP of that width with random weights, and trains CLIP4Clip's temporal transformer (4 layers) on them
in batches of 128. Steps of the training loop and plain steps (forward, backward, optimiser) on a batch in memory take
turns.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
from accelerate import Accelerator
from rich.progress import track
from safetensors.torch import save_file

from videoclip.backbone import Backbone, create_backbone
from videoclip.cli.arguments import count
from videoclip.config import RunConfig
from videoclip.data.manifest import Clip, write_manifest
from videoclip.store.dataset import ahead
from videoclip.store.recipe import Recipe, create_description
from videoclip.store.shards import ShardWriter
from videoclip.training.loop import Trainer
from videoclip.training.optimizer import make_optimizer
from videoclip.training.run import Run
from videoclip.training.task import ContrastiveTask

FRAMES, WIDTH, BATCH = 12, 512, 128


def write_backbone(folder: Path) -> None:
    """A model folder: ViT-B-32's text tower with as many layers as are trained, an image tower that nobody runs."""
    vision = {"image_size": 64, "layers": 1, "width": 64, "head_width": 64, "patch_size": 32}
    text = {"context_length": 77, "vocab_size": 49408, "width": WIDTH, "heads": 8, "layers": 4}
    config = {"embed_dim": WIDTH, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    torch.manual_seed(0)
    weights = open_clip.CLIP(**config).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "open_clip_model.safetensors")


def write_store(folder: Path, clips: int, backbone: Backbone) -> None:
    """Random features of clips and captions, and their manifest: all train but the last 256."""
    recipe = Recipe(backbone.fingerprint, {}, FRAMES, None, "exact", "auto", "fp32", "float16", {"frames": [WIDTH]})
    create_description(folder / "store", recipe, backbone.spec)
    rng, seconds = np.random.default_rng(0), [float(second) for second in range(FRAMES)]
    names = [f"clip{number:06d}" for number in range(clips)]
    with ShardWriter(folder / "store", "clips", recipe.tensors, "float16") as writer:
        for name in track(names, "clips"):
            rows = rng.standard_normal((FRAMES, WIDTH), np.float32).astype(np.float16)
            writer.add(name, {"frames": rows}, seconds=seconds, status="ok", decoder="none")
    with ShardWriter(folder / "store", "texts", recipe.text_tensors, "float16") as writer:
        for name in names:
            writer.add(
                f"caption of {name}", {"sentence": rng.standard_normal((1, WIDTH), np.float32).astype(np.float16)}
            )
    splits = ["train"] * (clips - 256) + ["val"] * 128 + ["test"] * 128
    listed = [Clip(id=n, path=n, captions=(f"caption of {n}",), split=s) for n, s in zip(names, splits, strict=True)]
    write_manifest(listed, folder / "manifest.jsonl")


def main() -> None:
    """Write once, take turns, print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("bench_training"))
    parser.add_argument("--clips", type=count, default=10_000)
    parser.add_argument("--steps", type=count, default=30)
    args = parser.parse_args()
    if not (args.folder / "manifest.jsonl").exists():
        write_backbone(args.folder / "clip")
        write_store(args.folder, args.clips, create_backbone(str(args.folder / "clip")))
    config = RunConfig.model_validate(
        {
            "data": {"manifest": args.folder / "manifest.jsonl", "store": args.folder / "store"},
            "model": {
                "backbone": {"name": str(args.folder / "clip")},
                "temporal": {"name": "transformer", "layers": 4},
                "frames": FRAMES,
            },
            "train": {"epochs": 1000, "batch_size": BATCH, "precision": "fp32"},
        }
    )
    trainer = Trainer(config, Run(args.folder / f"run{time.time():.0f}", config, False), Accelerator(cpu=True))
    plain = ContrastiveTask(trainer.model, config.train)
    optimizer, steps = make_optimizer(plain, config.train, trainer.model.pretrained), trainer.batches.steps
    batch, stream = trainer.batches[0], ahead(trainer.batches, range(args.steps + 2), 0)
    looped, bare = [], []
    for number in range(args.steps + 2):
        began = time.perf_counter()
        trainer.step(stream, number % steps)
        between = time.perf_counter()
        plain(batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        looped.append(between - began)
        bare.append(time.perf_counter() - between)
        if number == 1:  # the first two make memory ready
            looped, bare, trainer.waited = [], [], 0.0
    loop, memory = float(np.median(looped)), float(np.median(bare))
    print("| CLIP4Clip transformer, batch 128 | seconds a step, median | waiting for data |")
    print("| --- | --: | --: |")
    print(f"| training loop, from the store | {loop:.3f} | {trainer.waited / sum(looped):.2%} |")
    print(f"| forward, backward, optimiser, tensors in memory | {memory:.3f} | |")
    parameters = sum(p.numel() for p in trainer.model.temporal.parameters() if p.ndim > 1)
    print(f"ratio {loop / memory:.3f}; about {6 * parameters * BATCH * FRAMES / loop / 1e9:.0f} GFLOP a second")


if __name__ == "__main__":
    main()
