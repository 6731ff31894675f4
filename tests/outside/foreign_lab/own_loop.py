"""A binarizer of the lab's own in a training loop of its own, watched."""

import torch
from torch import Tensor, nn
from torch.nn import functional

import bvit_analysis as bv


class CentredLinear(nn.Linear):
    """Multiplies with sign(w - mean(w)), scaled by row; gradients pass straight through."""

    def forward(self, x: Tensor) -> Tensor:
        centred = self.weight - self.weight.mean(dim=1, keepdim=True)
        scale = centred.abs().mean(dim=1, keepdim=True)
        binary = scale * torch.where(centred >= 0, 1.0, -1.0)
        return functional.linear(x, self.weight + (binary - self.weight).detach(), self.bias)


def effective_sign(layer: CentredLinear) -> Tensor:
    """Return what the sign of the weight is taken of; at or above 0 means +1."""
    return layer.weight - layer.weight.mean(dim=1, keepdim=True)


def watched_training(folder: str, steps: int = 20) -> int:
    """Train a small network on random data; return how many flips were seen, counted by hand."""
    torch.manual_seed(0)
    model = nn.Sequential(CentredLinear(8, 16), nn.Tanh(), CentredLinear(16, 2))
    sites = bv.find_sites(model, effective_sign={CentredLinear: effective_sign})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    flips = 0
    with bv.Watch(model, folder, sites=sites, optimizer=optimizer) as watch:
        for _ in range(steps):
            x = torch.randn(32, 8)
            before = [site.effective() >= 0 for site in sites]
            loss = functional.cross_entropy(model(x), (x.sum(dim=1) > 0).long())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            watch.step(loss=loss)
            after = [site.effective() >= 0 for site in sites]
            flips += sum(int((a != b).sum()) for a, b in zip(before, after, strict=True))
    return flips
