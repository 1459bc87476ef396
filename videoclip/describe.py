"""What a path is, in a few facts: ``videoclip info``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from videoclip.errors import CheckpointError, VideoclipError
from videoclip.files import read_text, reading


def describe(path: Path) -> dict[str, Any]:
    """Facts about a video file, a store, a training run, a checkpoint or a classifier, by name.

    Raises:
        VideoclipError: the path is none of these.
    """
    if path.suffix == ".safetensors":
        return _classifier(path)
    if not path.is_dir():
        return _video(path)
    if (path / "store.json").is_file():
        return _store(path)
    if (path / "model.safetensors").is_file():
        return _checkpoint(path)
    if (path / "metrics.jsonl").is_file():
        return _run(path)
    raise VideoclipError(f"{path} is not a feature store, training run or checkpoint.")


def _video(path: Path) -> dict[str, Any]:
    from videoclip.video.decode import probe

    found = probe(path)
    span = float(found.times[-1] - found.times[0])
    (high, wide), (height, width), aspect = found.size, found.shown_size, found.aspect
    return {
        "video": str(path),
        "container": found.container,
        "codec": found.codec,
        "picture": f"{width}x{height}" + ("" if (wide, high) == (width, height) else f", stored as {wide}x{high}"),
        "pixel shape": "square" if aspect == 1 else f"{aspect.numerator}:{aspect.denominator}",
        "orientation": str(found.orientation),
        "scan": "interlaced (two fields in each picture, not separated)" if found.interlaced else "progressive",
        "frames": len(found.times),
        "shown": f"{found.times[0]:.3f} to {found.times[-1]:.3f} s",
        "file claims": f"{found.duration:.3f} s" if found.duration else "nothing about its duration",
        "status": "short: it holds clearly less than it claims" if found.short else "ok, as far as its packets tell",
        "frames a second": round((len(found.times) - 1) / span, 3) if span else "one frame only",
        "decoder": found.decoder + (f" (not decord: {found.reason})" if found.reason else ""),
    }


def _classifier(path: Path) -> dict[str, Any]:
    from videoclip.classify.head import load_head

    head = load_head(path)
    return {
        "classifier": str(path),
        **head.facts(),
        "classes": list(head.classes.labels),
        "backbone": head.backbone,
        "frames": head.frames,
        "checkpoint": head.checkpoint,
        "numbers": sum(tensor.numel() for tensor in head.classifier.tensors.values()),
    }


def _store(path: Path) -> dict[str, Any]:
    from videoclip.store import FeatureStore

    store = FeatureStore(path)
    return {"feature store": str(path)} | {k: v for k, v in store.describe().items() if k != "folder"}


def _checkpoint(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    from videoclip.model import read_checkpoint_config

    config = read_checkpoint_config(path)
    weights = path / "model.safetensors"
    with reading(weights, "a file of weights", CheckpointError), safe_open(weights, "pt") as file:
        names = list(file.keys())
        numbers = sum(file.get_tensor(name).numel() for name in names)
    return {"checkpoint": str(path), **config, "tensors": len(names), "numbers": numbers}


def _run(path: Path) -> dict[str, Any]:
    from videoclip.training.run import read_report

    lines = read_text(path / "metrics.jsonl", CheckpointError).split("\n")
    facts: dict[str, Any] = {"training run": str(path), "steps": sum('"loss"' in line for line in lines)}
    report = path / "report.json"
    if report.is_file():
        return facts | read_report(report)
    return facts | {"state": "not finished; `videoclip train CONFIG --out ... --resume` continues it"}
