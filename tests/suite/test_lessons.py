"""Lessons: what of a source goes where, the same every time, and clear words for a source that is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from bvit_analysis.cli import main
from bvit_analysis.errors import SuiteError
from bvit_analysis.suite import lessons

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
PARAMETERS = new_code_cell("seed: int = 0  # of it all", id="p", metadata={"tags": ["parameters"]})


SECOND = new_code_cell("b: int = 1  # more", id="q", metadata={"tags": ["parameters"]})


def cell(text: str, *tags: str, code: bool = False, name: str = "") -> Any:
    make = new_code_cell if code else new_markdown_cell
    return make(text, id=name or text, metadata={"tags": list(tags)} if tags else {})


def lesson(*cells: Any) -> Any:
    return new_notebook(cells=[cell("title"), PARAMETERS, *cells])


GOOD = lesson(
    cell("ask", "exercise"),
    cell("mine = None", "exercise", code=True, name="scaffold"),
    cell("explained", "solution"),
    cell("mine = 1", "solution", code=True, name="worked"),
    cell("end"),
)


def write(folder: Path, notebook: Any, name: str = "01_a") -> Path:
    (folder / "lessons").mkdir(parents=True, exist_ok=True)
    path = folder / "lessons" / f"{name}.ipynb"
    nbformat.write(notebook, path)
    return path


def names(notebook: Any) -> list[str]:
    return [one.id for one in notebook.cells]


def test_the_hand_out_has_all_but_the_solutions() -> None:
    assert names(lessons.without_solutions(GOOD)) == ["title", "p", "ask", "scaffold", "end"]
    assert names(lessons.with_solutions(GOOD)) == names(GOOD)


def test_nothing_of_an_execution_and_no_foreign_metadata_is_carried_over() -> None:
    source = nbformat.from_dict(json.loads(json.dumps(GOOD)))
    source.metadata["papermill"] = {"x": 1}
    scaffold = source.cells[3]
    scaffold["outputs"] = [nbformat.v4.new_output("stream", text="seen")]
    scaffold["execution_count"] = 7
    scaffold["metadata"].update(scrolled=True, tags=["exercise", "exercise"])
    source.cells[0]["metadata"] = {"tags": [], "editable": False}
    for made in (lessons.with_solutions(source), lessons.without_solutions(source)):
        nbformat.validate(made)
        assert made.cells[3].outputs == []
        assert made.cells[3].execution_count is None
        assert made.cells[3].metadata == {"tags": ["exercise"]}
        assert made.cells[0].metadata == {}
        assert set(made.metadata) == {"kernelspec", "language_info"}
    assert source.cells[3].execution_count == 7, "the source is not changed"


def test_splitting_twice_changes_nothing() -> None:
    for split in (lessons.with_solutions, lessons.without_solutions):
        once = split(GOOD)
        assert lessons.as_text(split(once)) == lessons.as_text(once)


def test_cells_without_a_good_id_get_one_that_stays(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    raw = json.loads(path.read_text())
    del raw["cells"][0]["id"]
    raw["cells"][2]["id"] = "p"  # the id of another cell
    raw["cells"].append(raw["cells"][-1] | {"id": "p"})
    path.write_text(json.dumps(raw))
    first = lessons.lesson_files(tmp_path)
    assert first == lessons.lesson_files(tmp_path)
    made = nbformat.reads(first[tmp_path / "solutions" / "01_a.ipynb"], as_version=4)
    assert len(set(names(made))) == len(made.cells)
    assert names(made)[0].startswith("markdown-")
    hand_out = nbformat.reads(first[tmp_path / "01_a.ipynb"], as_version=4)
    assert set(names(hand_out)) <= set(names(made)), "a cell has one id in both"


@pytest.mark.parametrize(
    ("notebook", "text"),
    [
        (new_notebook(cells=GOOD.cells[2:]), "0 code cells tagged 'parameters'"),
        (lesson(SECOND, *GOOD.cells[2:]), "2 code cells tagged 'parameters'"),
        (lesson(cell("a", "solution"), cell("b", "exercise")), "before any exercise"),
        (lesson(cell("a", "exercise")), "no cell tagged 'solution'"),
        (lesson(), "no cell tagged 'exercise'"),
        (lesson(cell("a", "exercise"), cell("b", "solutions")), "did you mean 'solution'"),
        (lesson(cell("a", "exercise"), cell("b", "exercise", "solution")), "make two cells"),
        (lesson(cell("a", "parameters")), "tag the code cell"),
    ],
)
def test_a_source_that_is_no_lesson_is_refused_and_nothing_is_written(
    notebook: Any, text: str, tmp_path: Path
) -> None:
    write(tmp_path, GOOD, "00_good")
    (tmp_path / "lessons" / "01_a.ipynb").write_text(nbformat.writes(GOOD))
    with pytest.raises(SuiteError, match=text):
        lessons.check_lesson(notebook, "01_a")
    broken = json.loads(json.dumps(notebook))
    broken["cells"] = [one | {"id": f"c{i}"} for i, one in enumerate(broken["cells"])]
    (tmp_path / "lessons" / "01_a.ipynb").write_text(json.dumps(broken))
    with pytest.raises(SuiteError, match=text):
        lessons.write_lessons(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["lessons"]


def test_a_folder_without_lessons_and_a_file_that_is_no_notebook(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match="no lessons in"):
        lessons.write_lessons(tmp_path)
    (tmp_path / "lessons").mkdir()
    (tmp_path / "lessons" / "01_a.ipynb").write_text("{")
    with pytest.raises(SuiteError, match="not a notebook"):
        lessons.write_lessons(tmp_path)


def test_writing_is_idempotent_and_says_what_changed(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    both = [tmp_path / "01_a.ipynb", tmp_path / "solutions" / "01_a.ipynb"]
    assert lessons.out_of_step(tmp_path) == both
    assert lessons.write_lessons(tmp_path) == both
    assert lessons.write_lessons(tmp_path) == []
    assert lessons.out_of_step(tmp_path) == []
    changed = nbformat.read(path, as_version=4)
    changed.cells[4].source = "explained better"
    nbformat.write(changed, path)
    assert lessons.write_lessons(tmp_path) == both[1:], "the hand-out has no solution to change"
    (tmp_path / "solutions" / "gone.ipynb").write_text("{}")
    assert lessons.out_of_step(tmp_path) == [tmp_path / "solutions" / "gone.ipynb"]
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, GOOD)
    check = ["lessons", "--notebooks", str(tmp_path), "--check"]
    assert main(check) == 1
    assert "out of step with its lesson" in capsys.readouterr().out
    assert not (tmp_path / "solutions").exists()
    assert main(check[:-1]) == 0
    assert capsys.readouterr().out.count("wrote ") == 2
    assert main(check) == 0
    assert main(["lessons", "--notebooks", str(tmp_path / "none")]) == 2
    assert "error: no lessons in" in capsys.readouterr().err


def test_the_lessons_of_this_project_are_in_step() -> None:
    assert lessons.out_of_step(NOTEBOOKS) == [], "write them with: bvit lessons"
