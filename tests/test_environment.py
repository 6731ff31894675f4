from __future__ import annotations

import json
import subprocess

import torch

from bvit_analysis import environment
from bvit_analysis.environment import describe_environment


def test_it_says_where_a_run_was_made() -> None:
    found = describe_environment()
    assert found["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert found["hardware"]["threads"] == torch.get_num_threads()
    assert found["hardware"]["device"] == "cpu"
    assert json.loads(json.dumps(found)) == found


def test_without_git_there_is_no_commit(monkeypatch) -> None:
    def missing(*args: object, **kwargs: object) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", missing)
    assert environment._commit() is None
