"""Many small text files in one Parquet file, such as the records of all trials of a study.

| column | content |
|---|---|
| `file` | path of a file, relative and with `/` |
| `content` | its text |

Files of one name follow each other, so that compression finds what they repeat. Only its functions need pyarrow.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

TRIALS_NAME = "trials.parquet"  # the records of all trials of a study
_PAGE_BYTES = 64 * 2**20  # one page: similar files are compressed together
_LEVEL = 22  # of zstd


class DamagedArchive(ValueError):
    """Raised when an archive cannot be read."""


def write_archive(path: Path, files: Mapping[str, str]) -> None:
    """Write texts by their paths to a Parquet file. Equal texts give equal bytes.

    Args:
        path (`Path`): The file.
        files (`Mapping[str, str]`): Text of each file by its relative path.

    Example:

        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "trials.parquet"
        >>> write_archive(path, {"trials/b/run.json": "{}", "trials/a/run.json": "[]"})
        >>> read_archive(path)
        {'trials/a/run.json': '[]', 'trials/b/run.json': '{}'}
    """
    import pyarrow as pa
    import pyarrow.parquet

    names = sorted(files, key=lambda name: (PurePosixPath(name).name, name))
    table = pa.table(
        {"file": pa.array(names, pa.string()), "content": pa.array([files[n] for n in names], pa.string())}
    )
    pa.parquet.write_table(
        table, path, compression="zstd", compression_level=_LEVEL, use_dictionary=False, data_page_size=_PAGE_BYTES
    )


def read_archive(path: Path) -> dict[str, str]:
    """Read what `write_archive` wrote.

    Raises:
        DamagedArchive: When the file is damaged, has other columns, or names a path outside of its folder.
    """
    import pyarrow as pa
    import pyarrow.parquet

    try:
        table = pa.parquet.read_table(path, columns=["file", "content"])
    except (pa.ArrowException, KeyError, OSError) as error:
        raise DamagedArchive(f"{path} cannot be read: {error}") from None
    names, texts = table["file"].to_pylist(), table["content"].to_pylist()
    for name in names:
        if not isinstance(name, str) or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise DamagedArchive(f"{path} names {name!r}, which is not a path within its folder.")
    return dict(zip(names, texts, strict=True))


@contextmanager
def open_trials(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Provide a folder with the records of the trials of a study.

    Args:
        folder (`str` or `Path`): A study, or a copy of one with `TRIALS_NAME`.

    Yields:
        `Path`: `folder` itself, or a temporary folder with the unpacked files of a copy.
    """
    path = Path(folder) / TRIALS_NAME
    if not path.is_file():
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory() as place:
        for name, text in read_archive(path).items():
            target = Path(place, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        yield Path(place)
