import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure as Drawing

from mprm.metrics.estimate import Estimate
from mprm.reporting.comparison import selectors_figure
from mprm.reporting.comparison_figures import (
    chosen,
    families,
    learning_figure,
    looks_of,
    mean_curve,
    settings_figure,
    sources_figure,
    varied_figures,
)
from mprm.reporting.kinds import KINDS
from mprm.reporting.report import Figure
from mprm.reporting.run_record import run_folders
from mprm.reporting.settings import Group, Setting, compare

MakeSetting, MakeGroup = Callable[..., Setting], Callable[..., Group]
AUC, LOSS = KINDS["steps"].curves


@pytest.fixture
def grid(make_setting: MakeSetting, make_group: MakeGroup) -> Group:
    cells = ((0.02, 0.05, 0.81), (0.02, 0.1, 0.82), (0.2, 0.05, 0.86), (0.2, 0.1, 0.84))
    return make_group(
        make_setting("Full", 1.0, 0.9),
        *(make_setting("BIS", ratio, auc, alpha=alpha) for alpha, ratio, auc in cells),
        make_setting("Random", 0.1, 0.80),
        make_setting("Mixed", 0.25, 0.70),  # a share that the grid does not have
        make_setting("Random", 0.05, 0.99, other="objective Soft"),
    )


def by_name(figures: list[Figure]) -> dict[str, Figure]:
    return {figure.name: figure for figure in figures}


def texts(drawing: Drawing) -> list[str]:
    return [text.get_text().split("\n")[0] for axes in drawing.axes for text in axes.texts]


def test_selectors_of_ones_own_look_different_in_every_figure(make_setting: MakeSetting, make_group: MakeGroup) -> None:
    names = ("Longest", "Shortest", "Random", "Full")
    group = make_group(
        *(make_setting(name, ratio, 0.8) for name in names[:3] for ratio in (0.1, 0.2)), make_setting("Full", 1.0, 0.9)
    )
    looks = looks_of(group, {one.line: one for one in group.settings})
    assert len({(look["color"], look["marker"]) for look in looks.values()}) == len(names)
    figures = [settings_figure(group), *varied_figures(group)]
    assert len(figures) == 2
    for name in names[:2]:
        assert all(name in figure.alt for figure in figures if figure)
    lines = {str(line.get_label()): line for line in figures[1].drawing.axes[0].lines}
    assert {"Longest", "Shortest", "Random", "Full"} <= set(lines)
    assert lines["Longest"].get_color() != lines["Shortest"].get_color()


