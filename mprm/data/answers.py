"""What a solution answers, and which answers are the same.

Numbers and expressions are compared by math_verify, which is slow to import and therefore only imported when two
answers differ as texts and as decimals. Its time limits are signals, which work in the main thread alone: they are off,
and expressions that it could work on for minutes (towers of powers, factorials, sums) are compared as texts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import cache
from typing import Any

PHRASE = re.compile(
    r"\b(?:answer|correct\s+(?:option|choice))\*{0,2}(?:\s+is\b\s*:?|\s*[:=])[\s*]*(?P<answer>\S.*?)(?=\.\s|\.?\s*$)",
    re.IGNORECASE | re.MULTILINE,
)
WRAPPERS = re.compile(
    r"\\boxed\{(?P<boxed>.*)\}|\$\$?(?P<dollar>[^$]*)\$\$?|\\[(\[](?P<math>.*)\\[)\]]"
    r"|\\(?:text|textbf|mathrm|mathbf)\{(?P<text>[^{}]*)\}|\*\*(?P<bold>.*)\*\*",
    re.DOTALL,
)
INNER_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}")

# "B", "(B)", "(B) 12 cm", "B.", "B: 12 cm", "option B"; not "A, B", "(A) and (B)", "A triangle"
OPTION = re.compile(
    r"(?i:(?:the\s+)?(?:correct\s+)?(?:option|choice|answer)(?:\s+is)?\s*:?\s*)?"
    r"(?:\((?P<round>[A-Z])\)(?!.*\([A-Z]\))(?:[\s.:].*)?|(?P<bare>[A-Z])(?:\s*[.:)].*)?)",
    re.DOTALL,
)
OPTION_LENGTH = len("(A)")
ARTICLE = re.compile(r"\b(?:a|an|the)\s+(?=[a-z]{2})")
PUNCTUATION = re.compile(r"[.,;:!?]+(?=\s|$)|[\"“”`]")

DECIMAL = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)")
THOUSANDS = re.compile(r"(?<![\d.,(\[{])\d{1,3}(?:,\d{3})+(?![\d,])")
QUANTITY = re.compile(
    r"(?P<number>.*[\d}])(?:\s*(?P<short>mm|cm|dm|km|ft|kg|mg|ml|min)|\s+(?P<letter>[mgshL])"
    r"|\s+(?P<power_word>(?:square|cubic)\s+)?(?P<word>[A-Za-z]{2,}))(?P<power>\s*\^?\{?[23]\}?)?"
)
NO_UNIT = {"and", "or", "pi", "dozen", "hundred", "thousand", "million", "billion"}
METRE = re.compile(r"(centi|milli|kilo|)met(?:er|re)s?")
METRES = {"centi": "cm", "milli": "mm", "kilo": "km", "": "m"}
PLAIN_MATHS = {"−": "-", "–": "-", "π": r"\pi ", "²": "^2", "³": "^3", "×": r"\times ", "°": "", r"^\circ": ""}  # noqa: RUF001
PLAIN_MATHS |= {r"^{\circ}": "", r"\%": "%", r"\$": "", r"\,": "", r"\!": "", "{,}": ",", "dfrac": "frac"}
ROOT = re.compile(r"(?:√|(?<![\\A-Za-z])sqrt)\s*(?:[({]([^(){}]*)[)}]|(\d+))")

LONGEST = 100  # characters of an expression
LARGEST_POWER = 10**6
EXPONENT = re.compile(r"\^(?:\w|\{[^{}^]{1,8}\}|\{-?\\frac\{\w{1,3}\}\{\w{1,3}\}\})")
NUMERIC_EXPONENT = re.compile(r"\^\{?-?(?:\\frac\{)?(\d+)")
ENDLESS = re.compile(r"!|\\(?:sum|prod|int|lim|binom)")


def final_answer(steps: Sequence[str]) -> str | None:
    r"""The answer that a solution ends with, without its wrapping; None when it states none.

    Looked for in the last step, then in the whole solution: the last \boxed{...}, else what follows the last "answer
    is", "Answer:" or "correct option is", to the end of the sentence. Example: "The answer is $10$." gives "10".
    """
    if not steps:
        return None
    for text in (steps[-1], "\n\n".join(steps)):
        answer = _boxed(text) or _stated(text)
        if answer:
            return answer
    return None


def same_answer(given: str, reference: str) -> bool:
    """Whether an answer is right.

    A reference that is a single letter is an option: "B", "(B)", "B: 12 cm", "option B" choose it. Otherwise two texts
    are the same but for case, articles, white space and punctuation at the end of a word; two numbers or expressions
    when math_verify says so: 1/2 = 0.5 = 50 %, and 50 % = 50. A unit counts where both answers have one.
    """
    given, reference = _bare(given), _bare(reference)
    option = _option(reference) if len(reference) <= OPTION_LENGTH else None
    if option is not None:
        return _option(given) == option
    if _words(given) == _words(reference):
        return bool(given)
    (number, unit), (right_number, right_unit) = _quantity(given), _quantity(reference)
    if unit and right_unit and unit != right_unit:
        return False
    if DECIMAL.fullmatch(number) and DECIMAL.fullmatch(right_number):
        return Decimal(number) == Decimal(right_number)
    if not (_is_expression(number) and _is_expression(right_number)):
        return False
    parsed, right = _parsed(number), _parsed(right_number)
    return bool(parsed and right and _math_verify()[1](right, parsed))


def answer_classes(answers: Sequence[str | None]) -> list[int]:
    """A number per answer, 0, 1, ... in order of appearance, the same for equal answers; -1 for None.

    An answer joins the first class whose first member it equals, whichever of the two is taken as the reference.
    """
    classes: dict[str, int] = {}
    members: list[str] = []  # the first one of every class
    for answer in dict.fromkeys(answer for answer in answers if answer is not None):
        equal = (n for n, first in enumerate(members) if same_answer(answer, first) or same_answer(first, answer))
        classes[answer] = next(equal, len(members))
        if classes[answer] == len(members):
            members.append(answer)
    return [-1 if answer is None else classes[answer] for answer in answers]


def _boxed(text: str) -> str:
    r"""Content of the last \boxed{...} whose braces are closed, or ""."""
    for start in reversed([match.end() for match in re.finditer(r"\\boxed\s*\{", text)]):
        depth = 1
        for place in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0) if text[place - 1] != "\\" else 0
            if depth == 0:
                return _bare(text[start:place])
    return ""


def _stated(text: str) -> str:
    matches = list(PHRASE.finditer(text))
    return _bare(matches[-1]["answer"]) if matches else ""


@cache
def _bare(text: str) -> str:
    """The answer without white space, a full stop, dollars, bold or a box around it."""
    text = text.strip()
    if text.endswith(".") and not text.endswith(".."):
        text = text[:-1].rstrip()
    match = WRAPPERS.fullmatch(text)
    if match is None or not (inner := next((group for group in match.groups() if group is not None), "")).strip():
        return text
    return _bare(inner)


def _option(text: str) -> str | None:
    match = OPTION.fullmatch(text.upper() if len(text) <= OPTION_LENGTH else text)
    return match and (match["round"] or match["bare"])


@cache
def _words(text: str) -> str:
    text = INNER_TEXT.sub(r"\1", text).casefold()
    return " ".join(ARTICLE.sub("", PUNCTUATION.sub(" ", text)).split())


@cache
def _quantity(text: str) -> tuple[str, str]:
    """An answer as LaTeX without thousands separators, and its unit, "" for none: "1,000 centimeters" is 1000, cm."""
    text = INNER_TEXT.sub(r" \1 ", text)
    for plain, latex in PLAIN_MATHS.items():
        text = text.replace(plain, latex)
    text = ROOT.sub(lambda match: rf"\sqrt{{{match[1] or match[2]}}}", text)
    text = THOUSANDS.sub(lambda match: match[0].replace(",", ""), text).strip().removeprefix("$")
    text = re.sub(r"\s*percent$", "%", text)
    match = QUANTITY.fullmatch(text)
    if match is None or match["word"] in NO_UNIT:
        return text, ""
    power = re.sub(r"\D", "", match["power"] or "") or {"s": "2", "c": "3"}.get((match["power_word"] or "-")[0], "")
    return match["number"].strip(), _unit(match["short"] or match["letter"] or match["word"].lower()) + power


def _unit(name: str) -> str:
    if metre := METRE.fullmatch(name):
        return METRES[metre[1]]
    return "" if name in ("degree", "degrees", "unit", "units") else name.removesuffix("s") if len(name) > 2 else name


def _is_expression(text: str) -> bool:
    """Whether math_verify may read it: no words (it takes "deer" for d e e r, which is "reed"), and nothing endless."""
    if len(text) > LONGEST or ENDLESS.search(text) or re.search(r"[^\W\d_]{2,}", re.sub(r"\\[A-Za-z]+", " ", text)):
        return False
    powers = [int(power) for power in NUMERIC_EXPONENT.findall(text)]
    return text.count("^") == len(EXPONENT.findall(text)) and math.prod(powers) <= LARGEST_POWER


@cache
def _parsed(text: str) -> list[Any]:
    return _math_verify()[0](text)


@cache
def _math_verify() -> tuple[Callable[[str], list[Any]], Callable[[list[Any], list[Any]], bool]]:
    """Its parse and verify, for whole expressions in LaTeX, without time limits and without its own list of units."""
    import logging

    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that the time limits are off
    normalisation = NormalizationConfig(units=False, malformed_operators=True, nits=True, boxed="all")
    latex = [LatexExtractionConfig(normalization_config=normalisation)]

    def read(text: str) -> list[Any]:
        percent = "%" if text.endswith("%") else ""
        return parse(f"${text.removesuffix('%')}${percent}", latex, fallback_mode="no_fallback", parsing_timeout=None)

    def equal(right: list[Any], given: list[Any]) -> bool:
        return verify(right, given, timeout_seconds=None)

    return read, equal
