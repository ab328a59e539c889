"""The built-in sample corpus: what it holds, that every run builds the same, and that its sentences are whole."""

from __future__ import annotations

import hashlib
import json
import os
import re
import string
import subprocess
import sys
import time
import unicodedata
from collections import Counter
from pathlib import Path

import babel
import pytest
from huggingface_hub.constants import HF_HOME

import hf_hybrid
from hf_hybrid.data.sources.sample import LANGUAGES, build_sample_corpus, sample_rows, sample_templates
from hf_hybrid.utils.files import cache_folder

SCRIPTS = {
    "LATIN": {"en", "de", "es", "fr", "tr", "pt", "it", "nl"},
    "CYRILLIC": {"ru", "uk"},
    "ARABIC": {"ar"},
    "HEBREW": {"he"},
    "DEVANAGARI": {"hi"},
    "CJK": {"zh"},
    "HIRAGANA": {"ja"},
    "HANGUL": {"ko"},
    "GREEK": {"el"},
    "THAI": {"th"},
}
ITEMS_PER_RELATION = {
    "first_weekday": 137,
    "official_languages": 137,
    "territory_code": 137,
    "weekend": 135,
    "currency": 132,
    "currency_since": 132,
    "zone_city": 115,
    "main_language": 113,
    "time_zone": 111,
    "currency_code": 108,
    "decimals": 108,
    "endonym": 89,
    "language_code": 89,
    "script": 89,
    "month_after": 12,
    "weekday_after": 7,
}
DIGEST = "0ef76cd092f2671e32dd0cd68c14db1c619e289717ba97b9802864864896c693"
BABEL = "2.18.0"  # the release that DIGEST is of, pinned in constraints.txt
DIGEST_COMMAND = """
import hashlib, json, sys
from hf_hybrid.data.sources.sample import LANGUAGES, sample_rows
rows = {language: sample_rows(language) for language in sys.argv[1].split()}
text = json.dumps([rows[language] for language in LANGUAGES], ensure_ascii=False)
print(hashlib.sha256(text.encode()).hexdigest(), "torch" in sys.modules)
"""


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, dict[str, str]]]:
    """Language -> item id -> row."""
    return {language: {row["id"]: row for row in sample_rows(language)} for language in LANGUAGES}


def gaps(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}


def words(template: str) -> set[str]:
    """Words of a template, without particles of one letter; where words are not divided, pairs of letters."""
    text = re.sub(r"\{\w+\}", " ", template).lower()
    letters = "".join(char if unicodedata.category(char)[0] in "LMN" else " " for char in text)
    if any(unicodedata.name(char).split()[0] in ("CJK", "HIRAGANA", "KATAKANA", "THAI") for char in letters.strip()):
        return {word[i : i + 2] for word in letters.split() for i in range(len(word) - 1)}
    return {word for word in letters.split() if len(word) > 1}


def script(text: str) -> str:
    names = Counter(unicodedata.name(char).split()[0] for char in text if char.isalpha())
    # Japanese is known by its kana, whatever part of a sentence they are
    return "HIRAGANA" if "HIRAGANA" in names else names.most_common(1)[0][0]


def test_languages_and_scripts() -> None:
    assert len(LANGUAGES) == len(set(LANGUAGES)) >= 16
    assert set(sample_templates()) == set(LANGUAGES)
    found = {
        language: script("".join(query for query, _ in sample_templates()[language].values()))
        for language in LANGUAGES
    }
    assert found == {language: name for name, languages in SCRIPTS.items() for language in languages}
    assert len({found[language] for language in LANGUAGES[:8]}) >= 6


def test_items_per_relation(rows: dict[str, dict[str, dict[str, str]]]) -> None:
    items = set().union(*rows.values())
    assert Counter(item.split("/")[0] for item in items) == ITEMS_PER_RELATION
    assert len(items) >= 700
    for language in LANGUAGES:
        assert len(rows[language]) >= len(items) - 3, f"{language} lacks {items - set(rows[language])}"


def test_names_are_in_the_language(rows: dict[str, dict[str, dict[str, str]]]) -> None:
    assert "Шри-Ланка" in rows["ru"]["currency/LK"]["query"]
    # babel shares these between locales by mistake unless they are read where each has its own
    assert rows["hi"]["month_after/3"]["passage"] == "मार्च समाप्त होते ही अप्रैल शुरू होता है।"
    assert rows["ru"]["month_after/3"]["passage"] == "Кончается март – наступает апрель."
    assert rows["en"]["month_after/12"]["passage"] == "When December is over, January begins."
    # zones that CLDR knows by an older id
    assert "Калькутта" in rows["ru"]["zone_city/IN"]["passage"]
    for language in ("ru", "uk", "ar", "he", "hi", "ja", "zh", "ko", "el", "th"):
        untranslated = {"month_after", "weekday_after", "first_weekday", "weekend", "zone_city", "official_languages"}
        for item, row in rows[language].items():
            if item.split("/")[0] in untranslated:
                assert not re.search("[A-Za-z]", row["query"] + row["passage"]), row


