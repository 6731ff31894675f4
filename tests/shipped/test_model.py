"""The packed model that ships with the project: small, as accurate as its run, and equal in both kinds of inference."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bvit_analysis import load_packed
from bvit_analysis.config import DataConfig
from bvit_analysis.data import evaluation_batches, load_dataset
from bvit_analysis.packed.file import read_packed
from bvit_analysis.records import load_run
from bvit_analysis.runtime.model import load_runtime
from bvit_analysis.runtime.parity import parity_certificate

DATA = Path(__file__).resolve().parents[2] / "data"
MODEL = DATA / "models" / "fashion_mnist-binaryvit-seed0.bvit"


@pytest.mark.slow
def test_it_is_the_model_of_the_recorded_run_to_the_last_image() -> None:
    result = load_run(DATA / "runs" / "binaryvit-seed0").result
    assert result is not None
    dataset = load_dataset(DataConfig())
    model = load_runtime(MODEL)
    correct = count = 0
    with torch.no_grad():
        for images, labels in evaluation_batches(dataset, "test", batch_size=500):
            correct += int((model(images).argmax(-1) == labels).sum())
            count += len(labels)
    # Training evaluated the same weights; its float products were added up in another order.
    assert count == result["test_count"] == 10_000
    assert correct == pytest.approx(result["test_correct"], abs=3)


@pytest.mark.slow
def test_a_thousand_images_agree_with_the_simulated_model() -> None:
    batches = evaluation_batches(load_dataset(DataConfig()), "test", batch_size=100, limit=1000)
    images = (images for images, _ in batches)
    certificate = parity_certificate(load_packed(MODEL), load_runtime(MODEL), images)
    assert certificate.images == 1000
    assert certificate.passed
    assert certificate.agreement == 1
    assert certificate.max_relative < 1e-4


def test_the_file_is_small_and_says_where_it_comes_from() -> None:
    file = read_packed(MODEL)
    assert MODEL.stat().st_size < 140_000
    assert "binaryvit-seed0" in str(file.header["source"])
    layer = load_packed(MODEL).get_submodule("blocks.0.mlp.fc1")
    assert set(layer.weight.unique().tolist()) == {-1.0, 1.0}
