"""Time the cache against the script that people write, and against the limit that its stages set.

``python tools/bench_cache.py`` makes 60 H.264 clips of 10 seconds (320x240, 1280x720, 1920x1080; a key frame every 12,
48 and 250 frames), then runs in turn, each in a process of its own: the plain script (decord, open_clip's PIL
transform, one video a batch), ``cache_features`` with decord and with PyAV, and each stage alone. Twelve frames a clip.
Wall time counts from loaded weights to the last feature; CPU seconds are those of all processes meanwhile. The features
of both are compared. Everything is written below ``--folder`` and made once.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from videoclip.cli.arguments import count as a_count

SIZES = {"240p": (320, 240, "300k"), "720p": (1280, 720, "2500k"), "1080p": (1920, 1080, "5M")}
GROUPS = (12, 48, 250)
FRAMES = 12


def make_clips(folder: Path, clips: int) -> list[Path]:
    """Ten seconds at 30 frames a second, with B-frames; nine encodings, the other files are copies of them."""
    from videoclip.video.encode import write_video

    paths = []
    for number in range(clips):
        name, (width, height, rate) = list(SIZES.items())[number % 3]
        group = GROUPS[number // 3 % 3]
        path = folder / "clips" / f"{number:02d}-{name}-gop{group}.mp4"
        paths.append(path)
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if number >= 9:
            shutil.copy(paths[number % 9], path)
            continue
        options = {"g": str(group), "bf": "3", "preset": "veryfast", "b": rate, "sc_threshold": "0"}
        write_video(path, _frames(number, height, width), 30, options=options)
    return paths


def _frames(seed: int, height: int, width: int) -> Iterator[np.ndarray]:
    """A camera that pans over a landscape of smooth blobs, under film grain."""
    import torch
    import torch.nn.functional as F

    generator = np.random.default_rng(seed)
    coarse = torch.from_numpy(generator.uniform(20, 235, (1, 3, 16, 24)).astype(np.float32))
    size = (height * 5 // 4, width * 5 // 4)
    landscape = F.interpolate(coarse, size, mode="bicubic")[0].permute(1, 2, 0).numpy().astype(np.int16)
    grain = generator.integers(-6, 7, (8, height, width, 1), dtype=np.int16)
    for moment in range(300):
        top, left = moment * height // 4 // 300, moment * width // 4 // 300
        picture = landscape[top : top + height, left : left + width] + grain[moment % 8]
        yield np.clip(picture, 0, 255).astype(np.uint8)


def load(model: str, folder: Path) -> Any:
    """The tiny CLIP, or ViT-B-32 with random weights from a seed."""
    import torch

    from videoclip.backbone.openclip import OpenClip

    torch.manual_seed(0)
    return OpenClip("tiny") if model == "tiny" else OpenClip(model, random_weights=True)


def plain_script(paths: list[Path], backbone: Any, decoder: str) -> dict[str, np.ndarray]:
    """What people write: decord, PIL, one video after the other."""
    import decord
    import torch
    from open_clip.transform import image_transform
    from PIL import Image

    recipe = backbone.preprocess
    transform = image_transform(recipe.size, False, recipe.mean, recipe.std, interpolation=recipe.interpolation)
    features = {}
    for path in paths:
        reader = decord.VideoReader(str(path))
        count = len(reader)
        indices = ((np.arange(FRAMES) + 0.5) * count / FRAMES).astype(int)
        pictures = reader.get_batch(indices).asnumpy()
        with torch.inference_mode():
            batch = torch.stack([transform(Image.fromarray(picture)) for picture in pictures])
            features[path.name] = backbone.encode_image(batch).numpy()
    return features


def the_tool(paths: list[Path], backbone: Any, decoder: str) -> dict[str, np.ndarray]:
    """``cache_features``, into a store that is new each time; float32, so that only the pipelines differ."""
    from videoclip.data.manifest import Clip
    from videoclip.store import FeatureStore
    from videoclip.store.extract import cache_features
    from videoclip.video.clip import FrameChoice

    folder = paths[0].parent.parent / "store"
    shutil.rmtree(folder, ignore_errors=True)
    choice: Any = decoder
    clips = [Clip(id=path.name, path=path) for path in paths]
    done = cache_features(clips, folder, backbone, FrameChoice(frames=FRAMES), decoder=choice, dtype="float32")
    print("SUMMARY " + json.dumps({"spent": done.spent, "seconds": done.seconds, "limit": done.limit}))
    store = FeatureStore(folder)
    return {name: store[name].frames.numpy() for name in store.ids}


def stages(paths: list[Path], backbone: Any, decoder: str) -> dict[str, np.ndarray]:
    """Each stage alone on one thread, CPU seconds, over one clip of each kind."""
    import torch

    from videoclip.video.clip import FrameChoice, chosen_frames
    from videoclip.video.decode import Video

    torch.set_num_threads(1)
    spent = dict.fromkeys(("probe", "decode", "preprocess", "encode"), 0.0)
    some = paths[:9]
    for path in some:
        at = time.process_time()

        def lap(stage: str) -> None:
            nonlocal at
            spent[stage] += time.process_time() - at
            at = time.process_time()

        with Video(path, decoder) as video:  # type: ignore[arg-type]
            lap("probe")
            frames = list(chosen_frames(video, FrameChoice(frames=FRAMES)))
            lap("decode")
        pixels = torch.cat([backbone.preprocess(part.pixels) for part in frames])
        lap("preprocess")
        with torch.inference_mode():
            backbone.encode_image(pixels)
        lap("encode")
    print("SUMMARY " + json.dumps({name: seconds / len(some) for name, seconds in spent.items()}))
    return {}


WAYS: dict[str, tuple[Callable[[list[Path], Any, str], dict[str, np.ndarray]], str]] = {
    "plain script": (plain_script, "decord"),
    "cache, decord": (the_tool, "auto"),
    "cache, pyav": (the_tool, "pyav"),
    "stages, decord": (stages, "auto"),
    "stages, pyav": (stages, "pyav"),
}


def run_one(way: str, model: str, folder: Path, count: int) -> None:
    """What a child process does: load, run, report, keep the features."""
    from videoclip.video.isolation import prepare

    function, decoder = WAYS[way]
    if function is the_tool:
        prepare()
    paths, backbone = make_clips(folder, count), load(model, folder)
    began, cpu = time.perf_counter(), time.process_time()
    features = function(paths, backbone, decoder)
    print("RESULT " + json.dumps({"wall": time.perf_counter() - began, "cpu": time.process_time() - cpu}))
    if features:
        arrays: Any = features
        np.savez(folder / f"{way}-{model}.npz", **arrays)


def measure(way: str, model: str, folder: Path, count: int) -> dict[str, Any]:
    """Run a way in a process of its own and read its report."""
    command = [sys.executable, __file__, "--folder", str(folder), "--clips", str(count), "--one", way, model]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in output.splitlines() if line[:1].isupper()}
    return {**json.loads(lines["RESULT"]), "summary": json.loads(lines.get("SUMMARY", "{}"))}


def farthest(folder: Path, way: str, model: str) -> float:
    """The largest 1 - cosine between a frame's feature of the plain script and of another way."""
    plain, other = (np.load(folder / f"{name}-{model}.npz") for name in ("plain script", way))
    worst = 0.0
    for name in plain.files:
        a, b = (x[name].astype(np.float64) for x in (plain, other))
        cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
        worst = max(worst, float((1 - cosine).max()))
    return worst


