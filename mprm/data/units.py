"""Units of measure and of money, dates and times of day."""

from __future__ import annotations

import re
from collections.abc import Hashable
from fractions import Fraction

# A base, how many of it, and the names of that many.
TABLE = """
m 1 m meter metre 米
m 1000 km kilometer kilometre 千米 公里
m 1/10 dm decimeter decimetre 分米
m 1/100 cm centimeter centimetre 厘米
m 1/1000 mm millimeter millimetre 毫米
g 1 g gram 克
g 1000 kg kilogram 千克 公斤
g 1/1000 mg milligram 毫克
l 1 l liter litre 升
l 1/1000 ml milliliter millilitre 毫升
s 1 s sec second 秒
s 60 min minute 分钟
s 3600 h hr hour 小时
$ 1 $ dollar usd 美元
€ 1 € euro eur 欧元
£ 1 £ gbp 英镑
¥ 1 ¥ yuan rmb cny 元
円 1 円 yen jpy 日元
ft 1 ft foot feet
inch 1 in inch inche
% 1 % percent
"""
UNITS = {name: (line.split()[0], Fraction(line.split()[1])) for line in TABLE.split("\n") for name in line.split()[2:]}
MEGA = re.compile("M(?:g|[WJVNA]|Pa|Hz|eV)")  # no milligram, no milliwatt
UNITS |= dict.fromkeys(("degree", "deg", "度", "unit"), ("", Fraction(1)))  # as good as none

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
MONTH = r"(?P<month>jan|feb|mar|apr|may|jun|jul|aug|sept?|oct|nov|dec)(?:uary|ruary|ch|il|e|y|ust|tember|ember|ober)?"
DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
DATES = (
    re.compile(r"(?P<year>\d{4})(?P<mark>[-/.])(?P<number>\d{1,2})(?P=mark)(?P<day>\d{1,2})"),
    re.compile(r"(?P<year>\d{4})年(?P<number>\d{1,2})月(?P<day>\d{1,2})[日号]?"),
    re.compile(rf"{MONTH}\s+{DAY}(?:,?\s+(?P<year>\d{{4}}))?", re.IGNORECASE),
    re.compile(rf"{DAY}\s+(?:of\s+)?{MONTH}(?:,?\s+(?P<year>\d{{4}}))?", re.IGNORECASE),
)
NUMERIC_DATE = re.compile(r"\d{1,2}([-/.])\d{1,2}\1(?:\d{4}|\d{2})")  # of which country?
TIME = re.compile(r"(\d{1,2})(?::([0-5]\d))?(?::([0-5]\d))?(?:\s*([ap])\.?m\.?)?", re.IGNORECASE)


def base_unit(name: str) -> tuple[str, Fraction]:
    """The base of a unit, and how many of it the unit is: cm is 1/100 m. An unknown unit is its own base."""
    name = name if MEGA.fullmatch(name) else name.lower()
    name = name.removesuffix("s") if len(name) > 2 else name
    return UNITS.get(name, (name, Fraction(1)))


def calendar_key(text: str) -> Hashable:
    """The key of a date or of a time of day, None for anything else."""
    for form in DATES:
        if date := form.fullmatch(text):
            fields = date.groupdict()
            month = int(fields["number"]) if "number" in fields else 1 + MONTHS.index(fields["month"][:3].lower())
            return "date", int(fields["year"] or 0), month, int(fields["day"])
    if NUMERIC_DATE.fullmatch(text):
        return "date", *map(int, re.findall(r"\d+", text))
    if (time := TIME.fullmatch(text)) and (time[2] or time[4]):
        hour = int(time[1]) % 12 + 12 * (time[4] in "pP") if time[4] else int(time[1])
        return "time", hour, int(time[2] or 0), int(time[3] or 0)
    return None
