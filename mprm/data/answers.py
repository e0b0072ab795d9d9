"""What a solution answers, and which answers are the same."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

from mprm.data.quantities import INNER_TEXT, LATEX_SPACE, Reading, is_quantity, read

SEARCHED = 20_000  # characters at the end of a solution
COMPARED = 1000  # characters; longer answers are compared as they stand
LAYERS = 8  # of wrapping around an answer

# Full-width forms, spaces and quotes in ASCII.
ASCII = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | dict.fromkeys((0xA0, 0x2009, 0x202F, 0x3000), 32)
ASCII |= str.maketrans("“”„‘’【】、", '"""\'\'[],')  # noqa: RUF001

EMPHASIS = re.compile(
    r"(?<![A-Za-z0-9)}\]*_\\])(?P<mark>\*{1,3}|_{1,2}(?!\s))(?![\s*_])(?P<text>[^*_\n]{1,300})(?P=mark)(?![*_])"
    r"|(?<![*`])\*{2,3}(?=\s|$)|`{1,3}"
)
DISPLAY = re.compile(r"\$\$\s{0,9}([^$]{1,300}?)\s{0,9}\$\$|\\\[\s{0,9}([^\[\]]{1,300}?)\s{0,9}\\\]")
THOUGHT = "</think>"

BOX = re.compile(r"(?P<box>\\f?boxed\s{0,9}\{)|\\.|[{}]", re.DOTALL)
TAG = re.compile(
    r"<(?P<tag>(?:final_?)?answer)>(?P<answer>(?:(?!<(?P=tag)>).){1,2000}?)</(?P=tag)>"
    r"|<\|begin_of_box\|>(?P<box>[^|]{1,2000})<\|end_of_box\|>",
    re.IGNORECASE | re.DOTALL,
)
LAST_HASHES = re.compile(r"(?:^|\n)\s{0,9}####[ \t]*+([^#\s][^\n]*+)\s*+\Z")

LEAD = re.compile(
    r"(?:\b(?:answer|ans|(?:correct|right|best)\s{1,9}(?:option|choice))\b['\"]?"
    r"(?:\s{1,9}(?:to|for)\s[^.:\n]{1,80}?|\s{1,9}\([^()\n]{1,30}\))?"
    r"(?:(?:'s|\s{1,9}(?:is|(?:should|must|would|will)\s{1,9}be))\b"
    r"(?:,?\s(?:therefore|thus|hence|then|indeed|clearly)\b,?)?"
    r"\s{0,9}:?|\s{0,9}(?:[:=→]|->)|\s{1,9}[-–—](?=\s)|(?<=\bans)\.(?=\s))"  # noqa: RUF001
    r"|^[#>\s]{0,9}(?:the\s)?(?:final\s|correct\s)?answer[.:]?[ \t]{0,9}(?=\n)"
    r"|(?:答案|答え|正解|正确选项|^答(?=:))\s{0,9}:?\s{0,9}(?:应该|应)?(?:就是|是|为|选择|选|は)?\s{0,9}:?)\s*+(?=\S)",
    re.IGNORECASE | re.MULTILINE,
)
COMMENT = re.compile(r"(?:correct|incorrect|consistent|reasonable|verified|plausible|as\sfollows)\b", re.IGNORECASE)
SENTENCE = re.compile(
    r"(?:(?<=\bSt)\.|(?<=\bMr)\.|(?<=\bMrs)\.|(?<=\bDr)\.|(?<=[apAP]\.[mM])\.|(?!\.(?:\s|$))[^\n。])*"
)
CHOSEN = re.compile(
    r"(?:选择?|\bI(?:'d|'ll|\swould|\swill)?\s(?:choose|pick|select|go\swith))"
    r"\s{0,9}:?\s{0,9}(?:(?:option|choice|answer)\s)?\(?(?P<chosen>[A-J])\b\)?"
    r"(?!\s{0,3}(?:,|/|and|or|或|和)\s{0,3}\(?[A-J]\b)"
    r"|(?<!statement )(?<!and )(?<!or )(?<![A-Za-z])\(?(?P<right>[A-J])\)?\sis\s"
    r"(?:the\s(?:answer\b|(?:correct|right|best)\s(?:answer|option|choice)\b)|correct(?=[.,!;]|\s*+\Z|\n))"
    r"|\b(?:So|Thus|Therefore|Hence),?\s(?:it(?:\sis|'s)\s)?"
    r"(?P<so>\(?[A-J]\)?|[-+]?\d[\d,]*(?:\.\d+)?)[.!]?[ \t]*+(?=\n|\Z)"
)
REASON = re.compile(
    r"(?P<answer>.+?)(?:,?\s(?:because|since)\b|,\s(?:as|so|which|given|namely|i\.e)\b|,?\s?因为|,\s\"\w+\":).*",
    re.DOTALL,
)

