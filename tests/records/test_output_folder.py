"""A recipe replaces and deletes only what it wrote, also where a kill comes between two steps."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from hf_hybrid.records import output_folder
from hf_hybrid.records.manifest import checkpoints, find_damage, write_manifest
from hf_hybrid.records.output_folder import OutputFolder
from hf_hybrid.records.schema import OUTPUTS_NAME
from hf_hybrid.training.checkpoints import newest_whole, rotate
from hf_hybrid.utils import files


@pytest.fixture
def outputs(tmp_path: Path) -> OutputFolder:
    return OutputFolder(tmp_path / "out")


def write(outputs: OutputFolder, name: str, text: str = "ours") -> None:
    with outputs.writing(name) as unfinished:
        unfinished.write_text(text)


def put(path: Path, text: str = "mine") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def aside(outputs: OutputFolder, *names: str, text: str = "new") -> Path:
    """A folder written aside, with a manifest."""
    folder = outputs.path / ".unfinished-aside"
    for name in names:
        put(folder / name, text)
    write_manifest(folder)
    return folder


def contents(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


class TestList:
    def test_each_file_is_listed_once_before_it_is_written(self, outputs: OutputFolder) -> None:
        for _ in range(3):
            write(outputs, "a/b.json")
        lines = [json.loads(line) for line in (outputs.path / OUTPUTS_NAME).read_text().splitlines()]
        assert lines == [{"format": "hf_hybrid outputs", "version": 1}, {"file": "a/b.json"}]
        with outputs.writing("late") as unfinished:
            unfinished.touch()
            assert not (outputs.path / "late").exists()
            assert OutputFolder(outputs.path).lists("late")

    def test_what_another_one_writes_and_deletes_is_seen(self, outputs: OutputFolder) -> None:
        second = OutputFolder(outputs.path)
        write(outputs, "x")
        write(second, "x", "again")
        second.delete("x")
        assert not outputs.lists("x")
        put(outputs.path / "x")
        with pytest.raises(ValueError, match="holds x, and no recipe wrote it"):
            outputs.claim("x")

    def test_a_line_that_was_cut_off_is_skipped(self, outputs: OutputFolder) -> None:
        write(outputs, "whole")
        with open(outputs.path / OUTPUTS_NAME, "a") as file:
            file.write('{"file": "to')
        again = OutputFolder(outputs.path)
        assert again.list_files("") == ["whole"]
        write(again, "after")
        assert OutputFolder(outputs.path).list_files("") == outputs.list_files("") == ["whole", "after"]

    def test_a_header_that_was_cut_off_is_written_again(self, outputs: OutputFolder) -> None:
        put(outputs.path / OUTPUTS_NAME, '{"format": "hf_hybrid outputs"')
        write(outputs, "x")
        assert OutputFolder(outputs.path).list_files("") == ["x"]

    @pytest.mark.parametrize("line", ['{"file": "../x"}', '{"file": "/x"}', '{"file": 1}', '{"thing": "x"}', "{}}"])
    def test_other_lines_are_refused(self, outputs: OutputFolder, line: str) -> None:
        write(outputs, "x")
        with open(outputs.path / OUTPUTS_NAME, "a") as file:
            file.write(f"{line}\n")
        with pytest.raises(ValueError, match=r"outputs\.jsonl, line 3: cannot be read"):
            OutputFolder(outputs.path).list_files("")

    @pytest.mark.parametrize("name", ["", ".", "../x", "a/../../x", "/x"])
    def test_files_elsewhere_are_refused(self, outputs: OutputFolder, name: str) -> None:
        with pytest.raises(ValueError, match="lies outside"):
            outputs.claim(name) if name else outputs.claim(".")

    def test_processes_share_a_list(self, outputs: OutputFolder) -> None:
        context = multiprocessing.get_context("fork")
        processes = [context.Process(target=_write_many, args=(outputs.path, number)) for number in range(4)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0] * 4
        wanted = {"shared", *(f"{number}/{file}" for number in range(4) for file in range(50))}
        assert set(outputs.list_files("")) == wanted
        outputs.delete_all()
        assert contents(outputs.path).keys() == set()

    def test_a_claim_does_not_read_the_list_again(
        self, outputs: OutputFolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(outputs, "x")
        monkeypatch.setattr("builtins.open", None)
        for _ in range(3):
            outputs.claim("x")
        assert outputs.lists("x")


def _write_many(path: Path, number: int) -> None:
    outputs = OutputFolder(path)
    for file in range(50):
        write(outputs, f"{number}/{file}")
        write(outputs, "shared")


class TestRefusals:
    def test_several_files_are_named(self, outputs: OutputFolder) -> None:
        for name in "abcde":
            put(outputs.path / name)
        with pytest.raises(ValueError, match="holds a, b, c and 2 more, and no recipe wrote them"):
            outputs.check(*"abcde")
        assert not (outputs.path / OUTPUTS_NAME).exists()

    def test_a_file_where_a_folder_is_to_be(self, outputs: OutputFolder) -> None:
        put(outputs.path / "model")
        with pytest.raises(ValueError, match="holds model, "):
            outputs.claim("model/config.json")

    def test_folders_and_links_are_in_the_way_too(self, outputs: OutputFolder, tmp_path: Path) -> None:
        (outputs.path / "folder").mkdir(parents=True)
        (outputs.path / "dangling").symlink_to(tmp_path / "nowhere")
        assert outputs.find_taken("folder", "dangling", "free") == ["folder", "dangling"]

    @pytest.mark.parametrize(
        ("names", "kind"),
        [
            (["run.json", "eval.json"], "a run"),
            (["study.json"], "a study"),
            (["config.json", "model.safetensors"], "a model"),
            (["de.jsonl"], "a corpus"),
            (["pt-BR.jsonl"], "a corpus"),
            (["corpus.jsonl", "queries.jsonl"], "a corpus"),
            (["corpus.json", "rows.npy", "items.arrow"], "a corpus"),
        ],
    )
    def test_a_folder_of_another_kind(self, outputs: OutputFolder, names: list[str], kind: str) -> None:
        for name in names:
            put(outputs.path / name)
        with pytest.raises(ValueError, match=f"holds {kind}, and this command writes an evaluation"):
            outputs.begin("evaluation")

    def test_the_kind_is_kept_before_its_first_file_is_there(self, outputs: OutputFolder) -> None:
        outputs.begin("run")
        outputs.begin("run")
        with pytest.raises(ValueError, match="holds a run, and this command writes a study"):
            OutputFolder(outputs.path, "study_dir").begin("study")

    def test_an_output_of_an_earlier_release(self, outputs: OutputFolder) -> None:
        put(outputs.path / "run.json")
        with pytest.raises(ValueError, match=r"a run without a list of its files \(outputs\.jsonl\): an earlier rel"):
            outputs.begin("run")
        with pytest.raises(
            ValueError,
            match=r"holds run\.json, and an earlier release, which kept no outputs\.jsonl, may have written it",
        ):
            outputs.claim("run.json")

    def test_a_folder_that_is_no_output_is_fine(self, outputs: OutputFolder) -> None:
        for name in ("resources.jsonl.bak", "config.json", "notes.jsonl", "README.md"):
            put(outputs.path / name)
        assert outputs.output_type is None
        outputs.begin("run")
        assert OutputFolder(outputs.path).output_type == "run"


class TestDeleting:
    def test_empty_folders_go_and_foreign_files_stay(self, outputs: OutputFolder) -> None:
        for name in ("model/a", "model/deep/b", "pictures/c", "d"):
            write(outputs, name)
        put(outputs.path / "pictures/holiday.png")
        outputs.delete_all()
        assert contents(outputs.path).keys() == {"pictures/holiday.png"}
        assert not (outputs.path / "model").exists()
        assert outputs.list_files("") == []

    def test_some(self, outputs: OutputFolder) -> None:
        for name in ("a", "ab", "a.d/x", "kept"):
            write(outputs, name)
        outputs.delete("a", "a.d", "nowhere", "")
        outputs.delete()
        assert outputs.list_files("") == ["ab", "kept"]

    def test_nested_folders_by_their_own_lists(self, outputs: OutputFolder) -> None:
        write(outputs.open_nested("trials/a"), "run.json")
        write(OutputFolder(outputs.path / "trials/mine"), "run.json")  # a run of somebody else
        put(outputs.path / "trials/a/mine.txt")
        outputs.delete("trials")
        assert contents(outputs.path / "trials").keys() == {"a/mine.txt", "mine/run.json", f"mine/{OUTPUTS_NAME}"}
        with pytest.raises(ValueError, match=r"holds trials/mine/outputs\.jsonl"):
            outputs.open_nested("trials/mine")

    def test_a_view_shares_the_list(self, outputs: OutputFolder) -> None:
        view = outputs.subfolder("bm25")
        write(view, "eval.json")
        write(outputs, "eval.json")
        assert outputs.list_files("") == ["bm25/eval.json", "eval.json"]
        assert view.list_files("") == ["eval.json"]
        view.delete_all()
        assert outputs.list_files("") == ["eval.json"]

    def test_what_tells_of_a_run_goes_last(self, outputs: OutputFolder, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("run.json", "a", "checkpoint-1/manifest.json", "checkpoint-1/weights"):
            write(outputs, name)
        order: list[str] = []
        monkeypatch.setattr(output_folder, "unlink_files", lambda _, names: order.extend(names))
        outputs.delete_all()
        assert order == ["checkpoint-1/manifest.json", "a", "checkpoint-1/weights", "run.json"]


class TestFolders:
    def test_it_is_replaced_at_once_where_it_is_ours_alone(self, outputs: OutputFolder) -> None:
        outputs.put_folder(aside(outputs, "old", "both", text="old"), "model")
        before = (outputs.path / "model").stat().st_ino
        outputs.put_folder(aside(outputs, "both", "sub/new"), "model")
        assert (outputs.path / "model").stat().st_ino != before
        assert contents(outputs.path / "model").keys() == {"both", "sub/new", "manifest.json"}
        assert set(outputs.list_files("model")) == {f"model/{name}" for name in contents(outputs.path / "model")}

    def test_foreign_files_stay(self, outputs: OutputFolder) -> None:
        outputs.put_folder(aside(outputs, "old", "both", "sub/old", text="old"), "model")
        put(outputs.path / "model/mine.txt")
        put(outputs.path / "model/sub/mine.txt")
        outputs.put_folder(aside(outputs, "both", "new"), "model")
        found = contents(outputs.path / "model")
        assert found.keys() == {"both", "new", "mine.txt", "sub/mine.txt", "manifest.json"}
        assert (found["both"], found["mine.txt"]) == ("new", "mine")
        assert find_damage(outputs.path / "model") is None

    def test_a_name_that_is_taken_is_refused_and_nothing_changes(self, outputs: OutputFolder) -> None:
        outputs.put_folder(aside(outputs, "a", text="old"), "model")
        put(outputs.path / "model/b")
        before = contents(outputs.path / "model")
        with pytest.raises(ValueError, match="holds model/b, and no recipe wrote it"):
            outputs.put_folder(aside(outputs, "a", "b"), "model")
        assert contents(outputs.path / "model") == before

    def test_a_link_to_a_folder_is_refused(self, outputs: OutputFolder, tmp_path: Path) -> None:
        put(tmp_path / "elsewhere/mine.txt")
        outputs.path.mkdir()
        (outputs.path / "model").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(ValueError, match="is a link"):
            outputs.put_folder(aside(outputs, "a"), "model")
        assert contents(tmp_path / "elsewhere") == {"mine.txt": "mine"}


def checkpoint(outputs: OutputFolder, step: int, text: str = "old") -> None:
    outputs.put_folder(aside(outputs, "weights", "state/optimizer", text=text), f"checkpoint-{step}")


class TestCheckpoints:
    def test_a_folder_with_foreign_files_only_is_none(self, outputs: OutputFolder) -> None:
        checkpoint(outputs, 4)
        put(outputs.path / "checkpoint-8/mine.txt")
        told: list[str] = []
        assert newest_whole(outputs.path, told.append) == outputs.path / "checkpoint-4"
        assert (told, contents(outputs.path / "checkpoint-8")) == ([], {"mine.txt": "mine"})
        checkpoint(outputs, 8)
        assert newest_whole(outputs.path, told.append) == outputs.path / "checkpoint-8"

    def test_rotating_leaves_foreign_files_and_foreign_checkpoints(self, outputs: OutputFolder) -> None:
        for step in (4, 8, 12):
            checkpoint(outputs, step)
        put(outputs.path / "checkpoint-4/mine.txt")
        put(outputs.path / "checkpoint-6/weights")
        write_manifest(outputs.path / "checkpoint-6")
        before = contents(outputs.path / "checkpoint-6")
        rotate(outputs.path, 1, [])
        assert contents(outputs.path / "checkpoint-4") == {"mine.txt": "mine"}
        assert contents(outputs.path / "checkpoint-6") == before
        assert [path.name for path in checkpoints(outputs.path)] == ["checkpoint-12", "checkpoint-6"]

    def test_a_damaged_one_is_moved_without_foreign_files(self, outputs: OutputFolder) -> None:
        checkpoint(outputs, 4)
        checkpoint(outputs, 8)
        (outputs.path / "checkpoint-8/weights").write_text("o")
        put(outputs.path / "checkpoint-8/mine.txt")
        told: list[str] = []
        assert newest_whole(outputs.path, told.append) == outputs.path / "checkpoint-4"
        assert len(told) == 1
        assert contents(outputs.path / "checkpoint-8") == {"mine.txt": "mine"}
        moved = contents(outputs.path / "damaged-checkpoint-8")
        assert moved.keys() == {"weights", "state/optimizer", "manifest.json"}
        assert outputs.lists("damaged-checkpoint-8/weights")

    def test_a_damaged_one_of_somebody_else_is_refused(self, outputs: OutputFolder) -> None:
        put(outputs.path / "checkpoint-8/weights")
        write_manifest(outputs.path / "checkpoint-8")
        put(outputs.path / "checkpoint-8/weights", "m")
        with pytest.raises(ValueError, match=r"is damaged: .* No run wrote it here: move it away"):
            newest_whole(outputs.path, print)
        assert (outputs.path / "checkpoint-8/weights").read_text() == "m"


class Kill(BaseException):
    """Ends what is under way as a kill does."""


SYSTEM_CALLS = ("unlink", "rename", "replace", "rmdir", "write")


def kill_at(monkeypatch: pytest.MonkeyPatch, number: int) -> Callable[[], int]:
    """Raise `Kill` in place of a system call that changes the disk, counted from 0; gives how many there were."""
    count = 0

    def counting(original: Callable) -> Callable:
        def call(*args: object, **kwargs: object) -> object:
            nonlocal count
            count += 1
            if count > number:
                raise Kill
            return original(*args, **kwargs)

        return call

    for name in SYSTEM_CALLS:
        monkeypatch.setattr(os, name, counting(getattr(os, name)))
    return lambda: count


@pytest.mark.parametrize("foreign", [False, True])
@pytest.mark.parametrize("action", ["replace", "rotate", "overwrite", "move"])
def test_a_kill_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str, foreign: bool) -> None:
    """Foreign files are as they were, no checkpoint passes for whole that is not, and the same call completes it."""
    seen = set()
    for number in range(200):
        outputs = OutputFolder(tmp_path / f"{number}")
        for step in (4, 8):
            checkpoint(outputs, step)
        write(outputs, "run.json")
        mine = {outputs.path / name for name in ("checkpoint-4/mine.txt", "checkpoint-4/state/mine", "mine.txt")}
        for path in mine if foreign else ():
            put(path)
        unfinished = aside(outputs, "weights", "fresh") if action == "replace" else None

        def act(outputs: OutputFolder, unfinished: Path | None = unfinished) -> None:
            if action == "replace":
                assert unfinished is not None
                outputs.put_folder(unfinished, "checkpoint-4")
            elif action == "rotate":
                rotate(outputs.path, 1, [])
            elif action == "overwrite":
                outputs.delete_all()
            else:
                outputs.move_folder("checkpoint-4", "damaged-checkpoint-4")

        with monkeypatch.context() as patched:
            calls = kill_at(patched, number)
            try:
                act(OutputFolder(outputs.path))
                finished = True
            except Kill:
                finished = False
            seen.add(calls())
        assert not foreign or all(path.read_text() == "mine" for path in mine)
        for path in checkpoints(outputs.path):
            if find_damage(path) is None and (path / "weights").exists():
                assert (path / "weights").read_text() in ("old", "new")
        if finished:
            break
        files.delete_unfinished(outputs.path, older_than_s=0.0)
        newest = newest_whole(outputs.path, lambda _: None)  # what the next start does first
        assert action == "overwrite" or newest == outputs.path / "checkpoint-8"
        assert not foreign or all(path.read_text() == "mine" for path in mine)
        if action in ("rotate", "overwrite"):
            act(OutputFolder(outputs.path))
            left = set(contents(outputs.path)) - {OUTPUTS_NAME}
            kept = set() if action == "overwrite" else {"run.json"}
            kept |= {path.relative_to(outputs.path).as_posix() for path in mine} if foreign else set()
            assert {name for name in left if not name.startswith("checkpoint-8")} == kept
        else:
            checkpoint(outputs, 4, "again")
            assert find_damage(outputs.path / "checkpoint-4") is None
    else:
        raise AssertionError("the action never finished")
    assert len(seen) >= 3  # of which the fewest are two lines of the list, and a folder that gets another name


@pytest.mark.parametrize("seed", range(30))
def test_any_sequence_of_operations_leaves_foreign_files_alone(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    outputs, foreign = OutputFolder(tmp_path / "out"), dict[str, str]()
    places = ["", "model/", "model/sub/", "pictures/", "checkpoint-4/", "checkpoint-8/", "trials/a/", "damaged-x/"]
    names = [f"{place}{name}" for place in places for name in ("a", "b", "weights", "manifest.json")]
    for turn in range(80):
        name, folder = dice.choice(names), dice.choice(["model", "checkpoint-4", "checkpoint-8", "pictures"])
        if dice.random() < 0.05:
            outputs = OutputFolder(outputs.path)  # another process
        try:
            match dice.randrange(7):
                case 0 if not (outputs.path / name).exists() and not outputs.lists(name):
                    put(outputs.path / name, f"mine {turn}")
                    foreign[name] = f"mine {turn}"
                case 1 | 2:
                    write(outputs, name, f"ours {turn}")
                case 3:
                    outputs.delete(*dice.sample([name, folder], dice.randrange(3)))
                case 4:
                    chosen = dice.sample(["a", "b", "weights", "sub/a"], 2)
                    outputs.put_folder(aside(outputs, *chosen, text=f"ours {turn}"), folder)
                case 5:
                    rotate(outputs.path, 1, [])
                case 6:
                    newest_whole(outputs.path, lambda _: None)
        except ValueError:
            files.delete_unfinished(outputs.path, older_than_s=0.0)
        found = contents(outputs.path) if outputs.path.exists() else {}
        assert {name: found.get(name) for name in foreign} == foreign
        assert set(outputs.foreign()) == set(foreign)
    assert foreign
