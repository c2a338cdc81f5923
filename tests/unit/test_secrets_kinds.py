"""Each kind: its example is found as what it is, wherever it stands; what looks like it is not."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from hullwatch.agent.secrets import KINDS, detect
from hullwatch.agent.secrets.detection import _pattern
from hullwatch.agent.secrets.examples import fill

DOCUMENT = Path(__file__).parents[2] / "docs" / "secrets.md"

every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)

PLACES = {
    "alone": lambda value: value,
    "log": lambda value: f"2026-11-27T10:00:00Z INFO step 3\n{value}\nDEBUG done",
    "code": lambda value: f"    call('x', 3)  # before\n    use({value}, None)\n",
    "tool arguments": lambda value: json.dumps({"path": "/a", "content": f"line\n{value}\nend"}),
    "result in a message": lambda value: json.dumps(
        {"jsonrpc": "2.0", "id": 7, "result": {"text": json.dumps({"out": f"\t{value}\n"})}}
    ),
}


def kinds_in(text: str) -> list[str]:
    return [found.kind for found in detect(text)]


def test_there_are_many_kinds_each_with_a_name_of_its_own():
    assert len(KINDS) >= 100
    assert max(Counter(kind.name for kind in KINDS).values()) == 1
    assert all(re.fullmatch(r"[a-z0-9_]{3,40}", kind.name) for kind in KINDS)


@every_kind
def test_its_pattern_is_one_of_re2(kind):
    assert _pattern(KINDS.index(kind)).programsize < 20_000


@every_kind
@pytest.mark.parametrize("place", PLACES)
def test_its_example_is_found_as_what_it_is(kind, place):
    for seed in range(8):
        value = fill(kind.example, Random(f"{kind.name} {place} {seed}"))
        assert kinds_in(PLACES[place](value)) == [kind.name], value


@every_kind
def test_what_is_found_is_the_secret_and_not_its_neighbourhood(kind):
    value = fill(kind.example, Random(kind.name))
    text = f"before {value} after"
    (found,) = detect(text)
    assert "before" not in text[found.start : found.end]
    assert not text[found.start : found.end].endswith(" after")
    assert len(text[found.start : found.end]) >= 8


def test_all_kinds_in_one_text_are_found():
    """No matter how many keywords there are, and in what order."""
    for seed in range(3):
        mixed = Random(seed).sample(KINDS, len(KINDS))
        text = "\n\n".join(fill(kind.example, Random(seed)) for kind in mixed)
        assert kinds_in(text) == [kind.name for kind in mixed]


def test_kinds_are_documented():
    text = DOCUMENT.read_text().partition("## Kinds")[2].partition("A pattern alone")[0]
    assert re.findall(r"`([a-z0-9_]+)`", text) == [kind.name for kind in KINDS]
    assert text.strip().startswith(f"{len(KINDS)} kinds")


@every_kind
def test_a_placeholder_is_none(kind):
    """The same shape with one letter throughout, or with a word that says so."""
    value = fill(kind.example, Random(kind.name))
    (found,) = detect(value)
    secret = value[found.start : found.end]
    dull = value.replace(secret, re.sub(r"[A-Za-z0-9]", "A", secret))
    told = value.replace(secret, secret[:4] + "EXAMPLE" + secret[11:])
    assert kind.name not in kinds_in(dull) + kinds_in(told)


NONE = """
ghp_wWPw5k4aXcaT4fNP0UcnZwJUVFk6LO0pINUy
npm_wWPw5k4aXcaT4fNP0UcnZwJUVFk6LO0pINUy
AKIAIOSFODNN7EXAMPLE
AKIA1234567890ABCDEF
sk-ant-api03-short
xoxb-your-token-here
hf_abcdefghijklmnopqrstuvwxyzABCDEFGH
-----BEGIN PRIVATE KEY-----
a key begins with -----BEGIN PRIVATE KEY----- and ends with -----END PRIVATE KEY-----
eyJhbGciOiJub25lIn.notajsonobject.c2lnbmF0dXJlc2lnbmF0dXJl
eyJub3RoaW5nIjoidG8gc2VlIn0.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dBjftJeZ4CVPmB92K27uhbUJU1p1r
postgres://postgres:postgres@localhost/db
postgres://user:password@localhost/db
postgres://user:${DB_PASSWORD}@localhost/db
https://user:<token>@github.com/acme/app.git
https://example.com:8443/path@v2
git@github.com:acme/app.git
password: str
password = os.environ["DB_PASSWORD"]
password=getpass.getpass()
"password": "changeme"
"password": "Contraseña"
redis://[[username]:[password]]@localhost:6379/0
password="password123"
api_key: os.environ/E2B_API_KEY
attributes["yuan2_api_key"] = self.yuan2_api_key
api_key = settings.api_key_for_production
token = tokenizer.encode(text)
"ChangeToken": "abcd12f2-46da-4fdb-b8d5-fbd4c466928f"
"SecretId": "arn:aws:secretsmanager:us-west-2:123456789012:secret:MyTest-a1b2c3"
private_key: x25519.X25519PrivateKey
pygments/token.py,sha256=seNsmcch9OEHXYirh8Ool7w8xDhfNTbLj5rHAC-gc_o,6184
assets/aws.png,sha256=v2F4aeCK9wDRBekGuMa1oktKqV6aZIxc2R5ENTN9_G8,2317
Authorization: Bearer ${TOKEN}
Authorization: Basic dXNlcg==
commit 3f786850e387550fdab836ed7e6dc881de23001b
sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
2026-11-27 key rotation: 0d4f2b5e-7c1a-4a52-9d1c-2f1f5d3c9b10 was the request
""".strip().splitlines()


@pytest.mark.parametrize("text", NONE)
def test_what_only_looks_like_a_secret_is_none(text):
    assert kinds_in(text) == []


TOLD = {
    "github_token": "token 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 in a log",
    "basic_auth_header": "Authorization: Basic czZCaGRSa3F0MzpnWDFmQmF0M2JW",
    "jwt": (
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzb21lIjoicGF5bG9hZCJ9"
        ".4twFt5NiznN84AWoo1d7KO1T_yoc0Z6XOpOVswacPZg"
    ),
    "generic_password": "curl --password Tr0ub4dor&3x https://host.invalid/",
    "generic_api_key": "https://host.invalid/v1?api_key=d5345c0ecc68ae6295c69f91926b2bd3&x=1",
    "netrc_password": "machine a.invalid\n  login me\n  password s3cr3t-0f-mine\n",
}


@pytest.mark.parametrize("kind", TOLD)
def test_published_examples_of_others_are_found(kind):
    """Of an RFC, of documents of GitHub, PyJWT and litellm, and what people type."""
    assert kinds_in(TOLD[kind]) == [kind]
