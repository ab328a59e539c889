"""Output folders: a recipe replaces and deletes only files that it wrote.

Each output folder has a list, `outputs.jsonl`, of the files that recipes wrote there. Everything else is *foreign*:
it stays, and a recipe that needs its name is refused. `output_list.py` has the format.

A file is listed before it is written, so a kill never leaves a file that nobody owns. Where a listed file is itself
an `outputs.jsonl`, its folder is a nested output folder, with a list of its own: the trials of a study.
The list is local bookkeeping: no push publishes it, and no copy of a folder has it. Only the folders in model_cards/
keep theirs in git.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from hf_hybrid.utils.files import (
    delete_empty_folders,
    delete_folder,
    files_in,
    folders_above,
    replace_folder,
    replacing,
    sha256,
    unlink_files,
)
from hf_hybrid.utils.strict_json import read_json

from .output_list import OutputList, relative_name
from .schema import MANIFEST_NAME, OUTPUTS_NAME

# A file that tells what a folder holds. Of several the first one decides, since runs have an eval.json too.
_MARKERS = {"study.json": "study", "run.json": "run", "eval.json": "evaluation"}
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
_LANGUAGE_FILE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)*\.jsonl")
_MOST_NAMED = 3


class OutputFolder:
    """The files that recipes wrote to a folder, and the only way in which they write and delete there.

    Args:
        path (`str` or `Path`): The folder. It is made when the first file is listed.
        option (`str`, *optional*, defaults to `"output_dir"`): The option that names the folder, for messages.

    Example:

        >>> import tempfile
        >>> folder = OutputFolder(tempfile.mkdtemp())
        >>> with folder.writing("model/config.json") as unfinished:
        ...    _ = unfinished.write_text("{}")
        >>> _ = (folder.path / "model" / "mine.txt").write_text("mine")
        >>> folder.delete("model")
        >>> [path.name for path in (folder.path / "model").iterdir()]
        ['mine.txt']
    """

    def __init__(self, path: str | os.PathLike[str], option: str = "output_dir") -> None:
        self.path, self.option = Path(path), option
        self._list, self._prefix = OutputList(self.path), ""

    @classmethod
    def of(cls, folder: str | os.PathLike[str] | OutputFolder) -> OutputFolder:
        """Return the output folder itself, or that of a path."""
        return folder if isinstance(folder, OutputFolder) else cls(folder)

    def __fspath__(self) -> str:
        return str(self.path)

    def subfolder(self, name: str) -> OutputFolder:
        """Return a folder within this one, whose files stand in the same list."""
        view = OutputFolder(self.path / name, self.option)
        view._list, view._prefix = self._list, f"{self._full(name)}/"
        return view

    def open_nested(self, name: str) -> OutputFolder:
        """Return a folder within this one that has a list of its own, such as the run folder of a trial."""
        self.claim(f"{name}/{OUTPUTS_NAME}")
        return OutputFolder(self.path / name, self.option)

    # What is there

    @property
    def output_type(self) -> str | None:
        """Type of output: `run`, `evaluation`, `study`, `model card`, `model`, `corpus`; `None` if none."""
        self._list.refresh()
        return self._list.output_type or _type_of_files(self.path)

    def lists(self, name: str) -> bool:
        """Return whether a recipe wrote the file, or was about to."""
        self._list.refresh()
        return self._full(name) in self._list.files

    def list_files(self, *names: str) -> list[str]:
        """Return the listed files among `names` and in folders of these names; `""` stands for all."""
        self._list.refresh()
        wanted = [self._full(name) for name in names]
        found = self._list.files
        if not all(wanted):
            return [name.removeprefix(self._prefix) for name in found]
        folders = tuple(f"{name}/" for name in wanted)
        chosen = [name for name in found if name in wanted or name.startswith(folders)]
        return [name.removeprefix(self._prefix) for name in chosen]

    def foreign(self, name: str = "") -> list[str]:
        """Return the files in a folder that no recipe wrote; links to folders are files here."""
        found = [f"{name}/{file}" if name else file for file in files_in(self.path / name)]
        self._list.refresh()
        return [file for file in found if self._full(file) not in self._list.files and file != OUTPUTS_NAME]

    def find_taken(self, *names: str) -> list[str]:
        """Return those names that cannot be written, as something that no recipe wrote is in their place."""
        found: dict[str, None] = {}
        for name in names:
            place = self.path / name
            above = next((part for part in folders_above(name) if not _may_be_folder(self.path / part)), None)
            if above is not None:
                found[above] = None
            elif os.path.lexists(place) and not self.lists(name):  # in this order: others list before they write
                found[name] = None
        return [*found]

    def check(self, *names: str) -> None:
        """Raise a ValueError where one of these files is there and no recipe wrote it; nothing changes."""
        taken = self.find_taken(*names)
        if not taken:
            return
        shown = ", ".join(taken[:_MOST_NAMED])
        more = f" and {len(taken) - _MOST_NAMED} more" if len(taken) > _MOST_NAMED else ""
        it = "it" if len(taken) == 1 else "them"
        reason = f"no recipe wrote {it}: {OUTPUTS_NAME} does not list {it}"
        if not self._list.exists() and self.output_type in _MARKERS.values():
            reason = f"an earlier release, which kept no {OUTPUTS_NAME}, may have written {it}"
        raise ValueError(
            f"{self.path} holds {shown}{more}, and {reason}. Move {it} away, or choose another {self.option}."
        )

    def begin(self, output_type: str, *names: str) -> None:
        """Check the folder for a new output and note what it holds; to be called before any work is done.

        Args:
            output_type (`str`): `run`, `evaluation`, `study` or `model card`.
            *names (`str`): The files that will be written, as far as they are known.

        Raises:
            ValueError: When the folder holds another type of output, an output without a list, or a foreign file
                of one of these names.
        """
        self.check_type(output_type)
        self.check(*names)
        if self._list.output_type != output_type:
            self._list.append([{"type": output_type}])

    def check_type(self, output_type: str) -> None:
        """Raise a ValueError where the folder holds another type of output, or an output without a list."""
        if (found := self.output_type) not in (None, output_type):
            raise ValueError(
                f"{self.path} holds {_with_article(str(found))}, and this command writes {_with_article(output_type)}"
                f". Choose another {self.option}."
            )
        if found is not None and not self._list.exists():
            raise ValueError(self._without_list(found))

    def _without_list(self, output_type: str) -> str:
        return (
            f"{self.path} holds {_with_article(output_type)} without a list of its files ({OUTPUTS_NAME}): an earlier "
            f"release of hf_hybrid wrote it, or it is a copy. None of its files is replaced. Choose another "
            f"{self.option}, or delete the folder yourself."
        )

    # Writing

    def claim(self, *names: str) -> None:
        """List files that are about to be written.

        Raises:
            ValueError: When one of them is there and no recipe wrote it.
        """
        self.check(*names)
        self.note(*names)

    def note(self, *names: str) -> None:
        """List files of a copy that this process made: nothing in it is foreign."""
        self._list.refresh()
        full = dict.fromkeys(map(self._full, names))
        if new := [{"file": name} for name in full if name not in self._list.files]:
            self._list.append(new)

    @contextmanager
    def writing(self, name: str, durable: bool = True, sealed: bool = False) -> Iterator[Path]:
        """List a file and write it as `files.replacing` does."""
        self.claim(name, *([f"{name}.seal"] if sealed else []))
        with replacing(self.path / name, durable, sealed) as unfinished:
            yield unfinished

    def write(self, name: str, content: bytes) -> None:
        """List a file with the hash of its content, for `is_unchanged`, and write it."""
        self.check(name)
        self._list.append([{"file": self._full(name), "sha256": hashlib.sha256(content).hexdigest()}])
        with replacing(self.path / name) as unfinished:
            unfinished.write_bytes(content)

    def is_unchanged(self, name: str) -> bool:
        """Return whether a file has a content that `write` gave it, so that no person edited it."""
        self._list.refresh()
        return sha256(self.path / name) in self._list.files.get(self._full(name), ())

    def put_folder(self, unfinished: Path, name: str = "") -> None:
        """Put a folder that was written aside in place; foreign files of the one that it replaces stay.

        Without such files the folder is replaced at once. With them it is replaced file by file, so that a kill
        cannot take them away: it then has a manifest that does not match, and is not taken for whole.

        Args:
            unfinished (`Path`): The folder, on the same file system.
            name (`str`, *optional*): Its name; by default its files are put into this folder itself.

        Raises:
            ValueError: When a foreign file has the name of a new one; nothing was changed.
        """
        prefix = f"{name}/" if name else ""
        new = [f"{prefix}{file}" for file in files_in(unfinished)]
        if (self.path / name).is_symlink() and name:
            raise ValueError(f"{self.path / name} is a link, and a folder is to be written there. Remove the link.")
        old = self.list_files(name)
        self.claim(*new)
        if name and not self.foreign(name):
            replace_folder(unfinished, self.path / name)
        else:
            put_files(unfinished, self.path / name, [file.removeprefix(prefix) for file in old])
        self._note_deleted(set(old) - set(new))

    # Deleting

    def delete(self, *names: str) -> None:
        """Delete the listed files among `names` and in folders of these names, and folders that are empty then."""
        found = self.list_files(*filter(None, names))
        self._delete(found, [name for name in names if name])

    def delete_all(self, keep: Sequence[str] = ()) -> None:
        """Delete all listed files but those to `keep`, and folders that are empty then."""
        self._delete([name for name in self.list_files("") if name not in keep])

    def _delete(self, found: Sequence[str], folders: Sequence[str] = ()) -> None:
        for name in found:
            if PurePosixPath(name).name == OUTPUTS_NAME:
                OutputFolder((self.path / name).parent).delete_all()
        for name in folders:
            if self._is_ours_alone(name):
                delete_folder(self.path / name)
        unlink_files(self.path, sorted(found, key=_order_of_deletion))
        self._note_deleted(found)
        self._list.remove_if_empty()

    def move_folder(self, name: str, new_name: str) -> None:
        """Rename a folder of which a recipe wrote files; foreign files stay where they are."""
        listed = [file for file in self.list_files(name) if os.path.lexists(self.path / file)]
        moved = {file: f"{new_name}{file.removeprefix(name)}" for file in listed}
        self.delete(new_name)
        self.claim(*moved.values())
        if self._is_ours_alone(name) and not (self.path / new_name).exists():
            os.replace(self.path / name, self.path / new_name)
        else:
            for file in sorted(moved, key=_order_of_deletion):
                (self.path / moved[file]).parent.mkdir(parents=True, exist_ok=True)
                os.replace(self.path / file, self.path / moved[file])
            delete_empty_folders(self.path, listed)
        self._note_deleted(self.list_files(name))

    def _is_ours_alone(self, name: str) -> bool:
        path = self.path / name
        return path.is_dir() and not path.is_symlink() and not self.foreign(name)

    def _note_deleted(self, names: Iterable[str]) -> None:
        if lines := [{"deleted": self._full(name)} for name in names]:
            self._list.append(lines)

    def _full(self, name: str) -> str:
        return f"{self._prefix}{relative_name(name)}" if name else self._prefix.rstrip("/")


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return in words what is another one, with both values.

    Example:

        >>> differences({"mix": "mono=1", "seed": 1}, {"mix": "pool=1", "seed": 1})
        ["mix was 'mono=1' and is 'pool=1'"]
    """
    names = [name for name in {**now, **then} if then.get(name) != now.get(name)]
    return [f"{name} was {then.get(name)!r} and is {now.get(name)!r}" for name in names]


