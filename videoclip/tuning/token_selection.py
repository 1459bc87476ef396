"""TS2-Net's token selection (Liu et al., ECCV 2022, arXiv:2207.07852)."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videoclip.backbone.walk import Memory, Tower
from videoclip.errors import ConfigError
from videoclip.tuning import Tuning


class TokenSelection(Tuning):
    """Each frame keeps its k highest-scoring patches beside its class token; the scores are learned.

    They leave as further tokens of the clip (B, T k, D), frame by frame, for the temporal encoder
    ``token_transformer``. The choice is made differentiable by noise on the scores (perturbed top-k, Cordonnier et al.,
    CVPR 2021, arXiv:2104.03059): a token is then a mean over the choices of all noise samples. Equal to the authors'
    code for the same noise. They also draw noise in tests, so that their scores vary from run to run.

    Args:
        tower: the image tower.
        k: patches a frame.
        samples: of noise.
        sigma: standard deviation of the noise.
        noise: when it is drawn.
    """

    towers = ("image",)

    def __init__(
        self,
        tower: Tower,
        k: int = 3,
        samples: int = 500,
        sigma: float = 0.05,
        noise: Literal["training", "always"] = "training",
    ) -> None:
        super().__init__(tower)
        if not 1 <= k <= tower.patches:
            raise ConfigError("token_selection.k", [f"must lie in 1..{tower.patches}, the patches of a frame"])
        self.k, self.samples, self.sigma, self.noise = k, samples, sigma, noise
        width = tower.joint_width
        self.enter_norm = nn.LayerNorm(width)
        self.enter_linear = nn.Linear(width, width // 2, bias=False)
        self.hidden = nn.Linear(2 * (width // 2), width // 2, bias=False)
        self.out = nn.Linear(width // 2, 1, bias=False)

    def finish(self, frames: Tensor, x: Tensor, memory: Memory) -> Tensor:
        """Leave the chosen patches in memory."""
        tokens = self.tower.project(x[:, :, : 1 + self.tower.patches])
        noise = None
        if self.training or self.noise == "always":
            noise = torch.randn(*tokens.shape[:2], self.samples, tokens.shape[2] - 1, device=x.device)
        memory["video_tokens"] = self.select(tokens, noise)
        return frames

    def scores(self, tokens: Tensor) -> Tensor:
        """Projected tokens (B, T, N, D) -> scores of the patches (B, T, N - 1) between -1 and 1."""
        local = F.gelu(self.enter_linear(self.enter_norm(tokens)))
        joined = torch.cat([local, local[:, :, :1].expand_as(local)], -1)
        scores: Tensor = torch.tanh(self.out(F.gelu(self.hidden(joined))))
        return scores[:, :, 1:, 0]

    def select(self, tokens: Tensor, noise: Tensor | None) -> Tensor:
        """Chosen patches (B, T, k, D), in order of their place, of projected tokens (B, T, N, D).

        Args:
            noise: (B, T, samples, N - 1) from N(0, 1); None chooses by the scores alone.
        """
        shares = self.shares(self.scores(tokens), noise)
        return torch.einsum("btkn,btnd->btkd", shares.to(tokens.dtype), tokens[:, :, 1:])

    def shares(self, scores: Tensor, noise: Tensor | None) -> Tensor:
        """Share of each patch in each chosen token (B, T, k, N - 1) by scores (B, T, N - 1); noise: see above."""
        if noise is None:
            return _top(scores, self.k)
        found: Tensor = _PerturbedTopK.apply(scores, noise, self.k, self.sigma)
        return found


def _top(scores: Tensor, k: int) -> Tensor:
    """Indicators (..., k, n) of the k highest of scores (..., n), in order of their place."""
    places = scores.topk(k, -1, sorted=False).indices.sort(-1).values
    return F.one_hot(places, scores.shape[-1]).to(scores.dtype)


class _PerturbedTopK(torch.autograd.Function):
    """Mean of the indicators over noise samples. As in the authors' code, a score's gradient is read off its own place
    alone, not off those that it pushes out.
    """

    @staticmethod
    def forward(context: Any, scores: Tensor, noise: Tensor, k: int, sigma: float) -> Tensor:
        places = (scores[..., None, :] + sigma * noise).topk(k, -1, sorted=False).indices.sort(-1).values
        context.sigma = sigma
        context.save_for_backward(places, noise)
        shares = scores.new_zeros(*scores.shape[:-1], k, scores.shape[-1])
        part = scores.new_tensor(1 / noise.shape[-2])
        return shares.scatter_add_(-1, places.mT, part.expand(places.mT.shape))

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        places, noise = context.saved_tensors
        pulls = gradient.gather(-1, places.mT) * noise.gather(-1, places).mT.to(gradient.dtype)
        found = gradient.new_zeros(*gradient.shape[:-2], gradient.shape[-1])
        found.scatter_add_(-1, places.mT.flatten(-2), pulls.flatten(-2))
        return found / (context.sigma * noise.shape[-2]), None, None, None
