"""Answers that are numbers, with or without a unit, and expressions: brought into one form and compared.

Expressions are compared by math_verify in a process of its own, whose program this file is, too. sympy works for
minutes or for ever on some expressions, and fills the memory with others. A process can be stopped whatever it is
doing, in any thread, without a signal in ours.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import threading
from contextlib import suppress
from decimal import Decimal
from functools import cache, lru_cache
from typing import Any

LIMIT_S = 3.0  # seconds of processor time for a comparison, so that a busy machine says the same
MEMORY = 4 << 30  # bytes

NUMBER_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
NUMBER_WORD = re.compile(rf"(?:{'|'.join(NUMBER_WORDS)})\b(?![-\s]*\d)", re.IGNORECASE)
DECIMAL = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)")
TIMES_TEN = re.compile(
    r"(?P<number>[-+]?(?:\d+(?:\.\d*)?|\.\d+))(?:[eE]|\s*(?:\\times|\\cdot|[x*·])\s*10\s*(?:\^|\*\*)\s*)"
    r"\{?(?P<power>[-+]?\d{1,3})\}?"
)
THOUSANDS = re.compile(r"(?<![\d.,(\[{])\d{1,3}(?:,\d{3})+(?![\d,])")
SPACED_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?: \d{3})+(?:\.\d+)?")
QUANTITY = re.compile(
    r"(?P<number>.*[\d}])(?:\s*(?P<short>mm|cm|dm|km|ft|kg|mg|ml|min)|\s+(?P<letter>[mgshL])"
    r"|\s+(?P<power_word>(?:square|cubic)\s+)?(?P<word>[A-Za-z]{2,})|\s*(?P<han>[\u4e00-\u9fff]{1,4}))"
    r"(?P<power>\s*\^?\{?[23]\}?)?"
)
NO_UNIT = {"and", "or", "pi", "dozen", "hundred", "thousand", "million", "billion", "trillion", "half", "halves"}
NO_UNIT |= {"third", "thirds", "quarter", "quarters", "fourths", "fifth", "fifths", "tenth", "tenths", *NUMBER_WORDS}
HAN_NUMBER = re.compile("[零一二三四五六七八九十百千万亿]")
METRE = re.compile(r"(centi|milli|kilo|)met(?:er|re)s?")
METRES = {"centi": "cm", "milli": "mm", "kilo": "km", "": "m"}
TEMPERATURE = re.compile(r"(?:°|\^?\{?\\circ\}?|degrees?)\s*(?P<scale>[CF])(?:elsius|ahrenheit)?\b", re.IGNORECASE)
PLAIN_MATHS = {"−": "-", "–": "-", "π": r"\pi ", "×": r"\times ", "°": "", r"^\circ": "", "≈": "=", r"\approx": "="}  # noqa: RUF001
PLAIN_MATHS |= {r"^{\circ}": "", r"\%": "%", r"\$": "", r"\,": "", r"\!": "", "{,}": ",", "dfrac": "frac"}
PLAIN_MATHS["tfrac"] = "frac"
PLAIN_MATHS |= {"½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", r"\left": "", r"\right": "", r"\;": " "}
RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁻"
SUPERSCRIPT = re.compile(rf"[{RAISED}]+")
LOWERED = str.maketrans(RAISED, "0123456789-")
ROOT = re.compile(r"(?:√|(?<![\\A-Za-z])sqrt)\s*(?:[({]([^(){}]*)[)}]|(\d+))")
ABOUT = re.compile(r"(?:approximately|approx\.?|about|around|roughly|exactly|only|~|\\sim|=)\s*", re.IGNORECASE)
CURRENCY = re.compile(r"(?P<sign>[-+]?)(?:US)?[$€£¥]\s*(?=[\d.])")

_one_at_a_time = threading.Lock()
LONGEST = 100  # characters of an expression
LARGEST_POWER = 10**6
EXPONENT = re.compile(r"\^(?:\w|\{[^{}^]{1,8}\}|\{-?\\frac\{\w{1,3}\}\{\w{1,3}\}\})")
NUMERIC_EXPONENT = re.compile(r"\^\{?-?(?:\\frac\{)?(\d+)")
ENDLESS = re.compile(r"!|\\(?:sum|prod|int|lim|binom)")
INNER_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|rm|bf)\{([^{}]*)\}")


def same_quantity(given: str, reference: str) -> bool:
    """Whether two numbers or expressions are equal; a unit counts where both have one."""
    (number, unit), (right_number, right_unit) = _quantity(given), _quantity(reference)
    if unit and right_unit and unit != right_unit:
        return False
    decimal, right_decimal = _decimal(number), _decimal(right_number)
    if decimal is not None and right_decimal is not None:
        return decimal == right_decimal
    return _is_expression(number) and _is_expression(right_number) and equal(number, right_number)


def is_quantity(text: str) -> bool:
    """Whether a text is a plain number, with a unit or without: "1,234.5 cm", "2e3", "50%"."""
    return _decimal(_quantity(text)[0].removesuffix("%")) is not None


@lru_cache(maxsize=10_000)
def _quantity(text: str) -> tuple[str, str]:
    """An answer as LaTeX without thousands separators, and its unit, "" for none: "1,000 centimeters" is 1000, cm."""
    if len(text) > 2 * LONGEST:
        return text, ""
    text = INNER_TEXT.sub(r" \1 ", text)
    text = TEMPERATURE.sub(lambda match: f" degrees{match['scale'].upper()}", text)
    for plain, latex in PLAIN_MATHS.items():
        text = text.replace(plain, latex)
    text = SUPERSCRIPT.sub(lambda match: f"^{{{match[0].translate(LOWERED)}}}", text)
    text = ROOT.sub(lambda match: rf"\sqrt{{{match[1] or match[2]}}}", text).strip()
    text = text[about.end() :] if (about := ABOUT.match(text)) else text
    text = CURRENCY.sub(r"\g<sign>", text, count=1)
    text = THOUSANDS.sub(lambda match: match[0].replace(",", ""), text).strip()
    if NUMBER_WORD.match(text):
        text = NUMBER_WORD.sub(lambda match: str(NUMBER_WORDS.index(match[0].lower())), text)
    text = re.sub(r"\s*percent$", "%", re.sub(r"(?<=\w)\s\([A-Za-z ]+\)$", "", text))
    if SPACED_THOUSANDS.fullmatch(text):
        text = text.replace(" ", "")
    match = QUANTITY.fullmatch(text)
    if match is None or (match["word"] or "").lower() in NO_UNIT or HAN_NUMBER.search(match["han"] or ""):
        return text, ""
    power = re.sub(r"\D", "", match["power"] or "") or {"s": "2", "c": "3"}.get((match["power_word"] or "-")[0], "")
    return match["number"].strip(), _unit(match["short"] or match["letter"] or match["han"] or match["word"]) + power


def _unit(name: str) -> str:
    name = name if len(name) == 1 else name.lower()
    if metre := METRE.fullmatch(name):
        return METRES[metre[1]]
    return "" if name in ("degree", "degrees", "unit", "units") else name.removesuffix("s") if len(name) > 2 else name


def _decimal(number: str) -> Decimal | None:
    """The value of 12, -.5, 1.2e3 and 1.2 x 10^3; None for anything else."""
    if match := TIMES_TEN.fullmatch(number):
        return Decimal(f"{match['number']}e{match['power']}")
    return Decimal(number) if DECIMAL.fullmatch(number) else None


def _is_expression(text: str) -> bool:
    """Whether math_verify may read it: no words (it takes "deer" for d e e r, which is "reed"), and nothing endless."""
    if len(text) > LONGEST or ENDLESS.search(text) or re.search(r"[^\W\d_]{2,}", re.sub(r"\\[A-Za-z]+", " ", text)):
        return False
    powers = [int(power) for power in NUMERIC_EXPONENT.findall(text)]
    return text.count("^") == len(EXPONENT.findall(text)) and math.prod(powers) <= LARGEST_POWER


@lru_cache(maxsize=100_000)
def equal(given: str, right: str) -> bool:
    """Whether math_verify calls two LaTeX expressions equal; False when it cannot tell within LIMIT_S."""
    with _one_at_a_time:
        worker = _worker(os.getpid())
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            worker.stdin.write(json.dumps([given, right]) + "\n")
            worker.stdin.flush()
            said = worker.stdout.readline()
        except BrokenPipeError:
            said = ""
        if not said:  # it was stopped
            _worker.cache_clear()
            with suppress(BrokenPipeError), worker:
                pass
    return said == "1\n"


@cache
def _worker(process: int) -> subprocess.Popen[str]:
    """The worker of this process: a fork must not share the pipes of its parent."""
    worker = subprocess.Popen(
        [sys.executable, "-P", __file__, str(LIMIT_S)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert worker.stdout is not None
    if worker.stdout.readline() != "ready\n":
        raise ValueError("math_verify, which compares answers, does not start; try: python -c 'import math_verify'")
    return worker


def _serve(limit: float) -> None:
    import resource
    import signal

    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    normalisation = NormalizationConfig(units=False, malformed_operators=True, nits=True, boxed="all")
    latex = [LatexExtractionConfig(normalization_config=normalisation)]

    @lru_cache(maxsize=1000)
    def read(text: str) -> list[Any]:
        percent = "%" if text.endswith("%") else ""
        return parse(f"${text.removesuffix('%')}${percent}", latex, fallback_mode="no_fallback", parsing_timeout=None)

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process, also within a long operation
    print("ready", flush=True)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, limit)
        try:
            given, right = map(read, json.loads(line))
            same = bool(given and right and verify(right, given, timeout_seconds=None))
        except Exception:
            same = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(int(same), flush=True)


if __name__ == "__main__":
    _serve(float(sys.argv[1]))