# "B", "(B)", "[b]", "(B) 12 cm", "B.", "B: 12 cm", "B, the red", "option b"; not "A, B", "(A) and (B)", "A triangle"
OPTION = re.compile(
    r"(?P<named>(?i:(?:the\s)?(?:correct\s)?(?:option|choice|answer|letter|选项)(?:\sis)?\s?:?\s?))?"
    r"(?:[(\[{](?P<round>[A-Za-z])[)\]}](?!.*[(\[{][A-Z][)\]}])(?:(?:[\s.:,]|(?=[\u4e00-\u9fff]))(?P<after>.*))?"
    r"|(?P<bare>[A-Z]|(?<=[nNeErR项]\s)[a-z])(?:\s?[.:)](?P<text>(?=\s|[^\sA-Za-z]|[A-Za-z]{2}).*|(?=$))"
    r"|(?:,\s|\s[-–—(])(?P<remark>(?!.*\b[A-J]\b)(?!.*\b(?:and|or)\b).*))?)",  # noqa: RUF001
    re.DOTALL,
)
LINE = re.compile(r"([xyz])\s*=")  # x = 1 is not y = 1
OPTION_LENGTH = len("(A)")
WRAPPERS = re.compile(
    r"\\f?boxed\s?\{(?P<boxed>.*)\}|\$\$?(?P<dollar>(?:\\\$)?[^$]*)\$\$?|\\[(\[](?P<math>.*)\\[)\]]"
    r"|\\(?:text|textbf|textit|mathrm|mathbf|mbox)\{(?P<text>[^{}]*)\}|\*{1,3}(?P<bold>[^*]*)\*{1,3}|`+(?P<code>[^`]*)`+"
    r"|\"(?P<double>[^\"]*)\"|'(?P<single>[^']*)'|<(?P<tag>\w+)>(?P<tagged>[^<>]*)</\w+>|\((?P<round>[A-Za-z]{2,})\)",
    re.DOTALL,
)
QUOTED = re.compile(r"\"(?P<quoted>[^\"]+)\"\s*[,}].*", re.DOTALL)  # the value of a JSON object, or a quotation
BASE = re.compile(r"(?<=\d_)\{(\d+)\}")  # 11_{2} is 11_2
ARTICLE = re.compile(r"\b(?:a|an|the)\s+(?=[a-z]{2})")
PUNCTUATION = re.compile(r"(?<![.,;:!?])[.,;:!?]+(?=\s|$)|[\"`*]")
YES_OR_NO = re.compile(r"(yes|no|true|false)\b(?:\s*[.,;:!-](?!\s*\d).*)?", re.DOTALL)
OPTIONS = re.compile(r"\(?[A-J]\)?(?:\s*(?:,|&|\band\b|,\s*and\b)\s*\(?[A-J]\)?)+")


