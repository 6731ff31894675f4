"""LiveRun on runs that grow, fail, vanish and lie, outside a kernel."""

from __future__ import annotations

import base64
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bvit_analysis.errors import ConfigError
from bvit_analysis.records import load_run
from bvit_analysis.widgets import live
from bvit_analysis.widgets.live import LiveRun
from tests.support.growing_run import begin, grow
from tests.support.synthetic_run import make_run

PNG = b"\x89PNG\r\n\x1a\n"


def drawn(folder: Path) -> list[Any]:
    """Return the three axes as they are drawn for the present content of a folder."""
    return LiveRun(folder).figure().axes


def python(code: str, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], **options)


class Fake:
    """A process that ends after so many looks."""

    stderr = None

    def __init__(self, looks: int, code: int = 0) -> None:
        self.looks, self.code = looks, code

    def poll(self) -> int | None:
        self.looks -= 1
        return None if self.looks >= 0 else self.code


class TestUpdate:
    @pytest.mark.slow
    def test_follows_a_run_from_before_its_folder_to_its_end(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        watched = LiveRun(folder)
        assert (watched.state, watched.run, watched.bar.value) == ("waiting", None, 0)
        assert bytes(watched.image.value).startswith(PNG)
        before = watched.image.value
        assert watched.update() is True
        assert watched.image.value is before  # nothing new, nothing drawn

        writer = begin(folder)
        grow(writer, 1, 10)
        writer.write_status("running", 10)
        assert watched.update() is True
        assert (watched.state, watched.bar.value, watched.bar.max) == ("running", 10, 40)
        assert "step 10 of 40" in watched.words
        assert "640 images/s" in watched.words
        assert "validation accuracy 10.0%" in watched.words
        first = watched.image.value
        assert first != before
        loss, accuracy, flips = drawn(folder)
        assert loss.get_xlim() == (0, 40)  # the planned end is in the picture from the start
        assert list(loss.lines[0].get_xdata()) == list(range(1, 11))
        assert list(accuracy.lines[0].get_ydata()) == pytest.approx([0.05, 0.10])
        assert list(flips.lines[0].get_ydata()) == pytest.approx([0.5 / s for s in range(1, 11)])

        grow(writer, 11, 40)
        writer.write_status("finished", 40)
        writer.close()
        assert watched.update() is False
        assert (watched.state, watched.bar.value, watched.bar.bar_style) == (
            "finished",
            40,
            "success",
        )
        assert watched.image.value != first
        assert list(drawn(folder)[0].lines[0].get_xdata()) == list(range(1, 41))

    @pytest.mark.slow
    def test_tells_the_test_accuracy_of_a_finished_run(self, tmp_path: Path) -> None:
        path = make_run(tmp_path / "a", steps=20)
        watched = LiveRun(path)
        result = load_run(path).result
        assert result is not None
        assert f"test accuracy {result['test_accuracy']:.1%}" in watched.words
        assert "Loss" not in watched.words
        assert "Validation accuracy" in watched.alt

    @pytest.mark.parametrize("state", ["failed", "interrupted", "silent"])
    def test_a_run_that_broke_off_is_over_and_says_why(self, tmp_path: Path, state: str) -> None:
        watched = LiveRun(make_run(tmp_path / "a", steps=20, state=state))
        assert watched.update() is False
        assert watched.state == state
        assert watched.bar.bar_style in ("danger", "warning")
        expected = {"failed": "loss is nan", "interrupted": "goes on", "silent": "sign of life"}
        assert expected[state] in watched.words

    def test_a_float_run_has_no_flips_to_draw(self, tmp_path: Path) -> None:
        watched = LiveRun(make_run(tmp_path / "a", kind="float", steps=20))
        assert watched.state == "finished"
        assert "nothing flips" in watched.alt

    def test_a_damaged_part_is_named_and_the_rest_is_shown(self, tmp_path: Path) -> None:
        writer = begin(tmp_path / "run")
        grow(writer, 1, 10)
        grow(writer, 11, 20)
        parts = sorted((tmp_path / "run" / "scalars").glob("part-*"))
        parts[-1].write_bytes(b"PAR1 and then nonsense")
        watched = LiveRun(tmp_path / "run")
        assert watched.update() is True
        assert watched.run is not None
        assert watched.run.scalars["step"].max() == 10
        assert parts[-1].name in watched.text.value
        writer.close()

    @pytest.mark.parametrize("text", ["", "{", '{"schema_version": 99}', "[]"])
    def test_an_unreadable_run_is_told_and_over(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "run.json").write_text(text)
        watched = LiveRun(tmp_path)
        assert watched.update() is False
        assert watched.state == "failed"
        assert "cannot be read" in watched.words

    def test_a_folder_that_vanishes_is_waited_for(self, tmp_path: Path) -> None:
        path = make_run(tmp_path / "a", steps=20, state="running")
        watched = LiveRun(path)
        assert watched.state == "running"
        path.rename(tmp_path / "b")
        assert watched.update() is True
        assert watched.state == "waiting"

    @pytest.mark.slow
    def test_strange_status_values_do_no_harm(self, tmp_path: Path) -> None:
        path = make_run(tmp_path / "a", steps=20, state="running")
        status = json.loads((path / "status.json").read_text())
        for total in (-5, "<b>", 10**30, None, True):
            status["total_steps"] = total
            (path / "status.json").write_text(json.dumps(status))
            watched = LiveRun(path)
            assert watched.bar.max == 20
            assert "<b>" not in watched.text.value.replace("<b>a</b>", "")


class TestText:
    @pytest.mark.slow
    def test_text_of_a_run_folder_is_escaped(self, tmp_path: Path) -> None:
        folder = tmp_path / "<script>{x} $a$"
        make_run(tmp_path / "a", steps=20, state="failed").rename(folder)
        status = json.loads((folder / "status.json").read_text())
        status["error"] = "<img src=x onerror=alert(1)>\n{x} $a$ & more"
        (folder / "status.json").write_text(json.dumps(status))
        info = json.loads((folder / "run.json").read_text())
        info["config"]["recipe"]["name"] = "<script>$\\frac$"
        (folder / "run.json").write_text(json.dumps(info))
        watched = LiveRun(folder)
        assert "<script" not in watched.text.value
        assert "<img" not in watched.text.value
        assert "&lt;script&gt;{x} $a$" in watched.text.value
        assert "&lt;img src=x onerror=alert(1)&gt; {x} $a$ &amp; more" in watched.text.value
        assert "\n" not in watched.words

    def test_a_long_error_is_cut(self, tmp_path: Path) -> None:
        path = make_run(tmp_path / "a", steps=20, state="failed")
        status = json.loads((path / "status.json").read_text())
        (path / "status.json").write_text(json.dumps(status | {"error": "x" * 100_000}))
        assert len(LiveRun(path).words) <= 500

    @pytest.mark.slow
    def test_the_bundle_has_a_picture_with_a_description(self, tmp_path: Path) -> None:
        watched = LiveRun(make_run(tmp_path / "a", steps=20))
        data, metadata = watched._repr_mimebundle_()
        assert base64.b64decode(data["image/png"]).startswith(PNG)
        assert data["text/plain"].startswith("a. Finished: 20 steps")
        assert "application/vnd.jupyter.widget-view+json" in data
        assert "Finished" in metadata["image/png"]["alt"]
        assert "Flip rate" in metadata["image/png"]["alt"]
        title = watched.figure().get_suptitle()
        assert title.startswith("a. Finished: 20 steps")  # a stored picture has no words beside it

    @pytest.mark.slow
    def test_only_the_last_picture_is_saved(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("BVIT_FIGURES", str(tmp_path / "figures"))
        watched = LiveRun(tmp_path / "a")
        _, metadata = watched._repr_mimebundle_()
        assert set(metadata["image/png"]) == {"alt"}
        make_run(tmp_path / "a", steps=20)
        watched.update()
        _, metadata = watched._repr_mimebundle_()
        assert metadata["image/png"]["bvit_figure"] == "figure-01"
        assert (tmp_path / "figures" / "figure-01.csv").exists()

    def test_remaining_time_is_the_remaining_steps_over_the_speed_seen(self) -> None:
        speed = live._Speed()
        looks = [(100.0, 0), (101.0, 20), (101.0, 20), (103.0, 60)]
        found = [speed.of(SimpleNamespace(status={"heartbeat": t}, step=s)) for t, s in looks]  # type: ignore[arg-type]
        assert found == [0.0, 20.0, 20.0, 20.0]
        # Resumed from an earlier checkpoint: the old speed says nothing.
        assert speed.of(SimpleNamespace(status={"heartbeat": 200.0}, step=40)) == 0.0  # type: ignore[arg-type]
        assert speed.of(SimpleNamespace(status={"heartbeat": 202.0}, step=50)) == 5.0  # type: ignore[arg-type]
        assert speed.of(SimpleNamespace(status={"heartbeat": "x"}, step=50)) == 0.0  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("seconds", "text"), [(3.2, "3 s"), (600.0, "10 min"), (9000.0, "2.5 h")]
    )
    def test_durations_read_as_people_say_them(self, seconds: float, text: str) -> None:
        assert live._duration(seconds) == text


class TestFollow:
    @pytest.mark.slow
    def test_ends_at_once_when_the_run_is_over(self, tmp_path: Path) -> None:
        watched = LiveRun(make_run(tmp_path / "a", steps=20))
        assert watched.follow() == "finished"
        assert watched.follow(Fake(looks=10**9)) == "finished"

    @pytest.mark.processes
    @pytest.mark.slow
    def test_a_process_that_trains_is_followed_to_the_end(self, tmp_path: Path) -> None:
        code = f"""
            import time
            from pathlib import Path
            from tests.support.growing_run import begin, grow
            time.sleep(0.2)
            writer = begin(Path({str(tmp_path / "run")!r}))
            for step in range(1, 41, 10):
                grow(writer, step, step + 9)
                writer.write_status("running", step + 9)
                time.sleep(0.2)
            writer.write_status("finished", 40)
            writer.close()
        """
        root = Path(__file__).parents[2]
        process = python(code, cwd=root, env=os.environ | {"PYTHONPATH": str(root)})
        watched = LiveRun(tmp_path / "run")
        assert watched.state == "waiting"
        assert watched.follow(process, every=0.05) == "finished"
        assert watched.bar.value == 40
        assert process.wait() == 0

    def test_a_killed_process_is_told_and_its_record_kept(self, tmp_path: Path) -> None:
        writer = begin(tmp_path / "run")
        grow(writer, 1, 10)
        process = python("import time; time.sleep(60)")
        os.kill(process.pid, signal.SIGKILL)
        watched = LiveRun(tmp_path / "run")
        assert watched.follow(process, every=0.05) == "silent"
        assert "SIGKILL" in watched.words
        assert "up to step 10 is kept" in watched.words
        writer.close()

    def test_a_process_that_fails_before_a_run_is_told_by_its_last_line(
        self, tmp_path: Path
    ) -> None:
        code = "import sys; print('x\\r50%\\nerror: unknown <recipe>\\n', file=sys.stderr); sys.exit(2)"
        process = python(code, stderr=subprocess.PIPE)
        watched = LiveRun(tmp_path / "run")
        assert watched.follow(process, every=0.05) == "failed"
        assert "exit code 2: error: unknown <recipe>" in watched.words
        assert "unknown &lt;recipe&gt;" in watched.text.value
        assert process.stderr is not None
        process.stderr.close()

    def test_a_talkative_process_never_waits_for_a_reader(self, tmp_path: Path) -> None:
        code = "import sys; sys.stderr.write('x' * 100 + '\\n' * 2 * 10**6); sys.exit('the end')"
        process = python(code, stderr=subprocess.PIPE)
        watched = LiveRun(tmp_path / "run")
        assert watched.follow(process, every=0.02) == "failed"
        assert "exit code 1: the end" in watched.words
        assert process.stderr is not None
        process.stderr.close()

    @pytest.mark.slow
    def test_the_run_s_own_error_is_told(self, tmp_path: Path) -> None:
        watched = LiveRun(make_run(tmp_path / "a", steps=20, state="failed"))
        assert watched.follow(Fake(looks=2, code=1), every=0.01) == "failed"
        assert "loss is nan at step 60" in watched.words

    @pytest.mark.slow
    def test_a_failed_run_that_is_taken_up_again_is_followed(self, tmp_path: Path) -> None:
        path = make_run(tmp_path / "a", steps=20, state="failed")
        said: list[str] = []

        class Resuming(Fake):
            def poll(self) -> int | None:
                said.append(watched.words)
                if self.looks == 1:
                    status = json.loads((path / "status.json").read_text())
                    status |= {"state": "finished", "error": None}
                    (path / "status.json").write_text(json.dumps(status))
                return super().poll()

        watched = LiveRun(path)
        assert watched.follow(Resuming(looks=4), every=0.01) == "finished"
        assert any("taken up again" in words for words in said)

    def test_a_process_that_ends_well_without_finishing_is_not_called_finished(
        self, tmp_path: Path
    ) -> None:
        watched = LiveRun(make_run(tmp_path / "a", steps=20, state="running"))
        assert watched.follow(Fake(looks=1), every=0.01) == "silent"
        assert "exit code 0" in watched.words

    def test_an_old_finished_run_does_not_hide_the_error_of_its_process(
        self, tmp_path: Path
    ) -> None:
        watched = LiveRun(make_run(tmp_path / "a", steps=20))
        assert watched.follow(Fake(looks=0, code=2), every=0.01) == "finished"
        assert "exit code 2" in watched.words

    @pytest.mark.processes
    def test_takes_a_multiprocessing_process(self, tmp_path: Path) -> None:
        process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(0.1,))
        process.start()
        watched = LiveRun(tmp_path / "run")
        assert watched.follow(process, every=0.05) == "failed"
        assert "No run was begun" in watched.words
        process.join()

    def test_waits_for_a_run_only_so_long(self, tmp_path: Path) -> None:
        watched = LiveRun(tmp_path / "run")
        began = time.monotonic()
        assert watched.follow(every=0.05, patience=0.3) == "waiting"
        assert time.monotonic() - began < 5
        assert "No run was begun" in watched.words

    @pytest.mark.slow
    def test_the_stop_button_is_passed_on(self, tmp_path: Path) -> None:
        class Stopped(Fake):
            def poll(self) -> int | None:
                if self.looks == 1:
                    self.looks = 0
                    raise KeyboardInterrupt
                return super().poll()

        watched = LiveRun(make_run(tmp_path / "a", steps=20, state="running"))
        with pytest.raises(KeyboardInterrupt):
            watched.follow(Stopped(looks=3), every=0.01)
        assert watched.state == "running"

    @pytest.mark.parametrize("wrong", [{"every": 0.0}, {"patience": -1.0}, {"every": float("nan")}])
    def test_refuses_times_that_make_no_sense(
        self, tmp_path: Path, wrong: dict[str, float]
    ) -> None:
        with pytest.raises(ConfigError, match="above 0"):
            LiveRun(tmp_path).follow(**wrong)

    @pytest.mark.slow
    def test_shows_itself_once_and_leaves_the_last_picture(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shown: list[tuple[str, str]] = []

        def display(widget: LiveRun, **options: Any) -> SimpleNamespace:
            shown.append(("first", widget.state))
            return SimpleNamespace(update=lambda again: shown.append(("last", again.state)))

        monkeypatch.setattr(live, "get_ipython", object)
        monkeypatch.setattr(live, "display", display)
        watched = LiveRun(tmp_path / "run")
        make_run(tmp_path / "run", steps=20)
        watched.follow()
        assert shown == [("first", "waiting"), ("last", "finished")]