def test_a_family_is_compared_with_its_own_shares_and_the_same_rest(grid: Group) -> None:
    (family,) = families(grid)
    assert (family.name, family.field, len(family.settings)) == ("BIS", "alpha", 4)
    figures = by_name(varied_figures(grid))
    assert set(figures) == {"heatmap", "ratio"}
    drawing = figures["heatmap"].drawing
    assert texts(drawing)[:6] == ["0.810", "0.820", "0.860", "0.840", "0.900", "0.800"]
    axes = drawing.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["alpha 0.02", "alpha 0.2", "Full", "Random"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["5", "10", "100"]
    assert axes.get_title(loc="left") == "BIS: AUC"
    assert "alpha 0.2 at 5 %: 0.860" in figures["heatmap"].alt


def test_two_families_have_figures_of_their_own_and_one_share_is_drawn_against_the_field(
    make_setting: MakeSetting, make_group: MakeGroup
) -> None:
    two = [
        make_setting("BIS", ratio, 0.8, other=other, alpha=alpha)
        for other in ("objective Hard", "objective Soft")
        for ratio in (0.1, 0.2)
        for alpha in (0.1, 0.2)
    ]
    figures = by_name(varied_figures(make_group(*two)))
    assert set(figures) == {"heatmap", "heatmap_2", "ratio"}
    assert figures["heatmap_2"].title == "BIS, objective Soft: alpha and share kept"
    level = make_setting("Random", 0.1, 0.7)
    figures = by_name(varied_figures(make_group(*(make_setting("BIS", 0.1, 0.8, alpha=a) for a in (0.1, 0.4)), level)))
    assert set(figures) == {"alpha"}
    lines = {str(line.get_label()): line for line in figures["alpha"].drawing.axes[0].lines}
    assert list(lines["BIS"].get_xdata()) == pytest.approx([0.1, 0.4])
    assert "Random, 10 %" in lines
    assert varied_figures(make_group(make_setting("BIS", 0.1, 0.8, alpha=0.2), level)) == []


def test_every_line_keeps_its_numbers(make_setting: MakeSetting, make_group: MakeGroup) -> None:
    settings = [
        make_setting("BIS", ratio, 0.8 + ratio / 10, alpha=alpha) for alpha in (0.1, 0.2) for ratio in (0.5, 0.05)
    ]
    group = make_group(make_setting("Full", 1.0, 0.9), *settings, make_setting("Mixed", 0.05, 0.7))
    figure = by_name(varied_figures(group))["ratio"]
    axes = figure.drawing.axes[0]
    lines = {str(line.get_label()): line for line in axes.lines if not str(line.get_label()).startswith("_")}
    assert list(lines) == ["Full", "BIS (alpha 0.1)", "BIS (alpha 0.2)", "Mixed"]
    assert list(lines["BIS (alpha 0.2)"].get_ydata()) == pytest.approx([0.805, 0.85])
    assert lines["BIS (alpha 0.1)"].get_linestyle() != lines["BIS (alpha 0.2)"].get_linestyle()
    assert axes.get_xscale() == "log", "shares span more than a factor of five"
    assert "BIS (alpha 0.1) at 5: 0.805" in figure.alt
    near = make_group(*(make_setting("Random", ratio, 0.8) for ratio in (0.1, 0.5)))
    assert by_name(varied_figures(near))["ratio"].drawing.axes[0].get_xscale() == "linear"


def test_a_wide_interval_is_cut_a_mean_never_and_a_missing_number_is_no_error(
    make_setting: MakeSetting, make_group: MakeGroup
) -> None:
    wide, other = make_setting("Random", 0.1, 0.7), make_setting("Random", 0.2, 0.8)
    wide.runs[0].measured.numbers["auc"] = Estimate(0.7, -2.0, 3.0)
    (figure,) = varied_figures(make_group(wide, other))
    assert figure.drawing.axes[0].get_ylim() == pytest.approx((0.67, 0.83))
    (figure,) = varied_figures(make_group(wide, make_setting("Random", 0.2, None)))
    assert settings_figure(make_group(make_setting("Random", 0.2, None))) is None


# ---- learning, sources


def write(folder: Path, **values: tuple[float, float]) -> Path:
    """A run whose validations gave these AUCs after these seconds, by step: step_10=(auc, seconds)."""
    folder.mkdir(parents=True)
    lines = []
    for name, (auc, seconds) in values.items():
        step = int(name.removeprefix("step_"))
        lines.append({"step": step, "rollouts": 32 * step, "seconds": seconds, "train/loss": 0.5})
        lines.append({"step": step, "rollouts": 32 * step, "seconds": seconds, "val/auc": auc})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def of_folders(setting: Setting, *folders: Path) -> Setting:
    runs = zip(setting.runs, folders, strict=True)
    return replace(setting, runs=tuple(replace(run, trained=folder) for run, folder in runs))


def test_the_curve_is_the_mean_over_seeds_at_common_steps(tmp_path: Path, make_setting: MakeSetting) -> None:
    a = write(tmp_path / "a", step_10=(0.6, 1.0), step_20=(0.8, 2.0), step_25=(0.9, 3.0))
    b = write(tmp_path / "b", step_10=(0.7, 3.0), step_20=(0.6, 4.0), step_30=(0.9, 5.0))
    setting = of_folders(make_setting("BIS", 0.1, 0.8, 0.9), a, b)
    assert {name: values.tolist() for name, values in mean_curve(setting, AUC).items()} == {
        "step": [10, 20],
        "rollouts": [320, 640],
        "seconds": [2, 3],
        "mean": pytest.approx([0.65, 0.7]),
    }
    assert mean_curve(setting, LOSS) == {}
    gaps = write(tmp_path / "c", step_1=(float("nan"), 1.0), step_2=(0.7, 2.0))
    assert mean_curve(of_folders(make_setting("BIS", 0.1, 0.8), gaps), AUC)["mean"].tolist() == [0.7]


def test_of_many_settings_the_best_of_every_selector_is_drawn(make_setting: MakeSetting, make_group: MakeGroup) -> None:
    few = [make_setting("BIS", ratio / 100, 0.8, alpha=0.2) for ratio in range(1, 9)]
    assert chosen(make_group(*few)) == few
    many = [make_setting("BIS", ratio / 100, 0.8 + ratio / 1000, alpha=0.2) for ratio in range(1, 20)]
    found = chosen(make_group(make_setting("Mixed", 0.1, 0.5), make_setting("Random", 0.1, 0.4), *many))
    assert [one.label for one in found[:2]] == ["Mixed, 10 %", "Random, 10 %"]
    assert [one.ratio for one in found[2:]] == [0.14, 0.15, 0.16, 0.17, 0.18, 0.19]


def test_two_panels_show_how_the_settings_learn_and_the_file_has_all(many_runs: Path) -> None:
    figure = learning_figure(compare(run_folders(many_runs)).groups[0])
    assert figure is not None
    assert figure.data is not None
    first, second = figure.drawing.axes
    assert {first.get_xlabel(), second.get_xlabel()} == {"optimizer steps"}
    assert (first.get_ylabel(), second.get_ylabel()) == ("AUC of held-out steps", "loss per step (nats)")
    assert figure.data.columns == ("setting", "measure", "step", "rollouts", "seconds", "mean")
    assert len(figure.data.rows) == 9 * 2 * 6
    assert figure.data.rows[0][:5] == ("Full", "val/auc", "20", "160", "10")
    assert "Validation AUC of Full: 0.871 after 120 steps." in figure.alt


def test_every_source_is_the_mean_over_seeds(many_runs: Path) -> None:
    group = compare(run_folders(many_runs)).groups[0]
    figure = sources_figure(group)
    assert figure is not None
    assert figure.data is not None
    full = group.settings[0]
    assert figure.data.columns[0] == "setting"
    assert set(figure.data.columns[1:]) == {"bars_sum", "bars_diff", "pie_share"}
    values = [np.mean([run.numbers[f"source/{name}"].value for run in full.runs]) for name in figure.data.columns[1:]]
    assert figure.data.rows[0] == ("Full", *(f"{100 * value:.1f}" for value in values))
    assert [axes.get_title(loc="left") for axes in figure.drawing.axes] == [*figure.data.columns[1:]]
    assert "pie_share: Full " in figure.alt
    for run in (run for one in group.settings for run in one.runs):
        for name in ("bars_sum", "bars_diff"):
            run.measured.numbers.pop(f"source/{name}")
            vars(run).pop("numbers", None)
    for one in group.settings:
        vars(one).pop("numbers", None)
    assert sources_figure(group) is None, "one source is the whole"


# ---- all figures


@pytest.mark.parametrize("other", ["", "objective SoftWithConfidence, backbone a_model_of_a_rather_long_name"])
@pytest.mark.parametrize("n_settings", [2, 9])
def test_nothing_is_clipped_however_many_settings_and_however_long_their_names(
    many_runs: Path, n_settings: int, other: str, assert_readable: Callable[[Drawing], None]
) -> None:
    (group,) = compare(run_folders(many_runs)).groups
    group = replace(group, settings=tuple(replace(one, other=other) for one in group.settings[-n_settings:]))
    for figure in (settings_figure(group), *varied_figures(group), learning_figure(group), sources_figure(group)):
        if figure:
            assert_readable(figure.drawing)


def test_one_line_per_selector_of_its_best_setting(many_runs: Path) -> None:
    (group,) = compare(run_folders(many_runs)).groups
    figure = selectors_figure(group)
    assert figure is not None
    assert figure.data is not None
    ranked = [one.label for one in group.ranked(group.measures[0])]
    names = list(dict.fromkeys(row[0] for row in figure.data.rows))
    assert sorted(name.split(",")[0].split(" ")[0] for name in names) == ["BIS", "Full", "Mixed", "Random"]
    assert names == sorted(names, key=ranked.index)
    assert names[0] == ranked[0]
