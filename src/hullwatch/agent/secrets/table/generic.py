"""Secrets that nothing but their neighbourhood gives away. The last to be asked."""

from __future__ import annotations

from hullwatch.agent.secrets.checks import mixed, password
from hullwatch.agent.secrets.kind import Kind

__all__ = ["GENERIC"]

_KEY = (
    "api[ _-]?key|access[_-]?key|secret[_-]?key|private[_-]?key|signing[_-]?key"
    "|encryption[_-]?key|auth[_-]?key|secret|token|credentials?"
)
_NAMED_KEY = "api[ _-]?key|access[_-]?key|secret[_-]?key|client[_-]?secret"
_PASSWORD = "passw(?:or)?d|passphrase|pwd"
# What may follow the word in a name: not `_id`, `_file`, `_url`, which are no secrets.
_TAIL = r"(?:s|[_-]?(?:key|value|token|secret|live|prod|dev|test|staging|b64|base64|[0-9]{1,2}))?"
# `name = `, `name=`, `"name": `, `name: `, `env["name"] = `.
_BEFORE_QUOTE = r"[\"'\]]{0,2}[ \t]{0,4}(?:[:=]=|=>|[:=])[ \t]{0,4}"
# The same where no quote need follow: not `a:name:b`.
_ASSIGN = (
    r"(?:[\"'\]]{1,2}[ \t]{0,4}(?:=>|[:=])|[ \t]{0,4}(?:[:=]=|=>|=)|[ \t]{0,4}:[ \t\"'])"
    r"[ \t]{0,4}[\"']?"
)
_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_BARE = r"[^\s\"'<>&;,(){}\[\]$]{8,128}"

GENERIC = (
    Kind(
        "bearer_token",
        "",
        "bearer authorization",
        r"(?i)(?:\bbearer|authorization[\"']?[ \t]{0,2}[:=][ \t]{0,2}[\"']?token)[ \t]{1,4}"
        r"((?-i:[A-Za-z0-9._~+/-]{20,}={0,2}))",
        "Authorization: Bearer {w40}",
        3.5,
        mixed,
    ),
    Kind(
        "netrc_password",
        "",
        "machine",
        r"\bmachine\s+\S+\s+login\s+\S+\s+password\s+([^\s{}$<>]{4,128})",
        "machine git.internal login deploy password {p16}",
        2.5,
        password,
    ),
    # In quotes; or up to a space, as in an environment, a query or a command line.
    Kind(
        "generic_password",
        "",
        "passw pwd passphrase",
        rf"(?i)(?:(?:{_PASSWORD}){_TAIL}(?:{_BEFORE_QUOTE}[\"']([^\s\"'<>]{{8,128}})[\"']"
        rf"|=({_BARE})(?:[\s&;\"']|$))|--(?:{_PASSWORD})[ =][\"']?([^\s\"'<>$]{{8,128}}))",
        'password: "{p16}"',
        3.0,
        password,
    ),
    Kind(
        "generic_api_key",
        "",
        "key secret token credential",
        rf"(?i)(?:{_KEY}){_TAIL}{_ASSIGN}((?-i:[A-Za-z0-9_+/=.~-]{{16,}}))(?:[\s\"'&;,)}}\]]|$)",
        'api_key = "{w32}"',
        3.5,
        mixed,
    ),
    # With a weaker name than these a UUID is no secret: of a request, a change, a page.
    Kind(
        "generic_uuid_key",
        "",
        "key secret",
        rf"(?i)(?:{_NAMED_KEY}){_TAIL}{_ASSIGN}({_UUID})\b",
        "api_key: {uuid}",
    ),
    Kind(
        "high_entropy_near_keyword",
        "",
        "key secret token credential passw pwd passphrase",
        rf"(?i)\b(?:{_KEY}|{_PASSWORD})[ \t\"':=][^\r\n]{{0,40}}?[\s\"'=:(`]"
        r"((?-i:[A-Za-z0-9+/_-]{32,}={0,2}))(?:[\s\"'`.,;)]|$)",
        "the api key that was given to us is {w40}",
        4.3,
        mixed,
    ),
)
