"""The report of a study: one page that needs no network and no server, and the same in short as Markdown.

1. `study_figures` makes rows of the study's files, `study_charts` specs of the rows.
2. The page has each figure's rows once, as JSON: plots, downloads and checks (`figures_in`) are of the same numbers.
3. Where scripts do not run, and on paper, stand pictures of the same specs.
4. Whatever others have named is escaped: in HTML by the template engine, in JSON so that no `<` is left.

Both texts are a function of the folder's files, for the same releases of altair and vl-convert: `report_text` and
`markdown_text` give the same bytes again.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hf_hybrid import __version__
from hf_hybrid.records.manifest import read_manifest
from hf_hybrid.records.output_folder import OutputFolder
from hf_hybrid.records.schema import MANIFEST_NAME
from hf_hybrid.utils.files import replacing
from hf_hybrid.utils.text import Markdown, escape, sentence, table

from .charts import picture, program
from .figures import PROFILE_NAME, Figure, read_report
from .sections import Section, answer, main_table, sections, subtitle, title

REPORT_NAME, MARKDOWN_NAME = "report.html", "report.md"
_TEMPLATE = Path(__file__).with_name("template.html")
_FIGURES = re.compile(r'<script type="application/json" id="figures">(.*?)</script>', re.DOTALL)
_FOOTER = (
    "Made by recipes/report.py of the files of the study's folder: study.json, table.json, fits.json and the run "
    "folders in trials/. python recipes/verify.py STUDY makes every number of it again."
)
_UNSAFE = '%"#&<>'  # in a data URL within an attribute, of what is printable
_SAFE = "".join(character for character in map(chr, range(32, 127)) if character not in _UNSAFE)


def write_report(
    folder: str | os.PathLike[str], step_profile: str | os.PathLike[str] | None = None
) -> tuple[Path, Path]:
    """Write `report.html` and `report.md` to the folder of a study, in place of earlier ones.

    Args:
        folder (`str` or `Path`): The study.
        step_profile (`str` or `Path`, *optional*): A file of benchmarks/step_profile.py, which is copied to the study.

    Returns:
        `tuple[Path, Path]`: Both files.

    Raises:
        ImportError: When the libraries that draw are not installed.
        ValueError: When a file of the study is missing or damaged, or one of another origin is in the report's place.
    """
    outputs, manifest = OutputFolder(folder, "study"), Path(folder, MANIFEST_NAME)
    of_copy = read_manifest(manifest) if manifest.is_file() else {}  # a copy has a manifest in place of a list
    names = [REPORT_NAME, MARKDOWN_NAME, *([PROFILE_NAME] if step_profile is not None else [])]
    outputs.check(*(name for name in names if name not in of_copy))

    def writing(name: str) -> AbstractContextManager[Path]:
        return replacing(Path(folder, name)) if name in of_copy else outputs.writing(name)

    if step_profile is not None:
        content = Path(step_profile).read_bytes()
        with writing(PROFILE_NAME) as unfinished:
            unfinished.write_bytes(content)
    texts = {REPORT_NAME: report_text(folder), MARKDOWN_NAME: markdown_text(folder)}
    for name, text in texts.items():
        with writing(name) as unfinished:
            unfinished.write_text(text, encoding="utf-8", newline="\n")
    return Path(folder, REPORT_NAME), Path(folder, MARKDOWN_NAME)


def report_text(folder: str | os.PathLike[str]) -> str:
    """The page, as `write_report` writes it.

    Args:
        folder (`str` or `Path`): The study.

    Raises:
        ImportError, ValueError: As `write_report`.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    try:
        versions = [f"{name} {version(name)}" for name in ("altair", "vl-convert-python")]
    except ModuleNotFoundError:
        raise ImportError('A report needs altair and vl-convert: pip install ".[report]", in a clone.') from None
    report = read_report(folder)
    found = sections(report)
    figures = [figure for section in found for figure in section.figures]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return (
        page.render(
            title=title(report),
            subtitle=subtitle(report),
            sections=[_shown(section) for section in found],
            figures=Markup(_json({figure.name: _packed(figure) for figure in figures})),
            program=Markup(program()) if figures else None,
            generator=", ".join([f"hf-hybrid {__version__}", *versions]),
            footer=_FOOTER,
        ).rstrip()
        + "\n"
    )


def figures_of(folder: str | os.PathLike[str]) -> dict[str, list[dict[str, Any]]]:
    """The rows of all figures, made of the study's files: by name of the figure.

    Args:
        folder (`str` or `Path`): The study.
    """
    return {figure.name: figure.rows for section in sections(read_report(folder)) for figure in section.figures}


def figures_in(page: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of all figures that a page holds.

    Args:
        page (`str`): Text of a `report.html`.

    Raises:
        ValueError: When it holds none.
    """
    found = _FIGURES.search(page)
    if found is None:
        raise ValueError("This is no page of a study: it has no data of figures.")
    return {
        name: [dict(zip(figure["columns"], row, strict=True)) for row in figure["values"]]
        for name, figure in json.loads(found[1]).items()
    }


def markdown_text(folder: str | os.PathLike[str]) -> str:
    """The answer and the table of arms and L, for a README.

    Args:
        folder (`str` or `Path`): The study.

    Raises:
        ValueError: When a file of the study is missing or damaged.
    """
    report = read_report(folder)
    found = main_table(report)
    rows = [[_in_a_line(value) for value in row] for row in found.rows]
    parts = [
        f"## {escape(title(report))}",
        str(escape(subtitle(report), most=2000)),
        "\n".join(f"{number}. {escape(text, most=2000)}" for number, text in enumerate(answer(report), start=1)),
        table(found.head, rows, found.texts),
        sentence("{title} The page [{name}]({name}) has all figures.", title=found.title, name=Markdown(REPORT_NAME)),
    ]
    return "\n\n".join(parts) + "\n"


def _in_a_line(value: Any) -> Any:
    """Format a table entry: a number, or one with its interval."""
    if isinstance(value, dict):
        return f"{value['text']} ({value['small']})" if value["small"] else value["text"]
    return "–" if value is None else value


def _shown(section: Section) -> dict[str, Any]:
    figures = [
        {**figure._asdict(), "picture": _as_url(picture(figure.spec, figure.rows))} for figure in section.figures
    ]
    return {**section._asdict(), "figures": figures}


def _as_url(svg: str) -> str:
    """A picture within the page, escaped for an attribute in double quotes."""
    from markupsafe import Markup

    quotes = svg if "'" in svg else svg.replace('"', "'")  # which need no escape
    return Markup(f"data:image/svg+xml,{quote(quotes, safe=_SAFE)}")


def _packed(figure: Figure) -> dict[str, Any]:
    """Rows without their keys, which are the same in all of them."""
    columns = list(figure.rows[0])
    return {
        "columns": columns,
        "values": [[row[name] for name in columns] for row in figure.rows],
        "spec": figure.spec,
    }


def _json(value: Any) -> str:
    """JSON that can stand in a script of a page: nothing in it ends the script or begins a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
