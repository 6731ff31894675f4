"""What `import bvit_analysis` gives: every name, quickly, without Jupyter, and as the README says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import bvit_analysis as bv

ROOT = Path(__file__).parent.parent


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_public_name_is_there():
    for name in bv.__all__:
        assert getattr(bv, name) is not None
    assert set(bv.__all__) <= set(dir(bv))
    with pytest.raises(AttributeError, match="No bvit_analysis attribute binarise"):
        bv.binarise  # noqa: B018 - the access is the test


@pytest.mark.processes
def test_import_loads_nothing_heavy():
    heavy = "{'torch', 'timm', 'pandas', 'matplotlib', 'seaborn', 'papermill'}"
    assert (
        python(f"import sys, bvit_analysis; print({heavy} & set(sys.modules))").strip() == "set()"
    )


@pytest.mark.processes
def test_recording_a_run_needs_neither_jupyter_nor_plotting(tmp_path):
    blocked = [
        "matplotlib",
        "seaborn",
        "ipywidgets",
        "IPython",
        "jupyterlab",
        "papermill",
        "nbformat",
        "nbconvert",
        "scipy",
    ]
    code = f"""
import sys
for name in {blocked}:
    sys.modules[name] = None
from bvit_analysis.cli import main
arguments = ["train", "--scale", "smoke", "--recipe", "binaryvit", "--quiet", "--out", {str(tmp_path)!r}]
settings = ["training.steps=4", "teacher.steps=2", "training.batch_size=8", "teacher.batch_size=8"]
sys.exit(main([*arguments, *[part for s in settings for part in ("--set", s)]]))
"""
    assert "finished" in python(code)


@pytest.mark.processes
def test_a_missing_plotting_package_names_what_to_install():
    code = """
import sys
sys.modules["matplotlib"] = None
import bvit_analysis
try:
    bvit_analysis.plots.plot_flip_rate
except bvit_analysis.BvitError as error:
    print(error)
"""
    assert "pip install 'bvit_analysis[notebooks]'" in python(code)


def test_the_example_of_the_readme_runs(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    example = next(block for block in blocks if "bv.binarize(" in block)
    for original, small in {
        '"deit_small_patch16_224", num_classes=100': (
            '"vit_tiny_patch16_224", num_classes=4, img_size=32, embed_dim=16, depth=1, num_heads=2'
        ),
        "img_size=224": "img_size=32",
    }.items():
        assert original in example
        example = example.replace(original, small)
    prelude = """
import torch
images = torch.randn(6, 3, 32, 32)
loader = [(images, torch.arange(6) % 4)] * 5
criterion = torch.nn.CrossEntropyLoss()
"""
    setup = "optimizer = torch.optim.AdamW(model.parameters(), 1e-3)\n"
    example = example.replace("with bv.Watch(", setup + "with bv.Watch(", 1)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    with torch.random.fork_rng():
        exec(compile(prelude + example, "README.md", "exec"), names)
    run = names["run"]
    assert isinstance(run, bv.Run)
    assert run.scalars["step"].tolist() == [1, 2, 3, 4, 5]


def test_the_foreign_example_of_the_readme_runs(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (example,) = (block for block in blocks if "activation_sign=" in block)
    prelude = """
import torch, bvit_analysis as bv
from torch.nn import Sequential
from tests.support.foreign_run import Centred as TheirLinear, Sign, Ternary as TheirTernary
class TheirSign(Sign):
    def forward(self, x):
        y = x - self.shift
        return y + (torch.where(y >= 0, 1.0, -1.0) - y).detach()
model = Sequential(TheirSign(8), TheirLinear(8, 8), TheirTernary(8, 8))
optimizer = torch.optim.SGD(model.parameters(), 0.1)
"""
    loop = "model(torch.randn(6, 8)).square().mean().backward(); optimizer.step(); watch.step()"
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        exec(compile(prelude + example.replace("...", loop), "README.md", "exec"), {})
    rows = bv.load_run("runs/theirs").info["sites"]
    assert [(row["levels"], bool(row["verified"])) for row in rows] == [
        (2, True),
        (2, True),
        (3, True),
    ]


def test_the_readme_names_only_commands_and_files_that_exist():
    text = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`?make ([a-z]+)", text)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("https://arxiv.org/") or (ROOT / link).exists(), link
    for notebook in re.findall(r"`(?:notebooks/)?(\d\d_\w+)", text):
        assert (ROOT / "notebooks" / f"{notebook}.ipynb").exists(), notebook
