"""`bvit pack` and `bvit unpack`: from the folder of a run to a packed file, and from there to a plain state dict."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from bvit_analysis.config import Recipe, RunConfig, from_dict
from bvit_analysis.config.recipes import given, given_again
from bvit_analysis.convert import binarize, build_model
from bvit_analysis.costs import model_cost
from bvit_analysis.data import load_dataset, recorded_preprocessing
from bvit_analysis.errors import BvitError, PackedFileError, RunError
from bvit_analysis.files import write_bytes_atomic
from bvit_analysis.packed.checks import shown
from bvit_analysis.packed.model import load_packed, predicted_bytes
from bvit_analysis.records import load_run
from bvit_analysis.records.checkpoints import MODEL, load_checkpoint, part


def packing_summary(
    model: nn.Module, path: Path, *, meta: Mapping[str, Any], float_dtype: str
) -> str:
    """Return what a packed file takes: bytes on disk, bytes the ledger predicts, ratio to the float twin in FP32."""
    found = path.stat().st_size
    predicted = predicted_bytes(model, float_dtype, meta=meta)
    twin = int(model_cost(model).twin["parameters"].sum()) * 4
    return (
        f"{path}: {found:,} bytes ({float_dtype} beside the bits), {predicted / found:.4f} of them predicted;"
        f" {twin / found:.2f}x smaller than {twin:,} bytes of FP32 parameters"
    )


def model_of_run(
    run_dir: str | Path, recipe: Recipe | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Return the binary model of a run's last checkpoint, in eval mode, and its meta for save_packed.

    Args:
        run_dir: A run folder that `bvit train` wrote.
        recipe: The run's recipe once more, where its shift or attention is of your own: a run only names them, and
            what a run names is never imported.

    Raises:
        ConfigError: If the run needs its recipe once more, or another one is given.
        RunError: If the run has no checkpoints, or trained no binary model.
        CheckpointError: If none of its checkpoints can be trusted.
    """
    run = load_run(run_dir)
    if not run.config or not run.config.get("recipe"):
        raise RunError(f"{run_dir} has no binary model; give a run of 'bvit train --recipe asm'")
    config = from_dict(RunConfig, run.config)
    assert config.recipe is not None
    config = dataclasses.replace(config, recipe=given_again(config.recipe, recipe))
    assert config.recipe is not None
    for field in ("shift", "attention"):
        given(config.recipe, field)
    checkpoint = load_checkpoint(run_dir)
    if checkpoint is None:
        raise RunError(
            f"{run_dir} has no checkpoints (shipped runs come without); train it again with 'bvit train', or give"
            " another run"
        )
    model = _model_of_state(config, part(checkpoint.tensors, MODEL), Path(run_dir))
    meta = {
        "model": config.model.name,
        "recipe": config.recipe,
        "data": _data(config, run.info),
        "source": {
            "run_id": run.run_id,
            "step": checkpoint.step,
            "commit": run.info.get("git_commit"),
        },
    }
    return model, meta


def _model_of_state(config: RunConfig, state: dict[str, Tensor], run_dir: Path) -> nn.Module:
    try:
        with torch.device("meta"):
            model = build_model(
                dataclasses.replace(config.model, pretrained=False, checkpoint=""),
                img_size=config.data.img_size,
                in_chans=state["patch_embed.proj.weight"].shape[1],
                num_classes=state["head.weight"].shape[0],
            )
            binarize(model, config.recipe or Recipe())
        model.load_state_dict(state, assign=True)
    except (KeyError, RuntimeError) as error:
        raise RunError(
            f"the checkpoint in {run_dir} does not fit the run's configuration ({shown(error)}); train it again"
        ) from error
    return model.eval()


def _data(config: RunConfig, info: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    try:
        dataset = load_dataset(config.data, recorded_preprocessing(info, config.data))
        found = {"mean": list(dataset.mean), "std": list(dataset.std)}
        names = list(dataset.class_names)
    except BvitError:
        names = info.get("class_names") or []  # the images need not be here
    return found | ({"class_names": names} if names else {})


def unpack(path: str | Path, out: str | Path, *, recipe: Recipe | None = None) -> Path:
    """Write a packed model as a plain state dict in float32, a safetensors file, whole or not at all.

    Weights are -1 and +1, with their scale as 'fixed_scale'; it loads into a model that binarize() converted with the
    recipe in the packed file's header.

    Args:
        path: As save_packed wrote it.
        out: The file to write or replace.
        recipe: As for load_packed.

    Returns:
        out.

    Raises:
        PackedFileError: If the file cannot be read, or out cannot be written.
    """
    model = load_packed(path, recipe=recipe)
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    out = Path(out)
    try:
        write_bytes_atomic(out, safetensors.torch.save(state))
    except RunError as error:
        raise PackedFileError(str(error)) from error
    return out