def put_files(unfinished: Path, path: Path, old: Iterable[str]) -> None:
    """Move the files of a folder into another one, and delete `old` ones of which there is no new one.

    Until all is done a manifest lists the old files and the new ones, so the folder does not pass for whole.

    Args:
        unfinished (`Path`): The folder with the new files; it is deleted.
        path (`Path`): Where they go.
        old (`Iterable[str]`): Files there that may be deleted.
    """
    old, new = list(old), files_in(unfinished)
    if MANIFEST_NAME in new and MANIFEST_NAME in old:
        _join_manifests(path / MANIFEST_NAME, unfinished / MANIFEST_NAME)
    for place, _, _ in os.walk(unfinished):  # empty ones too, as models have them
        (path / Path(place).relative_to(unfinished)).mkdir(parents=True, exist_ok=True)
    for name in sorted(new, key=lambda name: (name == MANIFEST_NAME, name == "config.json", name)):
        if name == MANIFEST_NAME:
            unlink_files(path, sorted(set(old) - set(new)))
        os.replace(unfinished / name, path / name)
    unlink_files(path, sorted(set(old) - set(new)))
    shutil.rmtree(unfinished)


def _join_manifests(path: Path, other: Path) -> None:
    """Replace a manifest by one that lists the files of another one too; delete it where it lists none."""
    try:
        old, new = read_json(path), read_json(other)
        joined = {**new, "files": {**old["files"], **new["files"]}}
    except (OSError, ValueError, KeyError, TypeError):
        path.unlink(missing_ok=True)
        return
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(joined, indent=2) + "\n", encoding="utf-8")


def _order_of_deletion(name: str) -> tuple[bool, bool, str]:
    """Manifests first: what is not whole must not pass for it. Last what tells that there is an output."""
    return name in _MARKERS, PurePosixPath(name).name != MANIFEST_NAME, name


def _may_be_folder(path: Path) -> bool:
    return path.is_dir() or not os.path.lexists(path)


def _type_of_files(path: Path) -> str | None:
    for name, output_type in _MARKERS.items():
        if (path / name).is_file():
            return output_type

    def there(name: str) -> bool:
        return (path / name).is_file()

    if there("config.json") and any(map(there, _WEIGHTS)):
        return "model"
    if (there("rows.npy") and there("corpus.json")) or (there("corpus.jsonl") and there("queries.jsonl")):
        return "corpus"
    names = os.listdir(path) if path.is_dir() else []
    return "corpus" if any(map(_LANGUAGE_FILE.fullmatch, names)) else None


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
