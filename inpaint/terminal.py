"""Names and texts from elsewhere, as a terminal may be given them."""

import unicodedata

HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # categories that steer, turn text around, or have no UTF-8


def printable(text: str) -> str:
    r"""The text in one line; what a terminal would obey is written out, as `\x1b`."""
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in HIDDEN
        else character
        for character in text
    )
