"""Modalities made by hand, whose answers are known: a random linear encoder of sound with a predictor of choice."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from equiav.augment.audio import audio_space
from equiav.config import Augment
from equiav.diagnose.branch import Branch, ClipTensors

FRAMES, BINS, WIDTH = 96, 32, 24


def clips_for(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    audio = torch.randn(n, FRAMES, BINS, generator=generator)
    frames = torch.zeros(n, 3, 8, 8, dtype=torch.uint8)
    return ClipTensors(audio, frames, torch.full((n, 2), 8), [f"{i:024x}" for i in range(n)], [["x"]] * n)


class HandMade(Branch):
    """f(x) = Wx. The predictor is right (it does what it is told to the input), or wrong in a way that has a name."""

    def __init__(self, n=30, *, knows="all", encoder="linear", transforms=None, seed=0):
        self.name, self.clips = "audio", clips_for(n, seed)
        options = {name: {} for name in transforms} if transforms else {}
        self.space = audio_space(Augment(audio=options), FRAMES, BINS)
        generator = torch.Generator().manual_seed(seed + 1)
        self.weight = torch.randn(FRAMES * BINS, WIDTH, generator=generator) / 50
        self.knows, self.encoder, self.device = knows, encoder, torch.device("cpu")

    @property
    def predicts(self):
        return self.knows is not None

    def tokens(self, rows):
        return self.clips.audio[rows]

    def latent(self, views: Tensor):
        if self.encoder == "collapsed":
            return torch.ones(len(views), WIDTH)
        if self.encoder == "invariant":  # to gain: the level is taken away
            views = views - views.mean((1, 2), keepdim=True)
        return views.flatten(1) @ self.weight

    def predict(self, tokens, codes):
        codes = codes.expand(len(tokens), -1, -1)
        if self.knows == "nothing":
            return self.latent(tokens)[:, None].expand(-1, codes.shape[1], -1)
        repeated = tokens.repeat_interleave(codes.shape[1], 0)
        params = self.space.decode(codes.flatten(0, 1))
        return self.latent(self.space.apply(repeated, params)).unflatten(0, codes.shape[:2])

    def project(self, latent):
        return F.normalize(latent, dim=-1)

    def embed_inputs(self, inputs):
        return F.normalize(self.latent(inputs), dim=-1)
