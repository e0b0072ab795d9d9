"""Expressions, in LaTeX or plain: equal ones have equal values, however they are written.

They are computed with DIGITS digits while they are read. A symbol stands for fixed numbers that no expression of our
length meets by chance (Schwartz 1980, Zippel 1979), so that no algebra is needed. Length, nesting and numbers are
bounded: no text takes long.
"""

from __future__ import annotations

import math
import re
import threading
from fractions import Fraction
from hashlib import sha256
from typing import Any, TypeAlias

# Of a constant; of an expression with symbols at every point.
Value: TypeAlias = Fraction | str | tuple[Fraction | str, ...]

LONGEST = 200  # characters of an expression
DEEPEST = 60  # brackets, powers and commands in it
LARGEST = 4000  # bits of a power, of its inverse
DIGITS, KEPT = 100, 60
DENOMINATOR = 10**20  # a number that agrees in KEPT digits with a fraction of at most this denominator is that fraction
POINTS = 3  # all symbols positive, all negative, some: |x| is neither x nor -x, |xy| not xy

TOKEN = re.compile(
    r"\s*(\d+(?:\.\d*)?|\.\d+|\\[A-Za-z]+|(?<![A-Za-z])[A-Za-z](?:_\{[A-Za-z0-9]+\}|_[A-Za-z0-9])|[A-Za-z]+|\S)"
)
LETTER = re.compile("[A-Za-z\u03b1-\u03c9]")
FUNCTIONS = {name: name for name in ("sin", "cos", "tan", "cot", "sec", "csc", "ln", "log", "exp")}
FUNCTIONS |= {"arcsin": "asin", "arccos": "acos", "arctan": "atan"}
GREEK = ("alpha", "beta", "gamma", "delta", "theta", "lambda", "mu", "rho", "phi", "omega")
SYMBOLS = {rf"\{name}": letter for name, letter in zip(GREEK, "αβγδθλμρφω", strict=True)}
TIMES, OVER = {"*", r"\times", r"\cdot", "·"}, {"/", r"\div", "÷"}
CLOSING = {"(": ")", "[": "]", "{": "}", "|": "|"}

_local = threading.local()


def value(text: str, up_to_a_factor: bool = False) -> Value | None:
    """The value of an expression, None for what is none; of one with symbols, divided by the first where asked."""
    if len(text) > LONGEST:
        return None
    try:
        tokens = _tokens(text)
        numbers = [_Reader(tokens, point).whole() for point in range(POINTS)]
        values = tuple(_rounded(number / numbers[0] if up_to_a_factor else number) for number in numbers)
    except (ValueError, ArithmeticError):
        return None
    return values[0] if len(set(values)) == 1 else values


def _tokens(text: str) -> list[str]:
    tokens: list[str] = []
    for token in TOKEN.findall(text):
        if token in FUNCTIONS or token in ("sqrt", "pi"):
            tokens.append(f"\\{token}")
        elif token.isalpha() and len(token) > 1:
            if len(token) > 3 or not re.search(r"\d", text):
                raise ValueError("a word, not a product of symbols")
            tokens += token
        else:
            tokens.append(token)
    if sum(token in "([{|^" or token[0] == "\\" for token in tokens) > DEEPEST:
        raise ValueError("too deep")
    return tokens


def _mp() -> Any:
    """A context of mpmath of this thread: its precision changes within a function."""
    if not hasattr(_local, "mp"):
        from mpmath.ctx_mp import MPContext

        _local.mp = MPContext()
        _local.mp.dps = DIGITS
    return _local.mp


def _power(base: Any, power: Any) -> Any:
    mp = _mp()
    if base and abs(power) * (abs(mp.mag(base)) + 1) > LARGEST:
        raise OverflowError
    if not mp.im(base) and mp.re(base) < 0 and isinstance(ratio := _rounded(power), Fraction) and ratio.denominator % 2:
        return (-base) ** power * (-1) ** ratio.numerator  # the real root
    return base**power


def _rounded(number: Any) -> Fraction | str:
    mp = _mp()
    real, imaginary = (_part(part) for part in (mp.re(number), mp.im(number)))
    return real if imaginary == 0 else f"{real} + {imaginary} i"


