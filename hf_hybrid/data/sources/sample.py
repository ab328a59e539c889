"""The built-in sample corpus: questions and answers about countries, languages and money, in 18 languages, 10 scripts.

Nothing is shipped but sentences with gaps (`sample_templates.json`). The facts and the names that fill the gaps come
from Unicode CLDR through `babel`, so the corpus needs no network:

1. `_facts` lists what CLDR says, without a language: the currency of JP is JPY. Such a fact is an item.
2. `_name` says it in one language: Japan and Japanese Yen, 日本 and 日本円.
3. `sample_rows` puts the names into the two sentences of the relation: a query, and a passage worded otherwise.

A name occurs in many items, for there are 16 relations; a held-out item is mostly a new combination of names that were
seen in training. The facts are CLDR's: good for showing retrieval, not for citing.
"""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from functools import cache
from pathlib import Path
from typing import NamedTuple

import babel
from babel import Locale
from babel.core import get_global
from babel.languages import get_official_languages, get_territory_language_info
from babel.lists import format_list
from babel.numbers import get_currency_precision, get_territory_currencies

from hf_hybrid.data.corpus import CorpusBuilder, ParallelCorpus
from hf_hybrid.utils.files import cache_folder

# The first eight cover six scripts; a recipe that wants few languages takes them from the front.
LANGUAGES: tuple[str, ...] = (
    "en", "de", "es", "ru", "ar", "hi", "ja", "zh",
    "fr", "ko", "el", "he", "tr", "pt", "it", "uk", "th", "nl",
)  # fmt: skip

# CLDR codes of the territories that items are about.
TERRITORIES = """
    US CA MX GT HN SV NI CR PA CU DO HT JM CO VE EC PE BO CL AR UY PY BR
    GB IE FR ES PT IT DE AT CH NL BE LU DK NO SE FI IS EE LV LT PL CZ SK HU RO GR CY MT SI HR BA RS ME MK AL UA BY MD
    RU TR GE AM AZ KZ UZ TM KG TJ MN CN JP KR KP TW VN LA KH TH MM MY SG ID PH BN IN PK BD LK NP BT
    AF IR IQ SY LB IL JO SA AE QA KW BH OM YE EG LY TN DZ MA SD
    ET SO KE TZ RW CD CM NG GH CI SN ML ZA NA BW ZW ZM MZ AO MG MU AU NZ FJ
"""

# Codes of the languages that items are about, each with a name for itself in CLDR.
SUBJECT_LANGUAGES = """
    en de fr es it pt nl pl cs sk hu ro bg el tr ru uk be sr hr bs sl mk sq lt lv et fi sv nb da is ga cy eu ca gl mt
    lb ka hy az kk uz ky tg tk mn zh ja ko vi th lo km my id ms fil hi bn ur pa gu mr ta te kn ml si ne fa ps he ar
    am sw ha yo ig zu xh af so mg rw sn wo gn
"""

TEMPLATES = Path(__file__).with_name("sample_templates.json")
AS_OF = date(2025, 1, 1)  # currencies change; without a fixed day the corpus would change with the clock
MIN_PERCENT = 60  # below it, who speaks what best is a matter of the census, not of record
# Left out of names: soft hyphens and controls of direction, which no one types; no-break spaces become plain ones.
INVISIBLE = dict.fromkeys([0x00AD, 0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)])
SPACES = dict.fromkeys([0x00A0, 0x202F], " ")
# `months["stand-alone"]` is the nominative where a language has one. Elsewhere babel has an alias, which it resolves
# once for all locales: whichever language asks first gives its months to the others.
NOMINATIVE_MONTHS = frozenset({"ru", "uk", "el"})


class Fact(NamedTuple):
    """One item before it is said in a language.

    Args:
        relation (`str`): which templates say it.
        subject (`str`): CLDR code of what it is about.
        gaps (`dict[str, str]`): for each gap in the templates, the code whose name fills it, or the text itself.
    """

    relation: str
    subject: str
    gaps: dict[str, str]


