from typing import Any

from mprm.reporting.settings import others, setting_of

HARD = {"_target_": "mprm.x.Hard", "tau": 0.0}
STRICT = {"_target_": "mprm.x.Hard", "tau": 0.1}
SOFT = {"_target_": "mprm.x.Soft", "weight": 2}


def words(*configs: dict[str, Any]) -> list[str]:
    return others([setting_of(config) for config in configs])


def test_the_seed_and_what_changes_no_result_are_no_setting() -> None:
    config = {"seed": 1, "name": "x", "selector": {"seed": 1, "ratio": 0.1}, "dataset": {"seed": 4}, "held_out": 4}
    config["trainer"] = {"devices": 8, "precision": "bf16"}
    assert setting_of(config) == {
        "selector.ratio": 0.1,
        "dataset.seed": 4,
        "held_out": 4,
        "trainer.precision": "bf16",
    }


def test_another_class_is_named_without_its_fields() -> None:
    assert words({"objective": HARD}, {"objective": SOFT}) == ["objective Hard", "objective Soft"]
    assert words({"objective": HARD}, {"objective": STRICT}) == ["objective.tau=0.0", "objective.tau=0.1"]


def test_fields_that_differ_within_a_class_are_named_beside_another_class() -> None:
    assert words({"objective": HARD}, {"objective": STRICT}, {"objective": SOFT}) == [
        "objective Hard, objective.tau=0.0",
        "objective Hard, objective.tau=0.1",
        "objective Soft",
    ]


def test_benchmarks_are_told_apart() -> None:
    ours, other = ({"_target_": "mprm.x.Ours", "path": path} for path in ("a", "b"))
    third = {"_target_": "mprm.x.Third", "path": "c"}
    assert words({"benchmark": ours}, {"benchmark": other}) == ["benchmark.path=a", "benchmark.path=b"]
    found = words({"benchmark": ours}, {"benchmark": other}, {"benchmark": third})
    assert found == [
        "benchmark Ours, benchmark.path=a",
        "benchmark Ours, benchmark.path=b",
        "benchmark Third, benchmark.path=c",
    ]


def test_what_a_selector_is_named_by_is_not_repeated() -> None:
    bis = {"_target_": "mprm.x.BIS", "alpha": 0.2, "ratio": 0.1, "count": None, "ties": "file_order"}
    rest = {"_target_": "mprm.x.Random", "ratio": 0.2, "count": None, "ties": "file_order"}
    assert words({"selector": bis}, {"selector": rest}) == ["", ""]
    assert words({"selector": bis}, {"selector": bis | {"ties": "n_steps"}}) == [
        "selector.ties=file_order",
        "selector.ties=n_steps",
    ]
