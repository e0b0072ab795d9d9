"""What an answer says that is a number, a quantity with a unit, a time, a range, a set or an expression: its key, which
equal answers have in common however they are written."""

from __future__ import annotations

import re
from collections.abc import Hashable
from fractions import Fraction
from typing import NamedTuple

from mprm.data.expressions import LONGEST, value
from mprm.data.units import base_unit, calendar_key

NUMBER_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
NUMBER_WORD = re.compile(rf"(?:{'|'.join(NUMBER_WORDS)})\b(?![-\s]*\d)", re.IGNORECASE)
NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)"
DECIMAL = re.compile(NUMBER, re.ASCII)
TIMES_TEN = re.compile(
    rf"(?P<number>{NUMBER})(?:[eE]|\s*(?:\\times|\\cdot|[x*·])\s*10\s*(?:\^|\*\*)\s*)\{{?(?P<power>[-+]?\d{{1,3}})\}}?"
)
THOUSANDS = re.compile(r"(?<![\d.,(\[{])\d{1,3}(?:,\d{3})+(?![\d,])")
SPACED_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?: \d{3})+(?:\.\d+)?")
MIXED = re.compile(r"(?<![\w.}/^])(\d+)(?:\s+(\d+)/(\d+)|\s*\\frac\{(\d+)\}\{(\d+)\})(?![\w.])")
MAGNITUDES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
MAGNITUDES |= {"百": 2, "千": 3, "万": 4, "亿": 8}
MAGNITUDE = re.compile(
    rf"({NUMBER})\s*(?:(hundred|thousand|million|billion|trillion)\b|(百|千(?![米克])|万|亿))", re.IGNORECASE
)
RANGE = re.compile(
    rf"(?:from\s+)?{NUMBER}(?:\s*(?:-|\bto\b)\s*{NUMBER})+|between\s+{NUMBER}\s+and\s+{NUMBER}", re.IGNORECASE
)
TO = re.compile(r"(?<=[\d.])\s*(?:-|to|and)\s*", re.IGNORECASE)
RATIO = re.compile(rf"{NUMBER}(?:\s*:\s*{NUMBER})+")

UNIT = r"(?:(?<=\s)[A-Za-z]{2,}|(?<=\s)[mgshLl]|mm|cm|dm|km|ft|kg|mg|ml|min|[$€£¥%]|[\u4e00-\u9fff]{1,4})"
QUANTITY = re.compile(
    r"(?P<number>.*(?:[\d})!]|\\pi))\s*(?P<power_word>(?:square|sq\.?|cubic)\s+|平方|立方)?"
    rf"(?P<unit>{UNIT})"
    r"(?:\s*(?:/|\bper\b)\s*(?P<below>[A-Za-z]+))?\s*\^?\{?(?P<power>[23])?\}?"
)
NO_UNIT = {"and", "or", "to", "pi", "dozen", "half", "halves", "third", "thirds", "quarter", "quarters", "fourths"}
NO_UNIT |= {"fifth", "fifths", "tenth", "tenths", *NUMBER_WORDS}
HAN_NUMBER = re.compile("[零一二三四五六七八九十百万亿]")
TEMPERATURE = re.compile(r"(?:°|\^?\{?\\circ\}?|degrees?)\s*(?P<scale>[CF])(?:elsius|ahrenheit)?\b", re.IGNORECASE)

PLAIN_MATHS = dict.fromkeys(("°", r"^\circ", r"^{\circ}", r"\,", r"\!", r"\left", r"\right"), "")
PAIRS = r"""− - – - × \times π \pi ± \pm ∪ \cup ∞ \infty ≈ = \approx = ½ \frac{1}{2} ¼ \frac{1}{4} ¾ \frac{3}{4}
dfrac frac tfrac frac {,} ,
** ^ <= ≤ >= ≥ \leq ≤ \geq ≥ \le ≤ \ge ≥ \lt < \gt > \% % \$ $ \{ { \} } \langle ( \rangle )"""  # noqa: RUF001
PLAIN_MATHS |= dict(zip(PAIRS.split()[::2], PAIRS.split()[1::2], strict=True))
PLAIN_MATHS |= {plain: f"{latex} " for plain, latex in PLAIN_MATHS.items() if latex.startswith("\\")}
LATEX_SPACE = re.compile(r"(?<!\\)\\(?:[ ,;:!]|quad\b)|~")
RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁻"
SUPERSCRIPT = re.compile(rf"[{RAISED}]+")
LOWERED = str.maketrans(RAISED, "0123456789-")
ROOT = re.compile(r"(?:√|(?<![\\A-Za-z])sqrt)\s*(?:[({]([^(){}]*)[)}]|(\d+))")
ABOUT = re.compile(r"(?:approximately|approx\.?|about|around|roughly|exactly|only|\\sim|=)\s*", re.IGNORECASE)
CURRENCY = re.compile(r"([-+]?)(?:US)?([$€£¥])\s*([-+]?[\d.].*)")
INNER_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|rm|bf)\{([^{}]*)\}")
SHORT_FRACTION = re.compile(r"\\frac\s*(\d)\s*(\d)")

