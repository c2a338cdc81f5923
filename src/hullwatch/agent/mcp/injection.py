"""Signs of text that gives orders to a model: in tool definitions and results. JSON text in, what
was found out; nothing is ever edited. Bounded: at most MAX_SCAN bytes are looked at, in linear time
(RE2).

A sign is a hint. One with a weight of LIMIT or more is told by itself, lighter ones when they add
up. What it finds and what it misses: docs/mcp-gateway.md.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import Any, Literal, NamedTuple

__all__ = ["LIMIT", "MAX_SCAN", "SIGNS", "Hit", "Sign", "look", "plain", "told"]

Where = Literal["definition", "result"]
LIMIT = 60
MAX_SCAN = 256 << 10
_TAIL = 64 << 10  # of MAX_SCAN, for the end of a longer text


class Sign(NamedTuple):
    """pattern: RE2, on text in NFKC without characters that are not seen; for `raw` signs, on the
    text as it is. where: '' both, else only there."""

    ident: str
    weight: int
    why: str
    pattern: str
    where: Where | Literal[""] = ""
    raw: bool = False


class Hit(NamedTuple):
    """offset: characters into the text that was looked at."""

    sign: Sign
    offset: int


_YOU = r"(?:you|the (?:model|assistant|agent|ai|llm))"
_EARLIER = r"(?:previous|prior|earlier|above|preceding|existing|original|system|other)"
_ORDERS = r"(?:instructions?|prompts?|rules?|guidelines?|directions?|directives?|context)"
_KEYS = (
    r"(?:\.ssh/|\.aws/|\.kube/config|\.netrc|\.pypirc|\.gnupg|\.docker/config"
    r"|id_(?:rsa|ed25519|ecdsa)\b|/etc/shadow)"
)
_CONFIGS = r"(?:\.env\b|\.npmrc|/etc/passwd|\bmcp\.json|\.cursor/|\.claude/|claude_desktop_config)"
_TAKE = r"(?:read|open|cat|load|fetch|get|include|access|retrieve|send|upload|paste|copy|extract)"

SIGNS: tuple[Sign, ...] = (
    Sign(
        "override",
        70,
        "tells the model to drop the instructions it has",
        rf"\b(?:ignore|disregard|forget|override|bypass|discard)\b[^.\n]{{0,40}}\b{_EARLIER}\b"
        rf"[^.\n]{{0,30}}\b{_ORDERS}\b",
    ),
    Sign(
        "override.all",
        70,
        "tells the model to drop the instructions it has",
        rf"\b(?:ignore|disregard|forget)\s+(?:all|any|everything)\b[^.\n]{{0,30}}"
        rf"\b(?:{_ORDERS}|before|told|said)\b",
    ),
    Sign(
        "new_instructions",
        60,
        "claims to bring new instructions",
        r"\b(?:new|updated|revised|real|actual) (?:system )?(?:instructions?|prompt|task)"
        r"\s*(?:are|is)?\s*:",
        "result",
    ),
    Sign(
        "role.marker",
        60,
        "a marker of a chat's roles, as templates of models use them",
        r"<\|(?:im_start|im_end|system|endoftext|start_header_id|eot_id)\|>|\[/?INST\]|<</?SYS>>|"
        r"<start_of_turn>",
    ),
    Sign(
        "role.heading",
        30,
        "a heading that claims to be the system's or the user's turn",
        r"(?:^|\n)\s*(?:#{1,6}\s*|\[|<)(?:system|developer|assistant)(?: (?:prompt|message|note"
        r"|override))?\s*(?:\]|>|:)",
    ),
    Sign(
        "secrecy",
        70,
        "asks to keep something from the user",
        r"\b(?:do not|don't|never|without|must not|should not|avoid)\s+(?:ever )?(?:tell|telling"
        r"|inform|informing|mention|mentioning|reveal|revealing|disclose|disclosing|notify"
        r"|notifying|alert|alerting|show|showing)\b[^.\n]{0,40}\bthe (?:user|human|person"
        r"|operator)\b",
    ),
    Sign(
        "secrecy.hide",
        60,
        "asks to hide what is done",
        r"\b(?:hide|conceal|keep)\b[^.\n]{0,40}\b(?:from the (?:user|human|person)|secret from)\b|"
        r"\buser (?:must|should|does|will) (?:not|never) (?:know|see|notice|be aware)\b",
    ),
    Sign(
        "secret.read",
        60,
        "asks for files that hold keys or tokens",
        rf"\b{_TAKE}\b[^.\n]{{0,60}}{_KEYS}",
    ),
    Sign(
        "secret.read.config",
        35,
        "asks for files of settings that often hold keys or tokens",
        rf"\b{_TAKE}\b[^.\n]{{0,60}}{_CONFIGS}",
    ),
    Sign(
        "secret.path",
        25,
        "names files that hold keys or tokens",
        _KEYS,
        "definition",
    ),
    Sign(
        "secret.values",
        45,
        "asks for keys, passwords or the conversation to be handed over",
        r"\b(?:send|include|pass|provide|append|attach|put|insert|forward|exfiltrate|leak)\b"
        r"[^.\n]{0,50}\b(?:private keys?|ssh keys?|api[ _-]?keys?|passwords?|credentials?"
        r"|access tokens?|environment variables?|system prompt|conversation history"
        r"|chat history|previous messages)\b",
    ),
    Sign(
        "important.tag",
        50,
        "a tag that sets orders apart for the model",
        r"<(?:important|critical|system|instructions?|secret|hidden|admin|override"
        r"|system-reminder|assistant_instructions)>",
    ),
    Sign(
        "before.use",
        40,
        "makes another action the condition of using this tool",
        rf"\b(?:before|prior to|after|whenever|when)\b[^.\n]{{0,40}}\b(?:using|calling|invoking"
        rf"|running|use|call)\b[^.\n]{{0,25}}\b(?:this|any(?: other)?|the|other)\b[^.\n]{{0,15}}"
        rf"\btools?\b[^.\n]{{0,40}}\b(?:{_YOU} )?(?:must|always|have to|first)\b[^.\n]{{0,30}}\b"
        rf"(?:{_TAKE}|call|run|execute|write)\b",
        "definition",
    ),
    Sign(
        "other.tool",
        60,
        "changes what another tool is to be given or does",
        r"\b(?:when|whenever|if)\b[^.\n]{0,30}\b(?:tool|send_\w+|\w+_email)\b[^.\n]{0,40}\b(?:must"
        r"|always|instead)\b[^.\n]{0,60}\b(?:recipient|bcc|cc|address|parameter|argument"
        r"|attacker|proxy)\b",
    ),
    Sign(
        "instead.of",
        25,
        "puts itself in another tool's place",
        r"\b(?:always|must) use this (?:tool|function)\b[^.\n]{0,30}\binstead of\b|"
        r"\b(?:do not|don't|never) use (?:the |any )?(?:other|built-in|builtin|native)\b",
        "definition",
    ),
    Sign(
        "call.tool",
        35,
        "a result that tells the model to call a tool",
        rf"\b{_YOU} (?:must|should|need to|have to|shall) (?:now |immediately |then |next )?(?:call"
        r"|invoke|run|execute|use) (?:the )?[`'\"]?\w+[`'\"]?(?: tool| function)?",
        "result",
    ),
    Sign(
        "run.code",
        60,
        "asks for a download to be run",
        r"\b(?:curl|wget)\b[^|\n]{1,200}\|\s*(?:sudo )?(?:ba|z|da)?sh\b|\bbase64 (?:-d|--decode)\b"
        r"[^|\n]{0,80}\|\s*(?:ba)?sh\b",
        "definition",
    ),
    Sign(
        "jailbreak",
        60,
        "words of known jailbreaks",
        r"\byou are now (?:DAN|in developer mode|jailbroken|unrestricted|an unfiltered)\b|"
        r"\b(?:developer|god|dan) mode (?:enabled|activated)\b|\bpretend (?:that )?you (?:have no"
        r"|are not bound)\b",
    ),
    Sign(
        "exfil.url",
        60,
        "a URL with a place for data to be filled in",
        r"https?://[^\s\"'<>)]{3,200}[?&](?:data|d|q|c|content|secret|token|key|prompt|msg|history"
        r"|exfil|leak|payload|env)=(?:\{+|<|\[|\$\{?|%7B|YOUR_|INSERT)[A-Za-z_ ]{2,60}",
    ),
    Sign(
        "exfil.image",
        60,
        "an image whose address has a place for data to be filled in",
        r"!\[[^\]\n]{0,80}\]\(https?://[^)\s]{3,200}[?&][A-Za-z_]{1,20}=(?:\{|<|\$|%7B)",
    ),
    Sign(
        "exfil.image.long",
        35,
        "an image whose address carries much data",
        r"!\[[^\]\n]{0,80}\]\(https?://[^)\s]{3,200}[?&][A-Za-z_]{1,20}=[A-Za-z0-9+/_-]{64}",
    ),
    Sign(
        "hidden.comment",
        45,
        "a comment of markup that gives orders",
        r"<!--[^>]{0,400}\b(?:assistant|model|agent|ai|llm|ignore|instructions?|must|secret)\b",
    ),
    Sign(
        "authority",
        20,
        "claims an authority over the model",
        r"\b(?:this is (?:a|an) (?:system|admin|administrator|security) (?:message|override|notice"
        r"|requirement)|authori[sz]ed by (?:anthropic|openai|google|the administrator)"
        r"|mandatory (?:system )?(?:instruction|requirement) for (?:the )?(?:ai|assistant"
        r"|model))\b",
    ),
    # --- what a person who reads it does not see ------------------------------------------
    Sign(
        "hidden.tags",
        80,
        "Unicode tag characters: text that only a model reads",
        r"[\x{E0020}-\x{E007F}]{3}",
        raw=True,
    ),
    Sign(
        "hidden.bidi",
        60,
        "controls of writing direction, which show a text in another order",
        r"[\x{202A}-\x{202E}\x{2066}-\x{2069}]",
        raw=True,
    ),
    Sign(
        "hidden.zero_width",
        60,
        "a run of characters without width",
        r"[\x{200B}\x{2060}-\x{2064}\x{FEFF}\x{180E}]{3}|"
        r"[A-Za-z][\x{200B}-\x{200D}\x{2060}\x{FEFF}][A-Za-z]",
        raw=True,
    ),
    Sign(
        "hidden.variation",
        60,
        "variation selectors in a row, which can carry bytes",
        r"[\x{FE00}-\x{FE0F}\x{E0100}-\x{E01EF}]{3}",
        raw=True,
    ),
    Sign(
        "hidden.ansi",
        60,
        "terminal escapes, which can hide text or move it",
        r"\x1b\[[0-9;?]{0,20}[A-HJKSTfhlmnsu]|\x1b\]|\x9b[0-9;]{0,20}[A-Za-z]",
        "definition",
        raw=True,
    ),
    Sign(
        "hidden.ansi.conceal",
        60,
        "terminal escapes that make text invisible or write over it",
        r"\x1b\[(?:[0-9;]{0,10};)?8m|\x1b\[[0-9]{0,3}[AF]|\x1b\[2?J|\x1b\]52;",
        "result",
        raw=True,
    ),
    Sign(
        "hidden.blank",
        40,
        "text pushed out of sight by blanks",
        r"[^\n][ \t\x{A0}]{200}\S|\n{40}",
        "definition",
        raw=True,
    ),
    Sign(
        "hidden.base64",
        40,
        "a long run of base64 in what describes a tool",
        r"[A-Za-z0-9+/]{400}",
        "definition",
        raw=True,
    ),
)
_UNSEEN = re.compile(
    "[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff"
    "\U000e0000-\U000e01ef]"
)
_ESCAPE = re.compile(r'\\(?:u([0-9A-Fa-f]{4})|(["\\/bfnrt]))')
_SHORT = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def plain(raw: bytes) -> str:
    """JSON text with its escapes resolved, cut to MAX_SCAN in the middle. Not parsed: a broken or
    cut text is as good."""
    if len(raw) > MAX_SCAN:
        raw = raw[: MAX_SCAN - _TAIL] + b"\n" + raw[-_TAIL:]
    text = raw.decode("utf-8", "ignore")
    if "\\" not in text:
        return text
    text = _ESCAPE.sub(lambda m: chr(int(m[1], 16)) if m[1] else _SHORT.get(m[2], m[2]), text)
    # Escapes write characters beyond U+FFFF as two halves.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def look(text: str, where: Where) -> tuple[Hit, ...]:
    """The signs in a text, each once, where it is first."""
    hits: list[Hit] = []
    seen = text if text.isascii() else _UNSEEN.sub("", unicodedata.normalize("NFKC", text))
    for raw, subject in ((False, seen), (True, text)):
        if raw and not _worth_it(text):
            continue
        data = subject.encode("utf-8", "replace")
        which, ready = _patterns(where, raw)
        for at in sorted(which.Match(data) or ()):
            sign, pattern = ready[at]
            found = pattern.search(data)
            if found:
                hits.append(Hit(sign, len(data[: found.start()].decode("utf-8", "ignore"))))
    return tuple(hits)


def told(hits: tuple[Hit, ...]) -> bool:
    """Whether they weigh enough to be told."""
    return sum(hit.sign.weight for hit in hits) >= LIMIT


def _worth_it(text: str) -> bool:
    """Plain short ASCII has none of the raw signs."""
    return len(text) >= 200 or not text.isascii() or "\x1b" in text or "\n" * 40 in text


@cache
def _patterns(where: Where, raw: bool) -> tuple[Any, list[tuple[Sign, Any]]]:
    import re2

    options = re2.Options()
    options.case_sensitive = raw
    options.log_errors = False
    which = re2.Set.SearchSet(options)
    ready: list[tuple[Sign, Any]] = []
    for sign in SIGNS:
        if sign.raw == raw and sign.where in ("", where):
            which.Add(sign.pattern)
            ready.append((sign, re2.compile(sign.pattern, options)))
    which.Compile()
    return which, ready