def build_sample_corpus(
    cache_dir: str | os.PathLike[str] | None = None, languages: Sequence[str] | None = None
) -> ParallelCorpus:
    """Build the sample corpus, or map it where it was built before.

    Args:
        cache_dir (`str` or `os.PathLike`, *optional*): folder for built corpora; by default `$HF_HYBRID_CACHE`, else
            `hf_hybrid` in the Hugging Face cache.
        languages (`Sequence[str]`, *optional*): which of `LANGUAGES`, in which order; all by default.

    Returns:
        `ParallelCorpus`: one query and one passage for each item and language.

    Raises:
        ValueError: if a language is not one of `LANGUAGES`.

    Example:

        >>> import tempfile
        >>> corpus = build_sample_corpus(tempfile.mkdtemp(), languages=["en", "ja"])
        >>> row = list(corpus.item_ids).index("currency/JP")
        >>> for side in (corpus.QUERY, corpus.PASSAGE):
        ...     print(corpus.text(side, "en", corpus.rows[row, 0, side]))
        Japan: which currency do people pay with?
        Shop prices (Japan): the legal tender is the Japanese Yen.
    """
    folder = cache_folder(cache_dir) / f"sample-{_version()}"
    corpus = ParallelCorpus.load(folder) if folder.exists() else _build(folder)
    return corpus if languages is None else corpus.select_languages(languages)


def sample_rows(language: str) -> list[dict[str, str]]:
    """All items in one language; those for which CLDR lacks a name in it are skipped.

    Args:
        language (`str`): one of `LANGUAGES`.

    Returns:
        `list[dict[str, str]]`: `id`, `query` and `passage` of each item.

    Raises:
        ValueError: if there are no templates in `language`.

    Example:

        >>> rows = {row["id"]: row for row in sample_rows("de")}
        >>> rows["time_zone/JP"]["query"]
        'Wie heißt die Zeitzone dieses Landes: Japan?'
        >>> rows["time_zone/JP"]["passage"]
        'Japan: Für alle Uhren gilt „Japanische Normalzeit“.'
    """
    if language not in LANGUAGES:
        raise ValueError(f"The sample corpus has no language {language!r}; it has {', '.join(LANGUAGES)}.")
    templates = sample_templates()[language]
    rows = []
    for relation, subject, gaps in _facts():
        names = {gap: _name(language, gap, code) for gap, code in gaps.items()}
        if all(names.values()):
            query, passage = (_sentence(template.format(**names)) for template in templates[relation])
            rows.append({"id": f"{relation}/{subject}", "query": query, "passage": passage})
    return rows


@cache
def sample_templates() -> dict[str, dict[str, list[str]]]:
    """Sentences with gaps: language -> relation -> [query, passage]."""
    return json.loads(TEMPLATES.read_text(encoding="utf-8"))


# Step 1: facts


@cache
def _facts() -> tuple[Fact, ...]:
    facts = [fact for territory in TERRITORIES.split() for fact in _territory_facts(territory)]
    facts += [fact for language in SUBJECT_LANGUAGES.split() for fact in _language_facts(language)]
    currencies = dict.fromkeys(fact.gaps["currency"] for fact in facts if fact.relation == "currency")
    facts += [fact for currency in currencies for fact in _currency_facts(currency)]
    facts += [Fact("month_after", str(m), {"month": str(m), "next_month": str(m % 12 + 1)}) for m in range(1, 13)]
    facts += [Fact("weekday_after", str(d), _weekdays(d)) for d in range(7)]
    return tuple(sorted(facts, key=lambda fact: fact.relation))


def _territory_facts(territory: str) -> Iterator[Fact]:
    for relations in (_money, _speech, _week, _time):
        for relation, gaps in relations(territory):
            yield Fact(relation, territory, {"territory": territory, **gaps})
    yield Fact("territory_code", territory, {"territory": territory, "code": territory})


def _money(territory: str) -> Iterator[tuple[str, dict[str, str]]]:
    tenders = get_territory_currencies(territory, AS_OF, AS_OF, include_details=True)
    if len(tenders) == 1:  # with two there is no one answer
        yield "currency", {"currency": tenders[0]["currency"]}
        yield "currency_since", {"year": str(tenders[0]["from"].year)}


def _speech(territory: str) -> Iterator[tuple[str, dict[str, str]]]:
    official = get_official_languages(territory) or get_official_languages(territory, de_facto=True)
    # Serbian counts twice in CLDR, once in each script; Norwegian once as such and once as each of its two standards
    official = tuple(dict.fromkeys(code.split("_")[0] for code in official if code != "no"))
    if official:
        yield "official_languages", {"languages": " ".join(official[:3])}
    speakers = get_territory_language_info(territory).items()
    percents = {code: float(info["population_percent"] or 0) for code, info in speakers}
    most = max(percents.values())
    languages = {code.split("_")[0] for code, percent in percents.items() if percent == most}
    if most >= MIN_PERCENT and len(languages) == 1 and languages <= set(SUBJECT_LANGUAGES.split()):
        yield "main_language", {"language": languages.pop(), "percent": f"{most:.0f}"}


