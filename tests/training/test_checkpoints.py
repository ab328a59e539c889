"""A checkpoint is whole or it is not there: kills, full disks and damaged files."""

from __future__ import annotations

import errno
import gc
import json
import os
import shutil
import subprocess
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.numpy import save_file

from hf_hybrid.records.schema import MANIFEST_NAME, OUTPUTS_NAME
from hf_hybrid.training.checkpoints import checkpoints, find_damage, newest_whole, rotate, write_folder, write_manifest
from hf_hybrid.utils.files import UNFINISHED, delete_folder, delete_unfinished, replacing

FILES = {"model.safetensors": b"w" * 3000, "optimizer.pt": b"m" * 70, "1_Pooling/config.json": b"{}"}


def write(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def fill(path: Path, save: Callable[[Path], Any], needed_bytes: int = 0) -> None:
    write_folder(path, [save], writes=True, needed_bytes=needed_bytes)


def checkpoint(run: Path, step: int) -> Path:
    fill(run / f"checkpoint-{step}", write)
    return run / f"checkpoint-{step}"


def names(folder: Path) -> list[str]:
    """Of what is in a folder, but for the list of what was written."""
    return sorted(path.name for path in folder.iterdir() if path.name != OUTPUTS_NAME)


def flip(path: Path) -> None:
    """One bit of the last byte, the size as it was."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty_manifest(path: Path) -> None:
    path.write_text('{"format": {}, "files": []}')


class TestManifest:
    def test_a_folder_as_it_was_written_is_whole(self, tmp_path: Path) -> None:
        folder = checkpoint(tmp_path, 1)
        listed = json.loads((folder / MANIFEST_NAME).read_text())["files"]
        assert {name: entry["bytes"] for name, entry in listed.items()} == {k: len(v) for k, v in FILES.items()}
        (folder / "note.txt").write_text("put there by a user")
        assert find_damage(folder) is None

    @pytest.mark.parametrize(
        ("name", "harm", "words"),
        [
            ("model.safetensors", cut, "model.safetensors has 2999 bytes instead of 3000"),
            ("model.safetensors", flip, "model.safetensors was altered"),
            ("1_Pooling/config.json", Path.unlink, "1_Pooling/config.json is missing"),
            (MANIFEST_NAME, cut, None),
            (MANIFEST_NAME, Path.unlink, "manifest.json cannot be read (FileNotFoundError"),
            (MANIFEST_NAME, empty_manifest, "manifest.json cannot be read (ValueError"),
        ],
    )
    def test_damage_is_named(self, name: str, harm: Callable[[Path], None], words: str | None, tmp_path: Path) -> None:
        folder = checkpoint(tmp_path, 1)
        harm(folder / name)
        if words is None:  # the last byte is a newline: nothing is lost
            assert find_damage(folder) is None
            cut(folder / name)
            words = "manifest.json cannot be read (ValueError"
        assert (find_damage(folder) or "").startswith(words)

    def test_an_altered_digest_is_found_too(self, tmp_path: Path) -> None:
        manifest = checkpoint(tmp_path, 1) / MANIFEST_NAME
        content = json.loads(manifest.read_text())
        content["files"]["optimizer.pt"]["sha256"] = "0" * 64
        manifest.write_text(json.dumps(content))
        assert (find_damage(manifest.parent) or "").startswith("optimizer.pt was altered")


class TestNewest:
    def test_damaged_ones_are_named_and_left_out(self, tmp_path: Path) -> None:
        for step in (9, 10, 11, 100):
            checkpoint(tmp_path, step)
        (tmp_path / "checkpoint-500").write_text("no folder")
        (tmp_path / "checkpoint-best").mkdir()
        flip(tmp_path / "checkpoint-100" / "optimizer.pt")
        cut(tmp_path / "checkpoint-11" / "model.safetensors")
        told: list[str] = []
        assert newest_whole(tmp_path, told.append) == tmp_path / "checkpoint-10"
        assert [text.split(":")[0] for text in told] == [
            f"{tmp_path}/checkpoint-{step} is damaged and is skipped, as damaged-checkpoint-{step}"
            for step in (100, 11)
        ]
        assert [path.name for path in checkpoints(tmp_path)] == [f"checkpoint-{step}" for step in (10, 9)]
        assert (tmp_path / "damaged-checkpoint-11" / "model.safetensors").exists()

    def test_there_may_be_none(self, tmp_path: Path) -> None:
        told: list[str] = []
        assert newest_whole(tmp_path / "nowhere", told.append) is None
        shutil.rmtree(checkpoint(tmp_path, 3) / "1_Pooling")
        assert newest_whole(tmp_path, told.append) is None
        assert "1_Pooling/config.json is missing" in "".join(told)


class TestRotation:
    @pytest.mark.parametrize(
        ("limit", "kept", "stay"),
        [
            (2, [40], [30, 40]),
            (2, [40, 10], [10, 40]),
            (1, [40, 10], [10, 40]),
            (3, [40, 40], [20, 30, 40]),
            (1, [20], [20]),  # it was just written, and the later ones are damaged
            (None, [40], [10, 20, 30, 40]),
            (0, [40], [10, 20, 30, 40]),
        ],
    )
    def test_the_one_just_written_the_best_and_the_newest_stay(
        self, limit: int | None, kept: list[int], stay: list[int], tmp_path: Path
    ) -> None:
        for step in (10, 20, 30, 40):
            checkpoint(tmp_path, step)
        rotate(tmp_path, limit, [*(tmp_path / f"checkpoint-{step}" for step in kept), None, tmp_path / "elsewhere"])
        assert names(tmp_path) == [f"checkpoint-{step}" for step in stay]


class TestKills:
    def test_nothing_is_under_the_name_before_all_is_written(self, tmp_path: Path) -> None:
        before = checkpoint(tmp_path, 1)

        def killed(folder: Path) -> None:
            write(folder)
            assert checkpoints(tmp_path) == [before]
            raise KeyboardInterrupt  # as a kill, it leaves no time to clean up

        with pytest.raises(KeyboardInterrupt):
            fill(tmp_path / "checkpoint-2", killed)
        assert names(tmp_path) == [f"{UNFINISHED}checkpoint-2", "checkpoint-1"]
        assert delete_unfinished(tmp_path, older_than_s=0.0) == 1
        assert names(tmp_path) == ["checkpoint-1"]
        assert find_damage(before) is None

    def test_the_next_writer_begins_with_an_empty_folder(self, tmp_path: Path) -> None:
        write(tmp_path / f"{UNFINISHED}checkpoint-2", {"stale.pt": b"old"})
        assert "stale.pt" not in names(checkpoint(tmp_path, 2))

    def test_a_checkpoint_of_the_same_step_is_replaced(self, tmp_path: Path) -> None:
        fill(tmp_path / "checkpoint-2", lambda folder: write(folder, {"optimizer.pt": b"damaged", "old": b""}))
        assert find_damage(checkpoint(tmp_path, 2)) is None
        assert "old" not in names(tmp_path / "checkpoint-2")
        assert names(tmp_path) == ["checkpoint-2"]

    def test_a_folder_that_is_being_deleted_has_lost_its_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = checkpoint(tmp_path, 2)

        def kill(path: Path) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(shutil, "rmtree", kill)
        with pytest.raises(KeyboardInterrupt):
            delete_folder(folder)
        assert checkpoints(tmp_path) == []
        assert [name.startswith(UNFINISHED) for name in names(tmp_path)] == [True]


class TestUnfinished:
    def test_what_may_be_in_use_is_left(self, tmp_path: Path) -> None:
        old, new = tmp_path / f"{UNFINISHED}old", tmp_path / f"{UNFINISHED}new"
        for folder in (old, new):
            write(folder)
        (tmp_path / f"{UNFINISHED}old.json").write_text("{}")
        (tmp_path / "kept.json").write_text("{}")
        a_day_ago = time.time() - 86_500
        for path in (old, tmp_path / f"{UNFINISHED}old.json", tmp_path / "kept.json"):
            os.utime(path, (a_day_ago, a_day_ago))
        assert delete_unfinished(tmp_path) == 2
        assert names(tmp_path) == [f"{UNFINISHED}new", "kept.json"]

    def test_two_writers_of_one_file_do_not_meet(self, tmp_path: Path) -> None:
        path = tmp_path / "scores.json"
        with replacing(path) as first, replacing(path) as second:
            assert first != second
            assert {first.suffix, second.suffix} == {".json"}
            first.write_text("first")
            second.write_text("second")
        assert path.read_text() == "first"  # the last to end
        assert names(tmp_path) == ["scores.json"]

    def test_an_error_leaves_the_file_of_before(self, tmp_path: Path) -> None:
        (tmp_path / "scores.json").write_text("old")
        with pytest.raises(TypeError), replacing(tmp_path / "scores.json") as unfinished:
            unfinished.write_text(1)  # type: ignore[arg-type]
        assert (tmp_path / "scores.json").read_text() == "old"
        assert names(tmp_path) == ["scores.json"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB, where the tests may make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def save_with_torch(folder: Path) -> None:
    torch.save({"moments": torch.zeros(2**20)}, folder / "optimizer.pt")


def save_with_safetensors(folder: Path) -> None:
    save_file({"weights": np.zeros(2**20, np.float32)}, folder / "model.safetensors")


def save_with_python(folder: Path) -> None:
    (folder / "state.json").write_text(" " * 2**22)


class TestFullDisk:
    @pytest.mark.parametrize("save", [save_with_torch, save_with_safetensors, save_with_python])
    def test_a_disk_that_fills_up(self, save: Callable[[Path], None], small_disk: Path) -> None:
        """The writers of a checkpoint each tell of it in their own way."""
        before = checkpoint(small_disk, 1)
        with pytest.raises(
            OSError, match=r"checkpoint-2 could not be written: it does not fit and [\d.]+ (bytes|KiB|MiB)"
        ) as caught:
            fill(small_disk / "checkpoint-2", save)
        assert caught.value.errno == errno.ENOSPC
        assert "Earlier checkpoints are whole" in str(caught.value)
        assert names(small_disk) == ["checkpoint-1"]
        assert find_damage(before) is None
        del caught  # its traceback has torch's file, which is open and takes room
        gc.collect()
        assert find_damage(checkpoint(small_disk, 2)) is None, "there is room for a small one again"

    def test_too_little_room_is_told_beforehand(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        before = checkpoint(tmp_path, 1)
        usage = types.SimpleNamespace(total=2**40, used=2**39, free=3 * 2**29)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        with pytest.raises(OSError, match=r"about 2\.5 GiB are needed and 1\.5 GiB are free") as caught:
            fill(tmp_path / "checkpoint-2", lambda _: pytest.fail("nothing must be written"), 5 * 2**29)
        assert caught.value.errno == errno.ENOSPC
        assert "Make room, or lower save_total_limit, and start the same command again" in str(caught.value)
        assert names(tmp_path) == ["checkpoint-1"]
        assert find_damage(before) is None

    @pytest.mark.parametrize(
        ("error", "number"),
        [
            (OSError(errno.ENOSPC, "No space left on device"), errno.ENOSPC),
            (OSError(errno.EDQUOT, "Disk quota exceeded"), errno.ENOSPC),
            (SafetensorError("I/O error: No space left on device (os error 28)"), errno.ENOSPC),
            (OSError(errno.EIO, "Input/output error"), errno.EIO),
            (RuntimeError("[enforce fail at inline_container.cc:668] . unexpected pos 64 vs 0"), errno.EIO),
        ],
    )
    def test_the_kinds_of_errors(self, error: Exception, number: int, tmp_path: Path) -> None:
        before = checkpoint(tmp_path, 1)

        def fail(folder: Path) -> None:
            write(folder)
            raise error

        with pytest.raises(OSError, match="could not be written") as caught:
            fill(tmp_path / "checkpoint-2", fail)
        assert caught.value.errno == number
        assert repr(error) in str(caught.value)
        assert caught.value.__cause__ is error
        assert "Earlier checkpoints are whole" in str(caught.value)
        assert names(tmp_path) == ["checkpoint-1"]
        assert find_damage(before) is None

    def test_a_manifest_that_does_not_fit_leaves_no_checkpoint(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(folder: Path) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("hf_hybrid.training.checkpoints.write_manifest", full)
        with pytest.raises(OSError, match="No space left"):
            checkpoint(tmp_path, 2)
        assert names(tmp_path) == []


def test_a_manifest_of_before_is_not_listed(tmp_path: Path) -> None:
    folder = write(tmp_path / "model")
    write_manifest(folder)
    (folder / "optimizer.pt").write_bytes(b"new")
    write_manifest(folder)
    assert find_damage(folder) is None
    assert MANIFEST_NAME not in json.loads((folder / MANIFEST_NAME).read_text())["files"]
