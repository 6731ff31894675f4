"""Set-up: pyproject.toml is the truth, and environment.yml, requirements.txt and the Makefile follow it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import bvit_analysis
from bvit_analysis.extras import TRAIN_PACKAGES

ROOT = Path(bvit_analysis.__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
ENVIRONMENT: dict[str, Any] = yaml.safe_load((ROOT / "environment.yml").read_text())
PINS = [
    line
    for line in (ROOT / "requirements.txt").read_text().splitlines()
    if line and not line.startswith("#")
]


def by_name(lines: list[str]) -> dict[str, Requirement]:
    requirements = [Requirement(line) for line in lines]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def declared() -> dict[str, Requirement]:
    extras = PROJECT["project"]["optional-dependencies"]
    return by_name(
        PROJECT["project"]["dependencies"] + [line for extra in extras.values() for line in extra]
    )


def pip_section() -> list[str]:
    return next(entry["pip"] for entry in ENVIRONMENT["dependencies"] if isinstance(entry, dict))


def test_environment_names_what_it_promises() -> None:
    lines = pip_section()
    names = set(by_name([line for line in lines if not line.startswith("-e")]))
    expected = [
        "torch",
        "timm",
        "jupyterlab",
        "matplotlib",
        "seaborn",
        "ipywidgets",
        "papermill",
        "pytest",
    ]
    assert names == set(expected)
    extras = ",".join(sorted(PROJECT["project"]["optional-dependencies"], reverse=True))
    assert lines[-1] == f"-e .[{extras}]"
    assert ENVIRONMENT["name"] == "bvit"
    assert "pip" in ENVIRONMENT["dependencies"]


def test_environment_has_the_bounds_of_pyproject() -> None:
    truth = declared()
    for name, requirement in by_name(
        [line for line in pip_section() if not line.startswith("-e")]
    ).items():
        assert requirement.specifier == truth[name].specifier, name


def test_environment_has_a_python_that_pyproject_allows() -> None:
    (python,) = [d for d in ENVIRONMENT["dependencies"] if str(d).startswith("python=")]
    version = python.removeprefix("python=")
    oldest = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert version == oldest
    assert PROJECT["tool"]["mypy"]["python_version"] == oldest
    assert PROJECT["tool"]["ruff"]["target-version"] == "py" + oldest.replace(".", "")


def test_every_dependency_is_pinned_within_its_bounds() -> None:
    pins = by_name(PINS)
    for name, requirement in declared().items():
        assert name in pins, f"{name} is not in requirements.txt"
        (pin,) = pins[name].specifier
        assert pin.operator == "=="
        assert requirement.specifier.contains(pin.version), f"{name} {pin.version}"
    for line in PROJECT["build-system"]["requires"]:
        requirement = Requirement(line)
        (pin,) = pins[canonicalize_name(requirement.name)].specifier
        assert requirement.specifier.contains(pin.version), line


def test_every_pin_is_exact_and_given_once() -> None:
    assert len(by_name(PINS)) == len(PINS)
    for line in PINS:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*(; \S.*)?", line), line


def test_the_core_is_for_looking_alone() -> None:
    core = set(by_name(PROJECT["project"]["dependencies"]))
    train = set(by_name(PROJECT["project"]["optional-dependencies"]["train"]))
    assert {"numpy", "pandas", "pyarrow"} <= core
    assert set(TRAIN_PACKAGES) <= train
    assert not core & train


def test_make_and_conda_install_every_extra() -> None:
    extras = ",".join(sorted(PROJECT["project"]["optional-dependencies"], reverse=True))
    assert f"-e '.[{extras}]'" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize(
    "name",
    [
        "requirements.txt",
        "environment.yml",
        "pyproject.toml",
        "Makefile",
        ".ci/run",
        ".pre-commit-config.yaml",
        "mkdocs.yml",
    ],
)
def test_no_file_names_an_index(name: str) -> None:
    text = (ROOT / name).read_text()
    assert not re.search(r"https?://|file://|index-url|find-links|trusted-host", text)


def test_hooks_come_from_this_repository_alone() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    for hook in config["repos"][0]["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].startswith(".venv/bin/")
    names = [hook["id"] for hook in config["repos"][0]["hooks"]]
    assert names[:2] == ["strip-notebooks", "notebook-metadata"]  # before what looks at them
    assert names[2:] == ["ruff-check", "ruff-format", "mypy"]


def test_pillow_stays_below_the_release_that_breaks_the_deit_augmentation() -> None:
    assert not declared()["pillow"].specifier.contains("13.0.0")
    assert declared()["pillow"].specifier & SpecifierSet("==12.3.0")


def test_versions_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["project"]["version"] == bvit_analysis.__version__ == citation["version"]
    assert any("2305.14730" in reference["url"] for reference in citation["references"])


def test_typing_marker_is_there() -> None:
    assert (ROOT / "bvit_analysis" / "py.typed").exists()


def test_contributing_stays_short() -> None:
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) < 60


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "MAKEFLAGS": ""},
        timeout=60,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with the Makefile and a python3 that only pretends: its pip fails as told, and is fast."""
    if shutil.which("make") is None:
        pytest.skip("needs make")
    for name in ("Makefile", "pyproject.toml", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / "python3"
    python.write_text(
        "#!/bin/sh\n"
        'echo "$@" >> calls\n'
        'case "$*" in\n'
        '  "-m venv"*) mkdir -p .venv/bin; cp python3 .venv/bin/python;;\n'
        "  *pip*) [ ! -e broken ] || exit 1;;\n"
        "esac\n"
    )
    python.chmod(0o755)
    return tmp_path


def test_make_sets_up_once(copy: Path) -> None:
    first = make(copy, "setup", "PYTHON=./python3")
    assert first.returncode == 0, first.stderr
    assert len(first.stdout.splitlines()) == 1
    assert "GB" in first.stdout
    calls = (copy / "calls").read_text()
    assert "install" in calls
    assert make(copy, "setup", "PYTHON=./python3").returncode == 0
    assert (copy / "calls").read_text() == calls
    os.utime(copy / "requirements.txt", (2e9, 2e9))
    make(copy, "setup", "PYTHON=./python3")
    assert (copy / "calls").read_text() != calls


def test_a_broken_set_up_is_begun_again(copy: Path) -> None:
    (copy / "broken").touch()
    assert make(copy, "setup", "PYTHON=./python3").returncode != 0
    assert not (copy / ".venv" / ".ready").exists()
    (copy / "broken").unlink()
    (copy / ".venv" / "half").touch()
    assert make(copy, "setup", "PYTHON=./python3").returncode == 0
    assert not (copy / ".venv" / "half").exists()
    assert (copy / ".venv" / ".ready").exists()


def test_make_reproduce_passes_scale_and_folder(copy: Path) -> None:
    shown = make(copy, "-n", "reproduce", "SCALE=smoke", "OUT=elsewhere").stdout
    assert ".venv/bin/bvit reproduce --scale smoke --out elsewhere" in shown


def test_make_lab_opens_the_notebooks_and_takes_flags(copy: Path) -> None:
    shown = make(copy, "-n", "lab", "LAB=--no-browser").stdout
    (line,) = [line for line in shown.splitlines() if "jupyter lab" in line]
    assert line.startswith(".venv/bin/jupyter lab --notebook-dir=notebooks")
    assert line.endswith("--no-browser")
    # Jupyter refuses root, the user of most containers, without this.
    assert ("--allow-root" in line) == (os.getuid() == 0)


def test_make_quick_leaves_out_what_is_marked(copy: Path) -> None:
    shown = make(copy, "-n", "quick").stdout
    for mark in ("slow", "processes", "browser", "gpu"):
        assert f"not {mark}" in shown
        assert any(
            line.startswith(f"{mark}:")
            for line in PROJECT["tool"]["pytest"]["ini_options"]["markers"]
        )
    assert "-m" not in make(copy, "-n", "test").stdout.split("pytest", 1)[1]


def test_make_docs_takes_a_warning_for_an_error(copy: Path) -> None:
    assert ".venv/bin/mkdocs build --strict" in make(copy, "-n", "docs").stdout


def test_make_hooks_installs_the_hooks(copy: Path) -> None:
    assert ".venv/bin/pre-commit install" in make(copy, "-n", "hooks").stdout
