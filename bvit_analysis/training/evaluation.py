"""Accuracy and loss on a split."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from bvit_analysis.data import Dataset, evaluation_batches


@torch.no_grad()
def evaluate(
    model: nn.Module, dataset: Dataset, split: str, device: str = "cpu"
) -> tuple[float, float, int, int]:
    """Evaluate on a split, unpadded and in order; the model's mode is put back.

    Returns:
        Accuracy in 0..1, mean cross-entropy in nats, number correct, number of images.
    """
    training = model.training
    model.eval()
    correct = count = 0
    loss = 0.0
    for images, labels in evaluation_batches(dataset, split, batch_size=500):
        logits = model(images.to(device))
        labels = labels.to(device)
        loss += float(functional.cross_entropy(logits, labels, reduction="sum"))
        correct += int((logits.argmax(dim=-1) == labels).sum())
        count += len(labels)
    model.train(training)
    return correct / max(1, count), loss / max(1, count), correct, count