def test_texts_are_clean(rows: dict[str, dict[str, dict[str, str]]]) -> None:
    for row in (row for language in LANGUAGES for row in rows[language].values()):
        text = row["query"] + row["passage"]
        assert text == unicodedata.normalize("NFC", text)
        assert not re.search(r"[{}]|  |None", text), row
        # a joiner is a letter's form in Hindi; nothing else that is invisible may be there
        odd = {char for char in text if unicodedata.category(char) in ("Cc", "Cf", "Co", "Cn") and char != "\u200d"}
        assert not odd, row
        assert not {char for char in text if char.isspace()} - {" "}, row


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_is_one_item(rows: dict[str, dict[str, dict[str, str]]], language: str) -> None:
    for side in ("query", "passage"):
        texts = Counter(row[side] for row in rows[language].values())
        assert texts.most_common(1)[0][1] == 1, texts.most_common(1)


@pytest.mark.parametrize("language", LANGUAGES)
def test_templates(language: str) -> None:
    reference = sample_templates()["en"]
    assert list(sample_templates()[language]) == list(reference)
    for relation, (query, passage) in sample_templates()[language].items():
        assert gaps(query) == gaps(reference[relation][0]), relation
        assert gaps(passage) == gaps(reference[relation][1]), relation
        assert gaps(query) < gaps(passage), f"{relation}: the passage must name the subject and answer"


@pytest.mark.parametrize("language", LANGUAGES)
def test_passages_are_worded_otherwise(language: str) -> None:
    for relation, (query, passage) in sample_templates()[language].items():
        shared = words(query) & words(passage)
        assert len(shared) <= 0.3 * min(len(words(query)), len(words(passage))), (relation, shared)


@pytest.mark.slow
def test_same_rows_in_every_process() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    outputs = [
        subprocess.run(
            [sys.executable, "-c", DIGEST_COMMAND, " ".join(order)],
            env={**environment, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        # names must not depend on which language asks first
        for seed, order in (("1", LANGUAGES), ("2", LANGUAGES[::-1]))
    ]
    assert outputs[0] == outputs[1]
    digest, has_torch = outputs[0]
    assert has_torch == "False"
    if babel.__version__ == BABEL:
        assert digest == DIGEST


def test_digest_sees_the_rows(rows: dict[str, dict[str, dict[str, str]]]) -> None:
    text = json.dumps([list(rows[language].values()) for language in LANGUAGES], ensure_ascii=False)
    if babel.__version__ == BABEL:
        assert hashlib.sha256(text.encode()).hexdigest() == DIGEST
    assert hashlib.sha256(text.replace("Japan", "Japon", 1).encode()).hexdigest() != DIGEST


def test_build(tmp_path: Path, rows: dict[str, dict[str, dict[str, str]]]) -> None:
    start = time.perf_counter()
    corpus = build_sample_corpus(tmp_path)
    assert time.perf_counter() - start < 5
    assert corpus.languages == LANGUAGES
    assert len(set(corpus.groups.tolist())) == len(corpus) == len(set().union(*rows.values()))
    assert corpus.report == {}
    built = next(tmp_path.iterdir())
    changed = built.stat().st_mtime_ns
    again = build_sample_corpus(tmp_path, languages=["th", "en"])
    assert built.stat().st_mtime_ns == changed
    assert again.languages == ("th", "en")
    assert again.base_fingerprint == corpus.fingerprint
    assert corpus.fingerprint == build_sample_corpus(tmp_path / "elsewhere").fingerprint


def test_rows_of_the_corpus_are_aligned(tmp_path: Path, rows: dict[str, dict[str, dict[str, str]]]) -> None:
    corpus = build_sample_corpus(tmp_path)
    for item in (0, 700, len(corpus) - 1):
        for column, language in enumerate(LANGUAGES):
            query, passage = corpus.rows[item, column]
            expected = rows[language][corpus.item_ids[item]]
            assert corpus.text(corpus.QUERY, language, query) == expected["query"]
            assert corpus.text(corpus.PASSAGE, language, passage) == expected["passage"]


def test_held_out_subjects_are_known_from_training(tmp_path: Path) -> None:
    train, held_out = build_sample_corpus(tmp_path, languages=LANGUAGES[:8]).split(100)
    assert len(held_out) == 100
    # a month or a day is the subject of one item only, and the answer of another
    named = [item.split("/")[1] for item in held_out.item_ids if not item.startswith(("month_", "weekday_"))]
    assert len(named) > 90
    assert set(named) <= {item.split("/")[1] for item in train.item_ids}
    assert not set(held_out.item_ids) & set(train.item_ids)


def test_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HYBRID_CACHE", str(tmp_path))
    build_sample_corpus(languages=["en"])
    assert [path.name.split("-")[0] for path in tmp_path.iterdir()] == ["sample"]


def test_there_is_one_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set to nothing is not set; a module that has worked it out for itself would take the working directory."""
    monkeypatch.setenv("HF_HYBRID_CACHE", "")
    assert cache_folder() == Path(HF_HOME, "hf_hybrid").expanduser()
    monkeypatch.setenv("HF_HYBRID_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    assert cache_folder("~") == Path.home()
    sources = [path.read_text() for path in Path(hf_hybrid.__file__).parent.rglob("*.py")]
    assert sum('get("HF_HYBRID_CACHE"' in text for text in sources) == 1


def test_unknown_language(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no language 'xx'; it has en, de"):
        sample_rows("xx")
    with pytest.raises(ValueError, match="no language 'xx'"):
        build_sample_corpus(tmp_path, languages=["en", "xx"])
