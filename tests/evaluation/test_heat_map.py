"""Pictures: read back as pixels."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.image import imread

from hf_hybrid.evaluation.heat_map import pair_change_map, pair_heat_map
from hf_hybrid.records.schema import Scores
from hf_hybrid.records.scores import pair_matrix
from tests.support.card_runs import CODES as BABEL

# all of them valid codes, some of which have hyphens
_LISTED = "de en zh ar pt-BR sr-Latn zh-Hant hi ru th tr vi el es fr it ja ko nl pl sv da fi cs hu ro bg uk he id"
CODES = _LISTED.split()


def scores_of(pairs: dict[str, dict[str, float]]) -> Scores:
    return {
        "monolingual": {},
        "cross_lingual": {},
        "multilingual": {},
        "bias": {},
        "pairs": pairs,
        "num_queries": 1,
    }


def every_pair(codes: Sequence[str]) -> Scores:
    """A different value for each."""
    total = len(codes) ** 2
    return scores_of(
        {
            f"{query}-{passage}": {"MAP": (row * len(codes) + column) / total, "nDCG@10": 0.25}
            for row, query in enumerate(codes)
            for column, passage in enumerate(codes)
        }
    )


# The matrix


def test_the_matrix_has_queries_in_rows_and_passages_in_columns() -> None:
    rows, columns, values = pair_matrix(every_pair(CODES[:7]), "MAP")
    assert rows == columns == CODES[:7]
    np.testing.assert_allclose(values, np.arange(49).reshape(7, 7) / 49)


def test_the_first_measure_is_the_default() -> None:
    _, _, values = pair_matrix(every_pair(["de", "en"]))
    assert values.tolist() == [[0, 0.25], [0.5, 0.75]]
    _, _, values = pair_matrix(every_pair(["de", "en"]), "nDCG@10")
    assert values.tolist() == [[0.25, 0.25], [0.25, 0.25]]


def test_missing_pairs_are_nan() -> None:
    names = ["pt-BR-sr-Latn", "zh-Hant-en", "pt-BR-en"]
    rows, columns, values = pair_matrix(scores_of({name: {"MAP": number} for number, name in enumerate(names)}))
    assert (rows, columns) == (["pt-BR", "zh-Hant"], ["sr-Latn", "en"])
    np.testing.assert_array_equal(values, [[0, 2], [np.nan, 1]])


def test_an_unknown_measure_is_refused() -> None:
    with pytest.raises(ValueError, match=r"The pair de-de has no 'P@5'; it has MAP, nDCG@10"):
        pair_matrix(every_pair(["de", "en"]), "P@5")


def test_a_measure_that_one_pair_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"The pair de-en has no 'MAP'; it has P@5"):
        pair_matrix(scores_of({"de-de": {"MAP": 0.5}, "de-en": {"P@5": 0.5}}))


def test_scores_without_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="no language pairs; evaluate the monolingual or cross-lingual"):
        pair_matrix(scores_of({}))


def test_a_name_that_is_no_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="The pair 'german' can be read in several ways or in none"):
        pair_matrix(scores_of({"german": {"MAP": 0.5}}))


# The picture


def has_color(picture: np.ndarray, value: float, colors: str = "cividis") -> bool:
    """Whether more than specks of a picture have the color of a value from 0 to 1."""
    expected = np.array(colormaps[colors](value)[:3])
    return int((np.abs(picture[..., :3] - expected).max(axis=-1) < 0.01).sum()) > 500


def test_a_heat_map_shows_the_values_as_colors(tmp_path: Path) -> None:
    scores = scores_of({"de-de": {"MAP": 1.0}, "de-en": {"MAP": 0.6}, "en-de": {"MAP": 0.3}, "en-en": {"MAP": 0.0}})
    path = pair_heat_map(scores, tmp_path / "new" / "heat_map.png")
    assert path == tmp_path / "new" / "heat_map.png"
    assert [found.name for found in path.parent.iterdir()] == ["heat_map.png"]
    picture = imread(path)
    height, width = picture.shape[:2]
    assert 400 < height < 1000
    assert 500 < width < 1500
    grid = picture[:, : width * 3 // 4]  # without the bar, which has all the colors
    assert [has_color(grid, value) for value in (1.0, 0.6, 0.3, 0.0)] == [True] * 4
    assert not any(has_color(grid, value) for value in (0.9, 0.45, 0.15))


def test_a_missing_pair_is_left_white(tmp_path: Path) -> None:
    whole = scores_of({f"{a}-{b}": {"MAP": 0.6} for a in ("de", "en") for b in ("de", "en")})
    lacking = scores_of({name: values for name, values in whole["pairs"].items() if name != "de-en"})
    blue = [
        (
            np.abs(imread(pair_heat_map(scores, tmp_path / "map.png"))[..., :3] - colormaps["cividis"](0.6)[:3]).max(
                axis=-1
            )
            < 0.01
        ).sum()
        for scores in (whole, lacking)
    ]
    assert blue[1] / blue[0] == pytest.approx(3 / 4, abs=0.03)


def test_a_picture_grows_with_the_languages(tmp_path: Path) -> None:
    shapes = [
        imread(pair_heat_map(every_pair(CODES[:number]), tmp_path / f"{number}.png")).shape for number in (10, 30)
    ]
    assert shapes[1][0] - shapes[0][0] > 1000
    assert shapes[1][1] - shapes[0][1] > 1000


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float, float]]:
    """What is written into cells, and in which column and row."""
    texts, write = list[tuple[str, float, float]](), Axes.text

    def noted(self: Axes, x: float, y: float, text: str, **options: object) -> object:
        texts.append((text, x, y))
        return write(self, x, y, text, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Axes, "text", noted)
    return texts


def test_numbers_are_written_where_there_is_room(written: list[tuple[str, float, float]], tmp_path: Path) -> None:
    pairs = {"de-de": {"MAP": 1.0}, "de-en": {"MAP": 0.257}, "en-de": {"MAP": 0.0}}
    pair_heat_map(scores_of(pairs), tmp_path / "map.png")
    assert written == [("1.00", 0, 0), (".26", 1, 0), (".00", 0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "count"), [(20, 400), (21, 0), (30, 0)])
def test_many_languages_have_no_numbers_in_their_cells(
    number: int, count: int, written: list[tuple[str, float, float]], tmp_path: Path
) -> None:
    assert len(set(CODES)) == 30
    path = pair_heat_map(every_pair(CODES[:number]), tmp_path / "map.png")
    assert len(written) == count
    assert np.ptp(imread(path)) > 0.5


def test_names_are_not_read_as_formulas(tmp_path: Path) -> None:
    scores = scores_of({"de-de": {r"$\frac{$": 0.5}, "de-en": {r"$\frac{$": 0.5}})
    for picture in (
        pair_heat_map(scores, tmp_path / "map.png", title="$x_"),
        pair_change_map(scores, scores, tmp_path / "change.png", title="$x_"),
    ):
        assert np.ptp(imread(picture)) > 0.5  # drawn, where a formula like this one would have raised


def test_a_change_has_the_colors_of_gain_and_loss(written: list[tuple[str, float, float]], tmp_path: Path) -> None:
    before = {"de-de": {"MAP": 0.5}, "de-en": {"MAP": 0.5}, "en-de": {"MAP": 0.5}, "en-fr": {"MAP": 0.5}}
    after = {"de-de": {"MAP": 0.9}, "de-en": {"MAP": 0.5}, "en-de": {"MAP": 0.1}, "en-en": {"MAP": 0.5}}
    path = pair_change_map(scores_of(before), scores_of(after), tmp_path / "change.png")
    assert written == [("+.40", 0, 0), ("+.00", 1, 0), ("-.40", 0, 1)]  # en-en is in one of the two
    grid = imread(path)
    grid = grid[:, : grid.shape[1] * 3 // 4]
    assert [has_color(grid, value, "RdBu") for value in (1.0, 0.5, 0.0)] == [True] * 3
    assert not has_color(grid, 0.75, "RdBu")


def test_no_change_at_all_is_white(tmp_path: Path) -> None:
    scores = every_pair(["de", "en"])
    picture = imread(pair_change_map(scores, scores, tmp_path / "change.png"))
    grid = picture[:, : picture.shape[1] * 3 // 4]
    assert has_color(grid, 0.5, "RdBu")
    assert not any(has_color(grid, value, "RdBu") for value in (0.0, 0.2, 0.8, 1.0))


def test_a_very_large_picture_has_less_room_for_each_language(tmp_path: Path) -> None:
    shapes = [imread(pair_heat_map(every_pair(BABEL[:number]), tmp_path / "m.png")).shape for number in (41, 46)]
    assert abs(shapes[1][0] - shapes[0][0]) < 50


def test_the_measure_and_the_title_are_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    titles = list[str]()
    monkeypatch.setattr(Axes, "set_title", lambda self, title, **_: titles.append(title))
    pair_heat_map(every_pair(["de", "en"]), tmp_path / "map.png")
    pair_heat_map(every_pair(["de", "en"]), tmp_path / "map.png", "nDCG@10")
    pair_heat_map(every_pair(["de", "en"]), tmp_path / "map.png", "nDCG@10", "My model")
    assert titles == ["MAP", "nDCG@10", "My model"]


@pytest.mark.parametrize(("suffix", "start"), [(".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_the_ending_says_the_format(suffix: str, start: bytes, tmp_path: Path) -> None:
    assert pair_heat_map(every_pair(["de", "en"]), tmp_path / f"map{suffix}").read_bytes().startswith(start)


def test_a_refused_picture_leaves_the_old_one(tmp_path: Path) -> None:
    path = pair_heat_map(every_pair(["de", "en"]), tmp_path / "map.png")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="has no 'P@5'"):
        pair_heat_map(every_pair(["de", "zh"]), path, "P@5")
    assert path.read_bytes() == before
    pair_heat_map(every_pair(["de", "zh"]), path)
    assert path.read_bytes() != before
    assert [found.name for found in tmp_path.iterdir()] == ["map.png"]


def test_without_matplotlib_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "\.\[plots\]"'):
        pair_heat_map(every_pair(["de", "en"]), tmp_path / "map.png")