def _part(number: Any) -> Fraction | str:
    mp = _mp()
    if not mp.isfinite(number) or abs(number) > mp.mpf(2) ** LARGEST:
        raise OverflowError
    if abs(number) < mp.mpf(10) ** (KEPT - DIGITS):
        return Fraction(0)
    sign, mantissa, exponent, _ = number._mpf_
    exact = int(mantissa) * Fraction(2) ** int(exponent) * (-1) ** sign
    near = exact.limit_denominator(DENOMINATOR)
    return near if abs(near - exact) < abs(exact) / 10**KEPT else str(mp.nstr(number, KEPT))


class _Reader:
    """Recursive descent over the tokens of an expression, with the symbols at one of the points."""

    def __init__(self, tokens: list[str], point: int) -> None:
        self.tokens, self.point = [*reversed(tokens)], point

    def next(self) -> str:
        return self.tokens[-1] if self.tokens else ""

    def found(self, *tokens: str) -> str:
        """The next token, taken, where it is one of these; else ""."""
        return self.tokens.pop() if self.next() in tokens and self.tokens else ""

    def whole(self) -> Any:
        number = self.sum()
        if self.tokens:
            raise ValueError("more than an expression")
        return number

    def sum(self) -> Any:
        total = self.product()
        while self.next() in ("+", "-"):
            total += self.product()
        return total

    def signed(self) -> Any:
        sign = 1
        while found := self.found("+", "-"):
            sign = -sign if found == "-" else sign
        return sign * self.power()

    def product(self) -> Any:
        total = self.signed()
        while token := self.next():
            if self.found(*TIMES):
                total *= self.signed()
            elif self.found(*OVER):
                total /= self.signed()
            elif LETTER.match(token) or token[0] == "\\" or token in "([{":
                total *= self.power()
            elif token[0].isdigit():
                raise ValueError("a number after a factor")  # H2O is no product
            else:
                break
        return total

    def power(self) -> Any:
        base = self.atom()
        while found := self.found("^", "!"):
            base = _power(base, self.exponent()) if found == "^" else self.factorial(base)
        return base

    def exponent(self) -> Any:
        sign = -1 if self.found("+", "-") == "-" else 1
        base = self.atom()
        return sign * (_power(base, self.exponent()) if self.found("^") else base)

    @staticmethod
    def factorial(number: Any) -> Any:
        exact = _rounded(number)
        if not isinstance(exact, Fraction) or exact.denominator > 1 or not 0 <= exact <= 400:
            raise ValueError("not the factorial of a small number")
        return _mp().mpf(math.factorial(int(exact)))

    def atom(self) -> Any:
        token, mp = self.tokens.pop() if self.tokens else "?", _mp()
        if token[0].isdecimal() or token[0] == ".":
            return mp.mpf(token)
        if token in CLOSING:
            inner = self.sum()
            if not self.found(CLOSING[token]):
                raise ValueError("an open bracket")
            return abs(inner) if token == "|" else inner
        if token == r"\frac":
            over = self.atom()
            return over / self.atom()
        if token == r"\sqrt":
            degree = self.atom() if self.next() == "[" else 2
            return _power(self.atom(), mp.mpf(1) / degree)
        if token[1:] in FUNCTIONS:
            return self.function(token[1:])
        if token in (r"\pi", "e", "i"):
            return mp.mpc(0, 1) if token == "i" else +mp.pi if token == r"\pi" else +mp.e
        if LETTER.match(token) or token in SYMBOLS:
            return self.symbol(SYMBOLS.get(token, re.sub(r"[{}]", "", token.lower())))
        raise ValueError("not an expression")

    def function(self, name: str) -> Any:
        mp = _mp()
        power = self.exponent() if self.found("^") else 1
        base = self.atom() if self.found("_") else mp.mpf(10)
        number = self.power()
        while LETTER.match(self.next()) or self.next() == r"\pi":  # sin 2x
            number *= self.power()
        if power == -1:
            raise ValueError("an inverse, or a reciprocal")
        if name == "exp":
            return _power(_power(+mp.e, number), power)
        return _power(mp.log(number) / mp.log(base) if name == "log" else getattr(mp, FUNCTIONS[name])(number), power)

    def symbol(self, name: str) -> Any:
        sign, size = (int.from_bytes(sha256(text.encode()).digest(), "big") for text in (name, f"{self.point} {name}"))
        return (_mp().mpf(size) / 2**256 + 1) * (1, -1, 1 - 2 * (sign & 1))[self.point]