def main() -> None:
    """Alternate all ways, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("bench"))
    parser.add_argument("--clips", type=a_count, default=60)
    parser.add_argument("--rounds", type=a_count, default=3)
    parser.add_argument("--models", nargs="+", default=["tiny", "ViT-B-32"])
    parser.add_argument("--one", nargs=2, metavar=("WAY", "MODEL"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        run_one(args.one[0], args.one[1], args.folder, args.clips)
        return
    make_clips(args.folder, args.clips)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"{args.clips} clips, {FRAMES} frames each, {cores} cores; seconds, median of {args.rounds} rounds in turn")
    for model in args.models:
        found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        for _ in range(args.rounds):
            for way in WAYS:
                found[way].append(measure(way, model, args.folder, args.clips))
        report(model, found, args.folder)


def _cpu(run: dict[str, Any]) -> float:
    """CPU seconds of this process, and of the workers as they told them."""
    spent = run["summary"].get("spent", {})
    return float(run["cpu"] + sum(spent.get(name, 0.0) for name in ("probe", "decode", "preprocess", "encode")))


def report(model: str, found: dict[str, list[dict[str, Any]]], folder: Path) -> None:
    """One model's rows."""
    plain = [run["wall"] for run in found["plain script"]]
    print(f"\n| {model} | wall s | CPU s | limit s | limit / wall | plain / this | 1 - cos |")
    print("| --- | --: | --: | --: | --: | --: | --: |")
    for way, runs in found.items():
        if way.startswith("stages"):
            continue
        wall, cpu = (
            float(np.median(values)) for values in ([run["wall"] for run in runs], [_cpu(run) for run in runs])
        )
        limits = [run["summary"].get("limit", float("nan")) for run in runs]
        share = float(np.median([limit / run["wall"] for limit, run in zip(limits, runs, strict=True)]))
        gain = float(np.median([p / run["wall"] for p, run in zip(plain, runs, strict=True)]))
        print(
            f"| {way} | {wall:.1f} | {cpu:.1f} | {np.median(limits):.1f} | {share:.2f} | {gain:.2f} "
            f"| {farthest(folder, way, model):.1e} |"
        )
    for way in ("stages, decord", "stages, pyav"):
        parts = {name: np.median([run["summary"][name] for run in found[way]]) for name in found[way][0]["summary"]}
        print(f"{way}: " + ", ".join(f"{name} {1000 * seconds:.0f} ms" for name, seconds in parts.items()) + " a clip")


if __name__ == "__main__":
    main()