NAME = re.compile(
    r"\s*(?:[A-Za-z]|\([A-Za-z](?:,\s*[A-Za-z])+\)|\\[A-Za-z]+|[A-Z]{2,3}|(?:\\[a-z]+ )?[A-Za-z]{3,})"
    r"(?:_\{?\w+\}?)?(?:\([A-Za-z]\))?\s*"
)
NAMED = re.compile(r"([A-Za-z]+)(?:_\{?\w+\}?)?\s*=")
MATRIX = re.compile(r"\\begin\{[bp]?matrix\}(.*)\\end\{[bp]?matrix\}", re.DOTALL)
MEMBER = re.compile(r"[A-Za-z]\s*(?:\\in\b|∈)\s*(?=[(\[{])")
BRACKETS = {"(": ")]", "[": ")]", "{": "}"}
FLIPPED = {">": "<", "≥": "≤"}


class Reading(NamedTuple):
    """key: what an answer says. plain: what it says without its unit, its percent sign or as a quotient, None where it
    has none of them."""

    key: Hashable
    plain: Hashable = None


def read(text: str) -> Reading | None:
    """The reading of an answer; None for one that is a text."""
    if DECIMAL.fullmatch(text):
        return Reading(Fraction(text))
    if len(text) > LONGEST:
        return None
    if date := calendar_key(text):
        return Reading(date)
    number, unit, factor = _quantity(text)
    key = _key(number)
    if key is None:
        return None
    if unit == "%" and isinstance(key, Fraction):
        return Reading(key / 100, key)
    if unit:
        return Reading(("of", unit, key * factor) if isinstance(key, Fraction) else ("of", unit, factor, key), key)
    if isinstance(key, tuple) and key[0] == "ratio" and len(key) == 3:
        return Reading(key, Fraction(key[1], key[2]) if key[2] else None)
    return Reading(key)


def is_quantity(text: str) -> bool:
    """Whether a text is a plain number, with a unit or without: "1,234.5 cm", "2e3", "50%"."""
    return len(text) <= LONGEST and isinstance(_decimal(_quantity(text)[0]), Fraction)


def _quantity(text: str) -> tuple[str, str, Fraction]:
    """An answer as LaTeX without thousands separators, its unit, "" for none, and how many of it: "1,000 centimeters"
    is 1000 m of 1/100."""
    text = INNER_TEXT.sub(r" \1 ", text)
    text = TEMPERATURE.sub(lambda match: f" degrees{match['scale'].upper()}", text)
    for plain, latex in PLAIN_MATHS.items():
        text = text.replace(plain, latex)
    text = LATEX_SPACE.sub(" ", text)
    text = SUPERSCRIPT.sub(lambda match: f"^{{{match[0].translate(LOWERED)}}}", text)
    text = ROOT.sub(lambda match: rf"\sqrt{{{match[1] or match[2]}}}", text).strip()
    text = SHORT_FRACTION.sub(r"\\frac{\1}{\2}", text)
    text = text[about.end() :] if (about := ABOUT.match(text)) else text
    text = CURRENCY.sub(r"\1\3 \2", text) if CURRENCY.fullmatch(text) else text
    text = THOUSANDS.sub(lambda match: match[0].replace(",", ""), text).strip()
    if NUMBER_WORD.match(text):
        text = NUMBER_WORD.sub(lambda match: str(NUMBER_WORDS.index(match[0].lower())), text)
    text = re.sub(r"(?<=\w)\s\([A-Za-z ]+\)$", "", text)
    text = MAGNITUDE.sub(lambda match: f"{match[1]}*10^{MAGNITUDES[(match[2] or match[3]).lower()]} ", text).strip()
    if SPACED_THOUSANDS.fullmatch(text):
        text = text.replace(" ", "")
    text = MIXED.sub(lambda m: f"({m[1]}+{m[2] or m[4]}/{m[3] or m[5]})", text).strip()
    match = QUANTITY.fullmatch(text)
    if match is None or match["unit"].lower() in NO_UNIT or HAN_NUMBER.search(match["unit"]):
        return text, "", Fraction(1)
    unit, factor = base_unit(match["unit"])
    power = int(match["power"] or {"s": 2, "平": 2, "c": 3, "立": 3}.get((match["power_word"] or "-")[0], 1))
    if below := match["below"]:
        under, divisor = base_unit(below)
        return match["number"].strip(), f"{unit}/{under}^{power}", factor / divisor**power
    return match["number"].strip(), unit + (f"^{power}" if unit and power > 1 else ""), factor**power


