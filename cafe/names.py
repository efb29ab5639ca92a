r"""Makes names from strangers safe to show on a terminal, in a table or in a file's name.

A class, a data set or a file may have any name. A terminal obeys escape sequences, a spreadsheet computes cells that
begin with ``=``, a page or terminal is read backwards after a right-to-left override, and a file system takes no ``/``.
"""

from __future__ import annotations

import re

# C0 and C1 control characters and DEL (the terminal's commands); marks that change the direction of the text around
# them, and separators of lines and paragraphs (UAX 9; CVE-2021-42574); lone surrogates, which Python makes of bytes
# that are not UTF-8, and which no stream takes.
_HARMFUL = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff"
_IN_TEXT = re.compile(f"[{_HARMFUL}]")
_IN_NAME = re.compile(f"[{_HARMFUL}\t\n]")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # OWASP, "CSV Injection"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|-?inf|-?nan")
_LONGEST_FILE_NAME = 200  # bytes; file systems take 255, and a temporary name adds its own


def visible(text: str) -> str:
    r"""Return a text that a terminal shows and never obeys; line breaks and tabs stay.

    Parameters
    ----------
    text : str
        Prose or a table with names of strangers in it.

    Returns
    -------
    str
        Each control character, bidirectional mark and lone surrogate as its escape.

    Examples
    --------
    >>> print(visible("cat\x1b[2Jdog"))
    cat\x1b[2Jdog
    """
    return _IN_TEXT.sub(_escape, text)


def visible_name(name: str) -> str:
    r"""Return one name for one line: as :func:`visible`, with line breaks and tabs escaped too.

    Examples
    --------
    >>> print(visible_name("cat\ndog"))
    cat\ndog
    """
    return _IN_NAME.sub(_escape, name)


def short_name(name: str, longest: int = 60) -> str:
    """Return a name without invisible characters, cut to a length.

    Examples
    --------
    >>> short_name("a very long name", 9)
    'a very...'
    """
    shown = visible_name(name)
    return shown if len(shown) <= longest else f"{shown[: longest - 3]}..."


def visible_json(document: str) -> str:
    r"""Return a JSON document with the characters that :func:`visible` escapes as JSON's own ``\u`` escapes.

    Its meaning stays the same, since such characters occur only in strings.

    Examples
    --------
    >>> print(visible_json('{"class": "cat\u202edog"}'))
    {"class": "cat\u202edog"}
    """
    return _IN_TEXT.sub(lambda match: f"\\u{ord(match[0]):04x}", document)


def csv_cell(text: str) -> str:
    """Return a text that a spreadsheet shows and never computes, and a terminal shows too.

    Parameters
    ----------
    text : str
        A cell. A number is left as it is.

    Returns
    -------
    str
        With an apostrophe before ``=``, ``+``, ``-``, ``@`` or a tab at its beginning, which spreadsheets take as the
        mark of a text.

    Examples
    --------
    >>> csv_cell("=1+2"), csv_cell("-0.25"), csv_cell("cat")
    ("'=1+2", '-0.25', 'cat')
    """
    computed = text.startswith(_FORMULA) and not _NUMBER.fullmatch(text)
    return f"'{visible(text)}" if computed else visible(text)


def file_name(text: str) -> str:
    """Return a text as part of a file's name: letters, digits, ``_``, ``.`` and ``-`` alone.

    Examples
    --------
    >>> file_name("openai/clip-vit-base-patch32"), file_name("../../etc/passwd")
    ('openai-clip-vit-base-patch32', 'etc-passwd')
    """
    name = re.sub(r"[^\w.]+", "-", text).strip("-.")
    return name.encode("utf-8", "ignore")[:_LONGEST_FILE_NAME].decode("utf-8", "ignore")


def _escape(match: re.Match[str]) -> str:
    """Return the escape of one character."""
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    short = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(match[0])
    return short or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
