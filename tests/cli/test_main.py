"""The command line: help a stranger understands, and one-line errors that leave nothing behind."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from bvit_analysis.cli import main
from tests.support.synthetic_run import make_run

COMMANDS = ("train", "ablate", "notebooks", "report", "costs", "export", "reproduce")


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def assert_refused(capsys, folder: Path, arguments: list[object], *words: str) -> None:
    """Exit code 2, one line that has the words, and nothing written."""
    before = files(folder)
    code, out, err = run(capsys, *arguments)
    assert code == 2, (out, err)
    assert re.fullmatch(r"error: [^\n]+\n", err), err
    for word in words:
        assert word in err
    assert files(folder) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(capsys, command):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert f"usage: bvit {command}" in text
    options = re.findall(r"^  (--?[a-z][\w-]*)", text, re.MULTILINE)
    assert len(options) >= 3


def test_top_help_lists_every_command_and_says_what_is_reconstruction(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert all(f" {command} " in text for command in COMMANDS)
    assert "2305.14730" in text
    assert "reconstructions" in text


def test_unknown_recipe(capsys, tmp_path):
    for command in (["train", "--recipe", "asn"], ["ablate", "--recipes", "baseline,asn"]):
        words = ("unknown recipe 'asn'", "did you mean 'asm'")
        assert_refused(capsys, tmp_path, [*command, "--out", tmp_path], *words)


def test_unknown_scale_field_and_value(capsys, tmp_path):
    out = ["--out", tmp_path]
    assert_refused(capsys, tmp_path, ["train", "--scale", "laptp", *out], "did you mean 'laptop'")
    field = ["train", "--scale", "smoke", *out, "--set", "training.stpes=3"]
    assert_refused(capsys, tmp_path, field, "did you mean 'steps'")
    value = ["train", "--scale", "smoke", *out, "--set", "training.steps=many"]
    assert_refused(capsys, tmp_path, value, "must be of type int")
    shift = ["train", "--scale", "smoke", *out, "--set", "recipe.shift=statik"]
    assert_refused(capsys, tmp_path, shift, "did you mean 'static'")


@pytest.mark.parametrize("command", ["ablate", "reproduce"])
@pytest.mark.parametrize("flag", ["--seeds", "--jobs"])
def test_numbers_of_runs_below_one(capsys, tmp_path, command, flag):
    for number in (-1, 0):
        arguments = [command, "--scale", "smoke", "--out", tmp_path, flag, number]
        assert_refused(capsys, tmp_path, arguments, f"{flag} must be at least 1, got {number}")


def test_a_device_that_is_not_here(capsys, tmp_path):
    arguments = ["train", "--scale", "smoke", "--out", tmp_path, "--set", "training.device=cuda:99"]
    assert_refused(capsys, tmp_path, arguments, "training.device is 'cuda:99'", "device=cpu")


def test_weights_that_are_no_safetensors_file(capsys, tmp_path):
    import torch

    torch.save({"head.weight": torch.zeros(3)}, tmp_path / "w.pth")
    for file, words in (("w.pth", "no safetensors file"), ("none.safetensors", "is missing")):
        setting = f"model.checkpoint={tmp_path / file}"
        for command in (["train"], ["ablate", "--recipes", "asm"]):
            arguments = [*command, "--scale", "smoke", "--out", tmp_path / "runs", "--set", setting]
            assert_refused(capsys, tmp_path, arguments, str(tmp_path / file), words)


def test_heads_that_do_not_divide_the_width(capsys, tmp_path):
    arguments = ["train", "--scale", "smoke", "--recipe", "float", "--out", tmp_path]
    arguments += ["--set", "model.num_heads=3"]
    assert_refused(capsys, tmp_path, arguments, "cannot build", "divisible by num_heads")


def test_run_id_that_leaves_the_folder(capsys, tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    for name in ("../x", "/etc/x", "a/b", "..", "C:\\x", "CON"):
        arguments = ["train", "--scale", "smoke", "--out", inside, "--run-id", name]
        assert_refused(capsys, tmp_path, arguments, "name")


def test_data_folder_that_does_not_exist(capsys, tmp_path):
    missing = tmp_path / "nowhere"
    for data in ([], ["--set", "data.name=torch/image_folder"]):
        arguments = ["train", "--scale", "smoke", "--out", tmp_path, "--data", missing, *data]
        assert_refused(capsys, tmp_path, arguments, str(missing))


def test_truncated_image_file(capsys, tmp_path):
    from PIL import Image

    data = tmp_path / "data"
    for split in ("train", "validation", "test"):
        for name in ("cat", "dog"):
            folder = data / split / name
            folder.mkdir(parents=True)
            for index in range(4):
                Image.new("RGB", (28, 28), (index * 40, 90, 10)).save(folder / f"{index}.png")
    broken = data / "train" / "dog" / "2.png"
    broken.write_bytes(broken.read_bytes()[:60])
    arguments = [
        "train",
        "--scale",
        "smoke",
        "--recipe",
        "float",
        "--out",
        tmp_path / "runs",
        "--quiet",
    ]
    arguments += [
        "--data",
        data,
        "--set",
        "data.name=torch/image_folder",
        "--set",
        "training.batch_size=8",
    ]
    arguments += ["--set", "data.train_limit=0"]
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert re.fullmatch(r"error: [^\n]+\n", err)
    assert str(broken) in err


def test_run_folder_of_another_schema_version(capsys, tmp_path):
    folder = make_run(tmp_path / "runs" / "baseline-seed0")
    info = json.loads((folder / "run.json").read_text())
    info["schema_version"] = 99
    (folder / "run.json").write_text(json.dumps(info))
    arguments = ["notebooks", folder, "--out", tmp_path / "executed"]
    assert_refused(capsys, tmp_path, arguments, "99")


def test_unknown_and_ill_typed_notebook_parameter(capsys, tmp_path):
    folder = make_run(tmp_path / "runs" / "baseline-seed0")
    base = ["notebooks", folder, "--out", tmp_path / "executed", "--parameter"]
    assert_refused(capsys, tmp_path, [*base, "windwo=5"], "windwo", "did you mean 'window'")
    assert_refused(capsys, tmp_path, [*base, "window=many"], "window", "int")
    assert_refused(
        capsys,
        tmp_path,
        ["notebooks", tmp_path / "none", "--out", tmp_path / "executed"],
        "make runs with",
    )


def test_full_disk(capsys, tmp_path, monkeypatch):
    import errno

    from bvit_analysis import files as run_files

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_files.os, "fsync", full)
    arguments = ["train", "--scale", "smoke", "--recipe", "float", "--out", tmp_path, "--quiet"]
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert re.fullmatch(r"error: [^\n]+\n", err), err
    assert "space" in err.lower()


@pytest.mark.slow
def test_costs_prints_the_known_ratio(capsys):
    code, out, _ = run(capsys, "costs", "deit_small_patch16_224")
    assert code == 0
    assert "22,050,664" in out
    assert "16.18" in out
    assert "matmul only" in out
    assert "element-wise" in out


@pytest.mark.slow
def test_train_prints_the_result(capsys, tmp_path):
    arguments = ["train", "--scale", "smoke", "--recipe", "float", "--out", tmp_path, "--quiet"]
    arguments += ["--set", "training.steps=2", "--set", "training.batch_size=8"]
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    assert re.search(r"float-seed0 +finished +test accuracy [\d.]+% of 500", out)
    assert (tmp_path / "smoke" / "float-seed0" / "result.json").exists()
