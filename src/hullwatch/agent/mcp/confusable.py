"""Names that a person or a model takes for one another: text in, a skeleton out; equal skeletons
look alike. After Unicode UTS 39, with the letters that occur in identifiers instead of its whole
table."""

from __future__ import annotations

import unicodedata

__all__ = ["disguised", "skeleton"]

_MAX_NAME = 512
# Cyrillic, Greek, Armenian and others that have the shape of a Latin letter or a digit.
_LIKE = str.maketrans(
    dict(
        zip(
            "аеорсухіјѕһԁԛԝвкмнтгзьАВЕКМНОРСТУХІЈЅԚԜΑΒΕΖΗΙΚΜΝΟΡΤΥΧαοιυνρκτεωοսորցհոԍɡɑıℓ",
            "aeopcyxijshdqwbkmhtrzbABEKMHOPCTYXIJSQWABEZHIKMNOPTYXaoiuvpktewouopghnggail",
            strict=True,
        )
    )
)
_ONE = str.maketrans("1|!0", "llio")
_JOINERS = str.maketrans("", "", "-_. /:")


def skeleton(name: str) -> str:
    """`read_file`, `read-file`, `readFile`, `rеad_file` (with a Cyrillic е) have one skeleton."""
    text = unicodedata.normalize("NFKC", name[:_MAX_NAME])
    text = "".join(c for c in text if unicodedata.category(c) not in ("Cf", "Mn", "Cc"))
    return text.translate(_LIKE).replace("I", "l").casefold().translate(_ONE).translate(_JOINERS)


def disguised(name: str) -> bool:
    """Whether a name that reads as plain ASCII has letters that are not, or are not seen."""
    return not name.isascii() and skeleton(name).isascii()
