"""A recorded case: what the authors' code was fed with, and what it gave."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from videoclip import convert
from videoclip.features import TextFeatures, VideoFeatures
from videoclip.loss import Pairs
from videoclip.model import VideoTextModel
from videoclip.registry import create


class Recording:
    """One recorded case: what it was made with, and a check of every output."""

    def __init__(self, folder: Path) -> None:
        self.case = json.loads((folder / "case.json").read_text())
        self.options = self.case.get("hyperparameters", {})
        self.inputs = load_file(folder / "inputs.safetensors")
        self.outputs = load_file(folder / "outputs.safetensors")
        weights = folder / "weights.safetensors"
        self.weights = load_file(weights) if weights.exists() else {}
        for tensor in self.inputs.values():
            tensor.requires_grad_(tensor.is_floating_point())

    def check(self, mine: dict[str, Tensor], names: Iterable[str] | None = None) -> None:
        """Compare outputs, all or those of ``names``; each must have been computed."""
        names = list(self.outputs if names is None else names)
        assert names
        for name in names:
            allowed = {k: v for k, v in self.case["tolerance"][name].items() if k != "note"}
            tolerance = {"equal_nan": True, **allowed}
            if tolerance.get("exact"):
                assert torch.equal(mine[name].long(), self.outputs[name].long()), name
            else:
                torch.testing.assert_close(
                    mine[name].detach(),
                    self.outputs[name],
                    **tolerance,
                    msg=lambda m, n=name: f"{n}: {m}",
                )

    def text(self) -> TextFeatures:
        """Sentences and words; a recording without sentences takes each text's last real token, as its code does."""
        words = self.inputs.get("token_features")
        mask = self.inputs["text_mask"].bool() if "text_mask" in self.inputs else None
        if "text_features" in self.inputs:
            return TextFeatures(self.inputs["text_features"].flatten(1), words, mask)
        assert words is not None and mask is not None
        return TextFeatures(words[torch.arange(len(words)), mask.sum(1) - 1], words, mask)

    def video(self) -> VideoFeatures:
        mask = self.inputs.get("video_mask")
        return VideoFeatures.from_frames(self.inputs["frame_features"], mask)

    def model(self, system: str, weights: dict[str, Tensor] | None = None, **options: Any) -> VideoTextModel:
        heads = options.pop("heads", self.options.get("heads"))
        return convert.load_original(system, self.weights if weights is None else weights, heads, **options)

    def gradients(self, system: str, model: VideoTextModel, loss: Tensor) -> dict[str, Tensor]:
        """Every gradient under its recorded name: of parameters, and of inputs."""
        loss.backward()
        head = convert.read_head(system, self.weights)
        parameters = dict(model.named_parameters())
        found = {f"grad.input:{name}": x.grad for name, x in self.inputs.items() if x.grad is not None}
        for original, tensor in self.weights.items():
            ours = head.ours(original)
            if ours in parameters and parameters[ours].grad is not None:
                gradient = parameters[ours].grad
                found[f"grad.{original}"] = (gradient.T if ours in head.transposed else gradient).reshape(tensor.shape)
        return found


def pairs_loss(logits: Tensor) -> Tensor:
    """CLIP's loss of the first texts and videos, as many as there are of both."""
    count = min(logits.shape)
    loss: Tensor = create("loss", "cross_entropy")(Pairs.of(logits[:count, :count]))
    return loss
