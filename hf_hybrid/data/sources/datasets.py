"""`datasets.Dataset` with a `language` column, or a mapping from language to `Dataset`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from hf_hybrid.data.corpus import ParallelCorpus
from hf_hybrid.data.languages import check_language, choose_languages, unique_languages

from .build import build_once
from .items import StrPath, build_items
from .rows import BadRows, Rows, dataset_rows

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


def from_dataset(
    dataset: Dataset | DatasetDict | Mapping[str, Dataset],
    languages: Sequence[str] | None = None,
    on_bad_row: str = "refuse",
    cache_dir: StrPath | None = None,
) -> ParallelCorpus:
    """A `datasets.Dataset` with a `language` column, or a mapping (a `DatasetDict`) from language to `Dataset`.

    The columns are those of JSONL. The same content gives the same fingerprint as from files.

    Example:

        >>> import tempfile
        >>> from datasets import Dataset
        >>> columns = {"language": ["en", "de"], "id": [1, 1], "query": ["Who?", "Wer?"], "passage": ["A.", "B."]}
        >>> from_dataset(Dataset.from_dict(columns), cache_dir=tempfile.mkdtemp()).num_pairs("de", "en")
        1
    """
    if isinstance(dataset, Mapping):
        parts: dict[str, tuple[Dataset, str | None]] = {language: (part, None) for language, part in dataset.items()}
    elif "language" in dataset.column_names:
        parts = {str(language): (dataset, language) for language in dataset.unique("language")}
    else:
        raise ValueError(
            f"The data set has the columns {', '.join(dataset.column_names)}; add a column `language`, or give a "
            "mapping from language to data set."
        )
    unique_languages({f"data set {code!r}": check_language(code, f"data set {code!r}") for code in parts})
    parts = choose_languages(parts, languages, "the data set")

    def rows(language: str, bad: BadRows) -> Rows:
        return dataset_rows(parts[language][0], f"data set {language!r}", parts[language][1])

    build = partial(build_items, sources={language: partial(rows, language) for language in parts})
    # the key by which `datasets` itself tells its caches apart
    key = [[language, part._fingerprint] for language, (part, _) in parts.items()]
    return build_once(build, {"format": "dataset"}, key, on_bad_row, cache_dir)
