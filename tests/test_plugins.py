"""A new module is one file: here in a package of somebody else's, found by its entry point and trained by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from videoclip.config import RunConfig, dump
from videoclip.store import FeatureStore

TRAIN = Path(__file__).parents[1] / "tools" / "train.py"
MODULES = {
    "temporal": (
        "running_mean",
        "from torch import nn\n"
        "from videoclip.temporal import TemporalEncoder\n\n\n"
        "class RunningMean(TemporalEncoder):\n"
        "    def __init__(self, width: int, gain: float = 1.0) -> None:\n"
        "        super().__init__()\n"
        "        self.gain, self.linear = gain, nn.Linear(width, width)\n\n"
        "    def encode(self, frames, mask):\n"
        "        return frames + self.gain * self.linear(frames.cumsum(1))\n",
        {"gain": 0.5},
    ),
    "similarity": (
        "first_frame",
        "from torch import nn\n"
        "from videoclip.layers import unit\n"
        "from videoclip.similarity import Similarity\n\n\n"
        "class FirstFrame(Similarity):\n"
        "    def __init__(self, width: int) -> None:\n"
        "        super().__init__()\n"
        "        self.linear = nn.Linear(width, width)\n\n"
        "    def score(self, text, video):\n"
        "        return unit(text.sentence) @ unit(self.linear(video.frames[:, 0])).T\n\n"
        "    def auxiliary_loss(self, text, video):\n"
        "        return self.linear.weight.square().mean()\n",
        {},
    ),
    "loss": (
        "only_rows",
        "from torch import nn\n"
        "import torch\n"
        "from videoclip.loss import Loss\n\n\n"
        "class OnlyRows(Loss):\n"
        "    def __init__(self, factor: float = 1.0) -> None:\n"
        "        super().__init__()\n"
        "        self.factor, self.shift = factor, nn.Parameter(torch.zeros(2000))\n\n"
        "    def one_way(self, logits, positive, ignored, scale):\n"
        "        return self.factor * (self.shift.mean() - logits.log_softmax(1).diagonal())\n",
        {"factor": 2.0},
    ),
}


CLASSIFIER = """
from videoclip.classifier import Classifier, class_means
from videoclip.layers import unit


class NearestMean(Classifier):
    def __init__(self, sharpness: float = 10.0) -> None:
        super().__init__()
        self.sharpness = sharpness

    def fit(self, lesson):
        self.keep(means=unit(class_means(unit(lesson.shots.pooled), lesson.shots.known, len(lesson.texts))))

    def logits(self, clips):
        return self.sharpness * unit(clips.pooled) @ self.tensors["means"].T
"""


def install(site: Path, kind: str, name: str, code: str) -> dict[str, str]:
    """A package with one file and one entry point; the environment in which it is found."""
    site.mkdir()
    (site / "theirs.py").write_text(code)
    about = site / "theirs-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    cls = "".join(part.title() for part in name.split("_"))
    (about / "entry_points.txt").write_text(f"[videoclip.{kind}]\n{name} = theirs:{cls}\n")
    return {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}


@pytest.mark.parametrize("kind", MODULES)
def test_a_package_with_one_file_is_trained_by_name(
    kind: str, shapes: Path, shapes_store: FeatureStore, tmp_path: Path
) -> None:
    name, code, options = MODULES[kind]
    environment = install(tmp_path / "site", kind, name, code)
    values = {
        "data": {"manifest": shapes, "store": shapes_store.folder},
        "model": {"frames": 6},
        "train": {"epochs": 1, "batch_size": 24},
    }
    key = "train.loss" if kind == "loss" else f"model.{kind}"
    (tmp_path / "c.yaml").write_text(dump(RunConfig.model_validate(values)))
    overrides = [f"{key}.name={name}", *(f"{key}.{option}={value}" for option, value in options.items())]
    command = [sys.executable, str(TRAIN), str(tmp_path / "c.yaml"), *overrides, "--out", str(tmp_path / "run")]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    assert name in (tmp_path / "run" / "config.yaml").read_text()
    assert json.loads((tmp_path / "run" / "report.json").read_text())["parameters"] > 1000
    wrong = [*command[:3], f"{key}.name={name[:-1]}", "--out", str(tmp_path / "other")]
    told = subprocess.run(wrong, check=False, env=environment, capture_output=True, text=True)
    assert told.returncode == 1 and f"did you mean '{name}'" in told.stderr


def test_a_classifier_of_somebody_elses(shapes: Path, shapes_store: FeatureStore, tmp_path: Path) -> None:
    environment = install(tmp_path / "site", "classifier", "nearest_mean", CLASSIFIER)
    command = [sys.executable, "-m", "videoclip.cli", "classify"]
    fit = ["fit", shapes_store.folder, "--manifest", shapes, "--method", "nearest_mean:sharpness=20"]
    test = ["eval", tmp_path / "h", "--store", shapes_store.folder, "--manifest", shapes, "--split", "train"]
    subprocess.run([*command, *map(str, [*fit, "--out", tmp_path / "h"])], check=True, env=environment)
    told = subprocess.run([*command, *map(str, test)], check=True, env=environment, capture_output=True, text=True)
    assert json.loads(told.stdout)["clips"] == 24
    gone = subprocess.run([*command, *map(str, test)], check=False, capture_output=True, text=True)
    assert gone.returncode == 1 and "was fitted by a method that is not here" in gone.stderr