def _week(territory: str) -> Iterator[tuple[str, dict[str, str]]]:
    locale = Locale.parse(f"und_{territory}")
    yield "first_weekday", {"weekday": str(locale.first_week_day)}
    if (locale.weekend_start + 1) % 7 == locale.weekend_end:
        yield "weekend", _weekdays(locale.weekend_start)


def _time(territory: str) -> Iterator[tuple[str, dict[str, str]]]:
    zones = get_global("territory_zones")[territory]
    if len(zones) == 1:  # with several there is no one answer
        yield "zone_city", {"city": zones[0]}
        if meta_zone := get_global("meta_zones").get(_cldr_zone(zones[0])):
            yield "time_zone", {"zone": meta_zone}


@cache
def _cldr_zone(zone: str) -> str:
    """CLDR never renames a zone: Asia/Kolkata still goes by Asia/Calcutta there."""
    older = [old for old, new in get_global("zone_aliases").items() if new == zone and old in get_global("meta_zones")]
    return zone if zone in get_global("meta_zones") or not older else older[0]


def _language_facts(language: str) -> Iterator[Fact]:
    gap = {"language": language}
    script = get_global("likely_subtags")[language].split("_")[1]
    yield Fact("endonym", language, {**gap, "endonym": _clean(Locale(language).languages[language])})
    yield Fact("script", language, {**gap, "script": script})
    yield Fact("language_code", language, {**gap, "code": language})


def _currency_facts(currency: str) -> Iterator[Fact]:
    yield Fact("currency_code", currency, {"currency": currency, "code": currency})
    yield Fact("decimals", currency, {"currency": currency, "digits": str(get_currency_precision(currency))})


def _weekdays(day: int) -> dict[str, str]:
    """A day and the next, as CLDR counts them: 0 is Monday."""
    return {"weekday": str(day), "next_weekday": str((day + 1) % 7)}


# Step 2: names


@cache
def _name(language: str, gap: str, code: str) -> str | None:
    """Return the CLDR name that fills a gap in one language, or `None`."""
    if gap not in NAMES:  # years, percents, codes and endonyms are the same in all languages
        return code
    name = NAMES[gap](Locale(language), code)
    return None if name is None else _clean(name)


def _languages(locale: Locale, codes: str) -> str | None:
    names = [locale.languages.get(code) for code in codes.split()]
    return format_list([name for name in names if name], locale=locale) if all(names) else None


def _zone(locale: Locale, meta_zone: str) -> str | None:
    return locale.meta_zones.get(meta_zone, {}).get("long", {}).get("standard")


def _weekday(locale: Locale, day: str) -> str:
    return locale.days["format"]["wide"][int(day)]


def _month(locale: Locale, month: str) -> str:
    return locale.months["stand-alone" if locale.language in NOMINATIVE_MONTHS else "format"]["wide"][int(month)]


def _city(locale: Locale, zone: str) -> str | None:
    """City that a time zone is called after; where CLDR names none, the zone's id spells it in Latin letters."""
    if city := locale.time_zones.get(_cldr_zone(zone), {}).get("city"):
        return city
    is_latin = "_Latn" in get_global("likely_subtags")[locale.language]
    return zone.rpartition("/")[2].replace("_", " ") if is_latin else None


NAMES: dict[str, Callable[[Locale, str], str | None]] = {
    "territory": lambda locale, code: locale.territories.get(code),
    "currency": lambda locale, code: locale.currencies.get(code),
    "language": lambda locale, code: locale.languages.get(code),
    "languages": _languages,
    "script": lambda locale, code: locale.scripts.get(code),
    "zone": _zone,
    "city": _city,
    "weekday": _weekday,
    "next_weekday": _weekday,
    "month": _month,
    "next_month": _month,
}


def _clean(name: str) -> str:
    return unicodedata.normalize("NFC", name).translate(INVISIBLE | SPACES)


# Step 3: sentences


def _sentence(text: str) -> str:
    """A name in front may be in lower case: French writes japonais, Russian японский."""
    return text[:1].upper() + text[1:]


# Files


def _build(folder: Path) -> ParallelCorpus:
    revision = f"babel {babel.__version__}"
    source = {"format": "sample", "path": "Unicode CLDR", "revision": revision, "license": "Unicode-3.0"}
    with CorpusBuilder(folder, source=source) as builder:
        for language in LANGUAGES:
            rows = sample_rows(language)
            ids, queries, passages = ([row[key] for row in rows] for key in ("id", "query", "passage"))
            builder.add_language(language, ids, queries, passages)
        return builder.finish()


def _version() -> str:
    """Key of the built corpus: changes with CLDR, the templates and this module."""
    parts = [babel.__version__.encode(), TEMPLATES.read_bytes(), Path(__file__).read_bytes()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]