def _decimal(number: str) -> Fraction | None:
    """The value of 12, -.5, 1.2e3 and 1.2 x 10^3; None for anything else."""
    if match := TIMES_TEN.fullmatch(number):
        return Fraction(match["number"]) * Fraction(10) ** int(match["power"])
    return Fraction(number) if DECIMAL.fullmatch(number) else None


def _key(text: str) -> Hashable:
    """The key of an answer without unit, None for what cannot be read."""
    text = MEMBER.sub("", text.strip())
    if (number := _decimal(text)) is not None:
        return number
    if RANGE.fullmatch(text):
        return "range", *map(Fraction, TO.split(text.lower().removeprefix("from").removeprefix("between").strip()))
    if RATIO.fullmatch(text):
        terms = [Fraction(term) for term in text.split(":")]
        return "ratio", *(term / (next(filter(None, reversed(terms)), 1)) for term in terms)
    if r"\pm" in text:
        return _keys("set", [text.replace(r"\pm", "+"), text.replace(r"\pm", "-")])
    if matrix := MATRIX.fullmatch(text):
        return _keys("matrix", [f"({row.replace('&', ',')},0)" for row in matrix[1].strip().rstrip("\\").split(r"\\")])
    for mark in (r"\\cup", r",|;|\band\b|\bor\b"):
        if len(parts := _parts(text, mark)) > 1:
            return _keys("set", parts)
    if text[:1] in BRACKETS and text[-1] in BRACKETS[text[0]] and len(parts := _parts(text[1:-1], ",|;")) > 1:
        return _keys("set" if text[0] == "{" else text[0] + text[-1], parts)
    if re.search("[<>≤≥]", text):
        return _interval(re.split("([<>≤≥])", text))
    if "=" in text:
        return _equation(text)
    if (infinite := text.replace(" ", "")) in (r"\infty", r"+\infty", r"-\infty"):
        return infinite.removeprefix("+")
    return value(text)


def _keys(kind: str, parts: list[str]) -> Hashable:
    """The key of what has parts, None where one of them cannot be read. The parts of a set have no order."""
    parts = [part.strip() for part in parts]
    keys = [("text", part.lower()) if re.fullmatch("[A-Za-z ]{2,}", part) else _key(part) for part in parts]
    named = [NAMED.match(part) for part in parts]
    if len({name[1] for name in named if name}) > 1:  # x = 1, y = 2; not x = 1 or x = 2
        keys = [None if key is None else (name and name[1], key) for name, key in zip(named, keys, strict=True)]
    if None in keys or (kind == "set" and all(isinstance(key, tuple) and key[0] == "text" for key in keys)):
        return None
    return (kind, frozenset(keys)) if kind == "set" else (kind, *keys)


def _parts(text: str, mark: str) -> list[str]:
    """The parts of a text between marks that are in no brackets; the text alone where brackets close none."""
    parts, depth = [""], 0
    for token in re.split(rf"([()\[\]{{}}]|{mark})", text):
        depth += (token in ("(", "[", "{")) - (token in (")", "]", "}"))
        if depth < 0:
            return [text]
        if depth == 0 and re.fullmatch(mark, token):
            parts.append("")
        else:
            parts[-1] += token
    return parts


def _interval(bounds: list[str]) -> Hashable:
    """The key of x < 3 or 1 <= x < 3: that of (-oo, 3) and [1, 3)."""
    if bounds[1] in FLIPPED:
        bounds = [FLIPPED.get(bound, bound if bound not in "<≤" else "?") for bound in reversed(bounds)]
    if NAME.fullmatch(bounds[0]):
        bounds = [r"-\infty", "<", *bounds]
    if NAME.fullmatch(bounds[-1]):
        bounds = [*bounds, "<", r"\infty"]
    if len(bounds) != 5 or not NAME.fullmatch(bounds[2]) or not {bounds[1], bounds[3]} <= {"<", "≤"}:
        return None
    return _keys("(["[bounds[1] == "≤"] + ")]"[bounds[3] == "≤"], [bounds[0], bounds[4]])


def _equation(text: str) -> Hashable:
    """The key of an equation: of 5 for x = 5 and 2 + 3 = 5; else one that both sides and a factor do not change."""
    left, right = text.rsplit("=", 1)
    names = [bool(NAME.fullmatch(side)) for side in (left, right)]
    if names == [True, False] or (isinstance(value(left), Fraction) and isinstance(value(right), Fraction)):
        return _key(right)
    if names == [False, True]:
        return _key(left)
    difference = value(f"({left})-({right})", up_to_a_factor=True)
    return None if difference is None else ("equation", difference)
