"""One store by many processes: torchrun on gloo, a Ray cluster of two nodes, and batches across videos."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from tests.helpers.stores import content
from videoclip.backbone.openclip import OpenClip
from videoclip.data.manifest import read_manifest
from videoclip.store import FeatureStore
from videoclip.store.batches import encode_batches
from videoclip.store.extract import Extras, _recipe, cache_features
from videoclip.store.produce import Chunk, Producer
from videoclip.video.clip import FrameChoice
from videoclip.video.isolation import Ended, isolated

ROOT = Path(__file__).parents[2]
CHOICE = FrameChoice(frames=12)


@pytest.fixture
def one_process(shapes_store: FeatureStore) -> Path:
    """Name the store that one process has made with the same choice of frames."""
    assert shapes_store.recipe.frames == CHOICE.frames
    return shapes_store.folder


@pytest.mark.slow
def test_two_processes_give_the_store_of_one(shapes: Path, one_process: Path, tmp_path: Path) -> None:
    (shapes.parent / "broken.mp4").write_text("no video")
    manifest = shapes.parent / "with_broken.jsonl"
    manifest.write_text(shapes.read_text() + '{"path": "broken.mp4"}\n')
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += [str(ROOT / "tools" / "cache_features.py"), str(manifest), "--out", str(tmp_path / "s")]
    command += ["--frames", "12", "--workers", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert content(tmp_path / "s") == content(one_process)
    mine, theirs = FeatureStore(tmp_path / "s"), FeatureStore(one_process)
    assert mine.captions == theirs.captions and [f.id for f in mine.failures] == ["broken.mp4"]
    captions = sorted(mine.captions)
    assert torch.equal(mine.text(captions).sentence, theirs.text(captions).sentence)
    assert all(list((tmp_path / "s").glob(f"clips-000{rank}-*.idx")) for rank in (0, 1))
    assert sum(p.read_bytes().count(b"\n") for p in (tmp_path / "s").glob("clips-*.idx")) == len(theirs)
    assert f"{len(theirs)} clips cached now, 0 already present, 1 failed now" in first.stdout
    again = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert f"0 clips cached now, {len(theirs)} already present, 0 failed now, 1 failed before" in again.stdout


@pytest.mark.parametrize("size", [5, 1000, *(pytest.param(size, marks=pytest.mark.slow) for size in (1, 16))])
def test_batches_across_videos_give_the_same_features(
    shapes: Path, one_process: Path, tiny: OpenClip, tmp_path: Path, size: int
) -> None:
    """The way of a GPU: workers hand on pixels, one encoder fills fixed batches; here it runs on the CPU."""
    clips = read_manifest(shapes)[:10]
    recipe = _recipe(tmp_path, tiny, tiny.preprocess, CHOICE, "auto", "float16", "auto", Extras())
    pixels = _decoded(Producer(recipe, tiny.preprocess, None), clips)
    spent: dict[str, float] = {}
    shapes_seen = Counter[int]()
    parts: dict[str, list[torch.Tensor]] = {}
    ended = []
    for clip, message in encode_batches(pixels, tiny, recipe, size, spent):
        if isinstance(message, Chunk):
            parts.setdefault(clip.id, []).append(torch.from_numpy(message.rows["frames"]))
            shapes_seen[len(message.rows["frames"])] += 1
        if isinstance(message, Ended):
            ended.append(clip.id)
    assert ended == [clip.id for clip in clips] and spent["encode"] > 0 and max(shapes_seen) <= size
    expected = FeatureStore(one_process)
    for clip_id in ended:
        torch.testing.assert_close(torch.cat(parts[clip_id]), expected[clip_id].frames, atol=2e-3, rtol=2e-3)


def _decoded(producer: Producer, clips: Any) -> Iterator[tuple[Any, Any]]:
    for clip in clips:
        yield from ((clip, message) for message in producer(clip))
        yield clip, Ended(0.0)


def test_workers_that_only_decode_hand_on_pixels(shapes: Path, tiny: OpenClip, tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, tiny, tiny.preprocess, CHOICE, "auto", "float16", "auto", Extras())
    producer = Producer(recipe, tiny.preprocess, None)
    messages = [message for _, message in isolated(producer, read_manifest(shapes)[:3], 2)]
    assert sum(isinstance(message, Ended) and not message.error for message in messages) == 3
    pixels = [message.rows["pixels"] for message in messages if isinstance(message, Chunk)]
    assert sum(map(len, pixels)) == 36 and pixels[0].shape[1:] == (1, 3, 64, 64) and pixels[0].dtype == "uint8"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    pytest.importorskip("ray")
    import ray
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes.add_node(num_cpus=1)
    ray.init(address=nodes.address, log_to_driver=False)
    yield nodes
    ray.shutdown()
    nodes.shutdown()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("kill", [False, True])
def test_a_ray_cluster_gives_the_store_of_one(
    shapes: Path, one_process: Path, tiny: OpenClip, tmp_path: Path, cluster: Any, kill: bool
) -> None:
    stop, killed = threading.Event(), []

    def kill_a_worker() -> None:
        """The first decode actor that is at work, by SIGKILL."""
        while not stop.is_set() and not killed:
            for process in psutil.process_iter(["cmdline"]):
                if any("MapWorker(MapBatches(_Decode))" in part for part in process.info["cmdline"] or ()):
                    time.sleep(1.0)
                    os.kill(process.pid, signal.SIGKILL)
                    killed.append(process.pid)
                    return
            time.sleep(0.05)

    killer = threading.Thread(target=kill_a_worker)
    if kill:
        killer.start()
    (shapes.parent / "broken.mp4").write_text("no video")
    clips = [*read_manifest(shapes), *(c for c in read_manifest(shapes.parent) if c.id == "broken.mp4")]
    done = cache_features(clips, tmp_path / "s", tiny, CHOICE, engine="ray", batch=64)
    stop.set()
    assert (done.cached, done.failed) == (len(clips) - 1, 1) and bool(killed) == kill
    mine, theirs = content(tmp_path / "s"), content(one_process)
    assert mine.keys() == theirs.keys()
    assert all(mine[i][1:] == theirs[i][1:] for i in theirs)  # times and notes
    stores = FeatureStore(tmp_path / "s"), FeatureStore(one_process)
    for clip_id in theirs:
        torch.testing.assert_close(stores[0][clip_id].frames, stores[1][clip_id].frames, atol=2e-3, rtol=2e-3)
