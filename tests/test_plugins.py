"""A new module is one file: here in a package of somebody else's, found by its entry point and trained by name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from videoclip.cli import main
from videoclip.config import RunConfig, dump
from videoclip.registry import components
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


def write_package(site: Path, kind: str, name: str, code: str) -> None:
    """Write a package with one file and one entry point."""
    site.mkdir()
    (site / "theirs.py").write_text(code)
    about = site / "theirs-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    cls = "".join(part.title() for part in name.split("_"))
    (about / "entry_points.txt").write_text(f"[videoclip.{kind}]\n{name} = theirs:{cls}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Name a folder in which this process finds packages, as if it had just been started."""
    monkeypatch.syspath_prepend(tmp_path / "site")
    components.cache_clear()
    yield tmp_path / "site"
    sys.modules.pop("theirs", None)
    components.cache_clear()


def training_of(kind: str, shapes: Path, store: FeatureStore, folder: Path) -> list[str]:
    """Write a config of one step; return it with the overrides that name the package's component."""
    name, _, options = MODULES[kind]
    values = {
        "data": {"manifest": shapes, "store": store.folder},
        "model": {"frames": 6},
        "train": {"epochs": 1, "batch_size": 72},
    }
    (folder / "c.yaml").write_text(dump(RunConfig.model_validate(values)))
    key = "train.loss" if kind == "loss" else f"model.{kind}"
    return [
        str(folder / "c.yaml"),
        f"{key}.name={name}",
        *(f"{key}.{option}={value}" for option, value in options.items()),
    ]


@pytest.mark.parametrize("kind", MODULES)
def test_a_package_with_one_file_is_trained_by_name(
    kind: str,
    site: Path,
    shapes: Path,
    shapes_store: FeatureStore,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, code, _ = MODULES[kind]
    write_package(site, kind, name, code)
    arguments = training_of(kind, shapes, shapes_store, tmp_path)
    assert main(["train", *arguments, "--out", str(tmp_path / "run")]) == 0
    assert name in (tmp_path / "run" / "config.yaml").read_text()
    assert json.loads((tmp_path / "run" / "report.json").read_text())["parameters"] > 1000
    wrong = [argument.replace(f".name={name}", f".name={name[:-1]}") for argument in arguments]
    assert main(["train", *wrong, "--out", str(tmp_path / "other")]) == 1
    assert f"did you mean '{name}'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_package_is_found_in_a_process_of_its_own(shapes: Path, shapes_store: FeatureStore, tmp_path: Path) -> None:
    name, code, _ = MODULES["temporal"]
    write_package(tmp_path / "site", "temporal", name, code)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    arguments = training_of("temporal", shapes, shapes_store, tmp_path)
    command = [sys.executable, str(TRAIN), *arguments, "--out", str(tmp_path / "run")]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    assert name in (tmp_path / "run" / "config.yaml").read_text()


def test_a_classifier_of_somebody_elses(
    site: Path, shapes: Path, shapes_store: FeatureStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_package(site, "classifier", "nearest_mean", CLASSIFIER)
    fit = ["fit", shapes_store.folder, "--manifest", shapes, "--method", "nearest_mean:sharpness=20"]
    test = ["eval", tmp_path / "h", "--store", shapes_store.folder, "--manifest", shapes, "--split", "train"]
    assert main(["classify", *map(str, [*fit, "--out", tmp_path / "h"])]) == 0
    capsys.readouterr()
    assert main(["classify", *map(str, test)]) == 0
    assert json.loads(capsys.readouterr().out)["clips"] == 24
    shutil.rmtree(site)  # as on a machine where nobody has installed it
    components.cache_clear()
    assert main(["classify", *map(str, test)]) == 1
    assert "was fitted by a method that is not here" in capsys.readouterr().err
