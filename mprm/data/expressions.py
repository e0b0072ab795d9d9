"""Expressions, in LaTeX or plain: equal ones have equal values, however they are written.

They are computed while they are read: exactly as long as all is rational, else with DIGITS digits, of which KEPT count.
A symbol stands for fixed numbers that no expression of our length meets by chance (Schwartz 1980, Zippel 1979), so that
no algebra is needed. Every number and every nesting is bounded: no text takes long.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Sequence
from fractions import Fraction
from hashlib import sha256
from typing import Any, TypeAlias

# Of a constant, exact where it is rational, rounded to KEPT digits where not; of an expression, at every point.
Value: TypeAlias = Fraction | str | tuple[Fraction | str, ...]

LONGEST = 200  # characters of an expression
DEEPEST = 60  # brackets, powers and commands in it
DIGITS, KEPT = 100, 60
LARGEST = 4000  # bits of a number, of its inverse
DENOMINATOR = 10**9  # a computed number that agrees with a fraction of at most this denominator in KEPT digits is it
POINTS = 3  # all symbols positive, all negative, some: |x| is neither x nor -x, |xy| not xy

TOKEN = re.compile(
    r"\s*(\d+(?:\.\d*)?|\.\d+|\\[A-Za-z]+|(?<![A-Za-z])[A-Za-z](?:_\{[A-Za-z0-9]+\}|_[A-Za-z0-9])|[A-Za-z]+|\S)"
)
LETTER = re.compile("[A-Za-zα-ω]")
FUNCTIONS = ("sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "ln", "log", "exp")
ARCS = {"arcsin": "asin", "arccos": "acos", "arctan": "atan"}
GREEK = "alpha beta gamma delta epsilon varepsilon theta lambda mu nu rho sigma tau phi varphi psi omega Delta Omega"
SYMBOLS = {f"\\{name}" for name in GREEK.split()}
NAMES = {*FUNCTIONS, "sqrt", "pi"}
TIMES, OVER = {"*", r"\times", r"\cdot", "·"}, {"/", r"\div", "÷"}
CLOSING = {"(": ")", "[": "]", "{": "}"}

_local = threading.local()


def value(text: str, up_to_a_factor: bool = False) -> Value | None:
    """The value of an expression, None for what is none; of one with symbols, divided by the first where asked."""
    if len(text) > LONGEST:
        return None
    try:
        tokens = _tokens(text)
        numbers = [_Reader(tokens, point).whole() for point in range(POINTS)]
        if up_to_a_factor:
            numbers = [_apply("/", number, numbers[0]) for number in numbers]
        values = tuple(map(_rounded, numbers))
    except (ValueError, ArithmeticError, IndexError):
        return None
    return values[0] if len(set(values)) == 1 else values


def _tokens(text: str) -> list[str]:
    tokens: list[str] = []
    for token in TOKEN.findall(text):
        if token in NAMES:
            tokens.append(f"\\{token}")
        elif token.isalpha() and len(token) > 1:
            if len(token) > 3 or not any(map(str.isdigit, text)):
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


def _real(number: Any) -> Any:
    return _mp().mpf(number.numerator) / number.denominator if isinstance(number, Fraction) else number


def _bounded(number: Any) -> Any:
    if isinstance(number, Fraction):
        size = max(number.numerator.bit_length(), number.denominator.bit_length())
    else:
        size = abs(_mp().mag(number)) if number else 0
    if not size <= LARGEST:  # nor is a nan
        raise OverflowError
    return number


def _apply(operation: str, one: Any, other: Any) -> Any:
    if not (isinstance(one, Fraction) and isinstance(other, Fraction)):
        one, other = _real(one), _real(other)
    return _bounded(one + other if operation == "+" else one * other if operation == "*" else one / other)


def _power(base: Any, power: Any) -> Any:
    mp = _mp()
    if isinstance(base, Fraction) and isinstance(power, Fraction) and power.denominator == 1:
        if abs(power) * max(base.numerator.bit_length(), base.denominator.bit_length()) > LARGEST:
            raise OverflowError
        return base ** int(power)
    number = _real(base)
    if number and abs(_real(power)) * (abs(mp.mag(number)) + 1) > LARGEST:
        raise OverflowError
    if isinstance(power, Fraction) and power.denominator % 2 and not mp.im(number) and mp.re(number) < 0:
        return _bounded((-number) ** _real(power) * (-1) ** power.numerator)  # the real root
    return _bounded(number ** _real(power))


def _rounded(number: Any) -> Fraction | str:
    if isinstance(number, Fraction):
        return number
    mp = _mp()
    real, imaginary = (_part(part) for part in (mp.re(number), mp.im(number)))
    return real if imaginary == 0 else f"{real} + {imaginary} i"


def _part(number: Any) -> Fraction | str:
    mp = _mp()
    if abs(number) < mp.mpf(10) ** (KEPT - DIGITS):
        return Fraction(0)
    sign, mantissa, exponent, _ = number._mpf_
    exact = Fraction(-int(mantissa) if sign else int(mantissa)) * Fraction(2) ** int(exponent)
    near = exact.limit_denominator(DENOMINATOR)
    return near if abs(near - exact) < abs(exact) / 10**KEPT else str(mp.nstr(number, KEPT))


class _Reader:
    """Recursive descent over the tokens of an expression, with the symbols at one of the points."""

    def __init__(self, tokens: Sequence[str], point: int) -> None:
        self.tokens, self.point, self.at = [*tokens, ""], point, 0

    def whole(self) -> Any:
        number = self.sum()
        self.expect("")
        return number

    def next(self) -> str:
        return self.tokens[self.at]

    def take(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1]

    def expect(self, token: str) -> None:
        if self.take() != token:
            raise ValueError(f"no {token!r}")

    def signed(self) -> Fraction:
        sign = Fraction(1)
        while self.next() in ("+", "-"):
            sign *= -1 if self.take() == "-" else 1
        return sign

    def sum(self) -> Any:
        total = self.product()
        while self.next() in ("+", "-"):
            total = _apply("+", total, self.product())
        return total

    def product(self) -> Any:
        total = _apply("*", self.signed(), self.power())
        while token := self.next():
            if token in TIMES | OVER:
                self.take()
                total = _apply("/" if token in OVER else "*", total, _apply("*", self.signed(), self.power()))
            elif LETTER.match(token) or token[0] == "\\" or token in CLOSING:
                total = _apply("*", total, self.power())
            elif token[0].isdigit() or token[0] == ".":
                raise ValueError("a number after a factor")  # H2O is no product
            else:
                break
        return total

    def power(self) -> Any:
        base = self.atom()
        while self.next() in ("^", "!"):
            base = _power(base, self.exponent()) if self.take() == "^" else self.factorial(base)
        return base

    def exponent(self) -> Any:
        sign, base = self.signed(), self.atom()
        if self.next() == "^":
            self.take()
            base = _power(base, self.exponent())
        return _apply("*", sign, base)

    @staticmethod
    def factorial(number: Any) -> Fraction:
        if not isinstance(number, Fraction) or number.denominator > 1 or not 0 <= number <= 400:
            raise ValueError("not the factorial of a small number")
        return _bounded(Fraction(math.factorial(int(number))))  # type: ignore[no-any-return]

    def atom(self) -> Any:
        token, mp = self.take(), _mp()
        if token[0].isdecimal() or token[0] == ".":
            return _bounded(Fraction(token))
        if token in CLOSING or token == "|":
            inner = self.sum()
            self.expect(CLOSING.get(token, token))
            return abs(inner) if token == "|" else inner
        if token == r"\frac":
            over = self.atom()
            return _apply("/", over, self.atom())
        if token == r"\sqrt":
            return self.root()
        if token[1:] in FUNCTIONS:
            return self.function(token[1:])
        if token == r"\pi":
            return +mp.pi
        if token in ("e", "i"):
            return +mp.e if token == "e" else mp.mpc(0, 1)
        if not LETTER.match(token) and token not in SYMBOLS:
            raise ValueError("not an expression")
        return self.symbol(token)

    def root(self) -> Any:
        degree: Any = Fraction(2)
        if self.next() == "[":
            degree = self.atom()
        if not isinstance(degree, Fraction):
            raise ValueError("not a root")
        return _power(self.atom(), 1 / degree)

    def function(self, name: str) -> Any:
        mp, power, base = _mp(), Fraction(1), Fraction(10)
        if self.next() == "^":
            self.take()
            power = self.exponent()
        if self.next() == "_":
            self.take()
            base = self.atom()
        number = self.power()
        while LETTER.match(self.next()) or self.next() == r"\pi":  # sin 2x
            number = _apply("*", number, self.power())
        number = _real(number)
        if power == -1:
            raise ValueError("an inverse, or a reciprocal")
        if name == "log":
            found = mp.log(number) / mp.log(_real(base))
        else:
            found = _power(+mp.e, number) if name == "exp" else getattr(mp, ARCS.get(name, name))(number)
        return _power(_bounded(found), power)

    def symbol(self, name: str) -> Any:
        name = re.sub(r"[{}]", "", name.lower())
        sign, size = (int.from_bytes(sha256(text.encode()).digest(), "big") for text in (name, f"{self.point} {name}"))
        return (_mp().mpf(size) / 2**256 + 1) * (1, -1, 1 - 2 * (sign & 1))[self.point]
