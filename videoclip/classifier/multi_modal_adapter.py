"""Multi-Modal Adapter: attention among a clip and the class texts."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from videoclip.classifier import Classifier, ClassTexts, Clips, Lesson, right
from videoclip.classifier.parts.learning import Schedule, learn
from videoclip.layers import unit

WIDTH, HEADS = 128, 4


class MultiModalAdapter(Classifier):
    """Attention over the K class texts and the clip moves both; then cosines, of each clip with its own texts.

    Source: Seputis et al., 2024, arXiv:2408.12964, as in dqmis/clip-mma: the mask adds 1 to attention between text and
    clip and hides nothing. With ``blocked`` it is helen1126/Collation-of-clip-mma's: a text sees the clip alone, the
    clip the texts alone. The authors train up to 100 epochs and stop early on validation clips; here fewer run, all of
    them, and the best one on validation clips is kept.

    Args:
        blocked: see above.
        ratio: of what attention adds on both sides.
        lr, epochs, batch: of Adam with decay 1e-4, at a constant rate.
    """

    def __init__(
        self, blocked: bool = False, ratio: float = 0.2, lr: float = 0.01, epochs: int = 20, batch: int = 64
    ) -> None:
        super().__init__()
        self.blocked, self.ratio = blocked, ratio
        self.schedule = Schedule(lr, epochs, batch, "adam", 1e-4, rate="constant")

    def fit(self, lesson: Lesson) -> None:
        """Train the block and the scale."""
        shots, validation = lesson.shots, lesson.validation
        self.keep(weights=lesson.texts.weights)
        with torch.random.fork_rng():
            torch.manual_seed(lesson.seed)
            block = _Block(shots.pooled.shape[1], self.blocked, self.ratio, math.log(lesson.scale))

        def backward(index: Tensor) -> None:
            block.log_scale.data.clamp_(0, math.log(100))
            F.cross_entropy(block(unit(shots.drawn(index)), self.tensors["weights"]), shots.known[index]).backward()

        def score() -> float:
            assert validation is not None
            with torch.no_grad():
                return right(block(unit(validation.pooled), self.tensors["weights"]), validation.known)

        parameters = list(block.parameters())
        learn(parameters, backward, len(shots), self.schedule, lesson.seed, score=score if validation else None)
        block.log_scale.data.clamp_(0, math.log(100))
        self.keep(**{f"block.{name}": tensor for name, tensor in block.state_dict().items()})

    def logits(self, clips: Clips) -> Tensor:
        """(N, K)."""
        weights = {n.removeprefix("block."): t for n, t in self.tensors.items() if n.startswith("block.")}
        with torch.random.fork_rng():  # its random weights are replaced
            block = _Block(clips.pooled.shape[1], self.blocked, self.ratio, 0.0)
        parts = unit(clips.pooled).split(self.schedule.batch)
        return torch.cat([functional_call(block, weights, (part, self.tensors["weights"])) for part in parts])

    def transferred(self, texts: ClassTexts) -> Classifier:
        """The same block among other texts."""
        other = MultiModalAdapter(self.blocked, self.ratio)
        other.keep(**{**self.tensors, "weights": texts.weights})
        return other


class _Block(nn.Module):
    def __init__(self, width: int, blocked: bool, ratio: float, log_scale: float) -> None:
        super().__init__()
        self.blocked, self.ratio = blocked, ratio
        if blocked:
            self.down, self.up = nn.Sequential(nn.Linear(width, WIDTH)), nn.Sequential(nn.Linear(WIDTH, width))
        else:
            self.down = nn.Sequential(nn.Linear(width, 32), nn.Linear(32, WIDTH))
            self.up = nn.Sequential(nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, width))
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.log_scale = nn.Parameter(torch.tensor(log_scale))

    def forward(self, clips: Tensor, texts: Tensor) -> Tensor:
        """Clips (B, D) and texts (K, D), both of unit length -> logits (B, K)."""
        tokens = torch.cat([texts.expand(len(clips), -1, -1), clips[:, None]], 1)
        small = self.down(tokens)
        mixed = self.up(self.attention(small, small, small, attn_mask=self._mask(len(texts)), need_weights=False)[0])
        moved = unit(self.ratio * unit(mixed) + (1 - self.ratio) * tokens)
        return self.log_scale.exp() * torch.einsum("bd,bkd->bk", moved[:, -1], moved[:, :-1])

    def _mask(self, classes: int) -> Tensor:
        is_text = torch.arange(classes + 1) < classes
        across = is_text[:, None] != is_text
        return torch.zeros(across.shape).masked_fill(~across, -torch.inf) if self.blocked else across.float()