def final_answer(steps: Sequence[str]) -> str | None:
    r"""The answer that a solution ends with, without its wrapping; None when it states none.

    Looked for in the last step, then in the whole solution: the last \boxed{...} or <answer>...</answer>, a last line
    "#### ...", what follows the last "answer is", "Answer:", "correct option is" or 答案 to the end of the sentence or
    the last 选, "I choose", "B is correct", and a last line that is nothing but an option, a number or yes or no.
    Example: "The answer is **$10$**." gives "10".
    """
    if not steps:
        return None
    whole = "\n\n".join(steps)[-SEARCHED:].rpartition(THOUGHT)[2].strip()
    for text in (steps[-1][-SEARCHED:], whole):
        answer = next(filter(None, map(_bare, _stated(text, text.strip() == whole))), None)
        if answer:
            return answer
    first = _bare(whole.partition("\n")[0])
    return first if _option(first) == (first.strip("()"), "") else None


def answer_key(answer: str) -> Hashable:
    """What an answer says: two answers are the same when their keys are equal.

    An option is its letter. A number is exact, a percent sign a hundredth: 1/2 = 0.5 = 50 %, not 50. A quantity is so
    many of a base unit: 10 cm = 0.1 m, not 10. Expressions are what they evaluate to, x = 5 is 5. Ranges, ratios, dates
    and times are no arithmetic; a list without brackets has no order. Anything else is a text without case, articles,
    white space, quotes and punctuation at the end of a word.
    """
    return _reading(_bare(answer)).key


def is_right(given: str, reference: str) -> bool:
    """Whether an answer is right.

    It is when it has the key of the reference. What one of the two leaves out does not count against it: a unit or a
    percent sign (50 and 0.5 are right for 50 %, and 50 % for either), the text of an option or its letter. So answers
    that are right for one reference may differ from each other. The line x = 1 is not y = 1, though their keys are.
    """
    given, reference = _bare(given), _bare(reference)
    (letter, text), (right_letter, right_text) = _option(given), _option(reference)
    if right_letter and (letter or not right_text):
        return letter == right_letter
    if right_text or text:
        return is_right(text or given, right_text or reference)
    said, right = _reading(given), _reading(reference)
    if said.key == right.key:
        lines = {axis[1] for axis in map(LINE.match, (given, reference)) if axis}
        return bool(given) and (len(lines) < 2 or not isinstance(said.key, Fraction | str))
    return said.key == right.plain if said.plain is None else right.plain is None and said.plain == right.key


def answer_classes(answers: Sequence[str | None]) -> list[int]:
    """A number per answer, 0, 1, ... in order of appearance, the same for the same answers; -1 for None.

    An answer without a unit, or without the letter of its option, joins the one among these that it may be short for:
    10 joins 10 cm, unless there is 10 m, too. The classes do not depend on the order.
    """
    fuller: dict[Hashable, set[Hashable]] = {}  # keys, and those that they may be short for
    for answer in {answer for answer in answers if answer is not None}:
        for full, short in pairwise(_shortened(answer)):
            fuller.setdefault(short, set()).add(full)

    def fullest(key: Hashable) -> Hashable:
        keys = {fullest(full) for full in fuller.get(key, ())}
        return keys.pop() if len(keys) == 1 else key

    classes: dict[Hashable, int] = {}
    keys = [None if answer is None else fullest(answer_key(answer)) for answer in answers]
    return [-1 if key is None else classes.setdefault(key, len(classes)) for key in keys]


def _shortened(answer: str) -> list[Hashable]:
    """The key of an answer, then those of what it may be shortened to: B, 12 cm and 12 for "(B) 12 cm"."""
    bare = _bare(answer)
    reading, (letter, text) = _reading(bare), _option(bare)
    if letter and text and not _option(_bare(text))[0]:
        return [reading.key, *_shortened(text)]
    return [reading.key, reading.plain] if isinstance(reading.key, tuple) and reading.key[0] == "of" else [reading.key]


@lru_cache(maxsize=100_000)
def _reading(bare: str) -> Reading:
    if len(bare) > COMPARED:
        return Reading(("text", " ".join(bare.casefold().split())))
    letter, _ = _option(bare)
    if letter:
        return Reading(("options", letter))
    if OPTIONS.fullmatch(bare):
        return Reading(("options", *sorted(set(re.findall("[A-Z]", bare)))))
    if yes_or_no := YES_OR_NO.fullmatch(bare.casefold()):
        return Reading(("text", yes_or_no[1]))
    return read(bare) or Reading(("text", _words(bare) or bare))


def _stated(text: str, is_whole: bool) -> Iterator[str]:
    """What may be the answer of a text, the surest first. is_whole: it is the whole solution, no step of it, which may
    be an item of a list, "B. Add the numbers"."""
    yield _boxed(text)
    if tags := list(TAG.finditer(text)):
        yield tags[-1]["answer"] or tags[-1]["box"]
    text = text.translate(ASCII)
    text = DISPLAY.sub(lambda match: f"${match[1] or match[2]}$", text)
    text = EMPHASIS.sub(lambda match: match["text"] or "", text)
    leads = list(LEAD.finditer(text))
    leads = [lead for lead in leads if not COMMENT.match(text, lead.end())] or leads
    end, answer = 0, ""
    if leads:
        sentence = SENTENCE.match(text, leads[-1].end())
        assert sentence is not None
        end, answer = sentence.end(), sentence[0]
    chosen = list(CHOSEN.finditer(text, end))
    if chosen:
        yield next(filter(None, chosen[-1].groups()))
    yield answer
    if hashes := LAST_HASHES.search(text):
        yield hashes[1]
    last = _bare(text.strip().rpartition("\n")[2])
    letter, remark = _option(last)
    alone = is_whole and "\n" not in text.strip()
    yes_or_no = YES_OR_NO.fullmatch(last.casefold())
    if (
        (letter and (alone or not remark))
        or is_quantity(last)
        or (yes_or_no and (alone or yes_or_no[1] == yes_or_no[0]))
    ):
        yield last


def _boxed(text: str) -> str:
    r"""Content of the last \boxed{...} whose braces are closed, or ""."""
    open_braces: list[int | None] = []  # where the content of a box starts; None: of something else
    last = (-1, -1)
    for token in BOX.finditer(text):
        if token["box"]:
            open_braces.append(token.end())
        elif token[0] == "{":
            open_braces.append(None)
        elif token[0] == "}" and open_braces:
            start = open_braces.pop()
            last = max(last, (start or -1, token.start()))
    return text[slice(*last)] if last[0] >= 0 else ""


@lru_cache(maxsize=10_000)
def _bare(text: str) -> str:
    """The answer without white space, a full stop, quotes, dollars, bold, a box or a reason around it."""
    text = text.translate(ASCII).strip()
    for _ in range(LAYERS if len(text) <= COMPARED else 0):
        before = text
        text = text.strip().rstrip(",;:。").strip("*").strip()
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1].rstrip()
        for opening, closing in ("([", ")"), ("{", "}"), ("[(", "]"):
            if text.endswith(closing) and not any(bracket in text for bracket in opening):
                text = text[:-1].rstrip()
        if match := (WRAPPERS.fullmatch(text) or QUOTED.fullmatch(text) or REASON.fullmatch(text)):
            inner = next(group for name, group in match.groupdict().items() if group is not None and name != "tag")
            text = inner if inner.strip() else text
        if text == before:
            break
    return text


@lru_cache(maxsize=10_000)
def _option(text: str) -> tuple[str | None, str]:
    """The letter of the option that an answer chooses, None for none, and the text beside it, "" for none."""
    if len(text) > COMPARED:
        return None, ""
    text = " ".join(LATEX_SPACE.sub(" ", INNER_TEXT.sub(r" \1 ", text)).split())
    match = OPTION.fullmatch(text.upper() if len(text) <= OPTION_LENGTH else text)
    if match is None:
        return None, ""
    return (match["round"] or match["bare"]).upper(), (match["after"] or match["text"] or "").strip()


@lru_cache(maxsize=10_000)
def _words(text: str) -> str:
    text = BASE.sub(r"\1", INNER_TEXT.sub(r"\1", text)).casefold()
    return " ".join(ARTICLE.sub("", PUNCTUATION.sub(" ", text)).split())
