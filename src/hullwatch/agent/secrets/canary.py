"""Credentials that nobody has a use for: whoever opens one was not sent there by the work."""

from __future__ import annotations

import re
from random import Random, SystemRandom
from typing import NamedTuple

import re2

from hullwatch.agent.secrets.detection import latin1
from hullwatch.agent.secrets.examples import fill, fixed
from hullwatch.agent.secrets.kinds import KINDS

__all__ = ["FORMS", "RUN", "Form", "content", "form_of", "own"]

RUN = re2.compile(rb"[A-Za-z0-9]{12,}", latin1())
"""What a value is recognised by (canaries.py): 60 bits and more. Each has one."""

_EXAMPLES = {kind.name: kind.example for kind in KINDS}
_VALUE = re.compile(r"<([a-z0-9_]+)>")


class Form(NamedTuple):
    """endings: of the paths that such a file lies at, separated by spaces; the first form that
    fits is taken. template: with `<kind>` where a value of that kind goes."""

    endings: str
    template: str


FORMS = {
    "aws": Form(
        ".aws/credentials",
        "[default]\naws_access_key_id = <aws_access_key_id>\n<aws_secret_access_key>\n",
    ),
    "env": Form(
        ".env .env.local .env.production",
        "OPENAI_API_KEY=<openai_api_key>\nANTHROPIC_API_KEY=<anthropic_api_key>\n"
        "DATABASE_URL=<database_url>\n",
    ),
    "git": Form(".git-credentials", "https://x-access-token:<github_token>@github.com\n"),
    "npm": Form(".npmrc", "//registry.npmjs.org/:_authToken=<npm_token>\n"),
    "pypi": Form(".pypirc", "[pypi]\nusername = __token__\npassword = <pypi_token>\n"),
    "huggingface": Form("huggingface/token", "<huggingface_token>"),
    "ssh": Form("id_ed25519 id_rsa id_ecdsa", "<openssh_private_key>\n"),
    "pod": Form("serviceaccount/token", "<kubernetes_service_account_token>"),
    "key": Form("api_key api.key", "<openai_api_key>\n"),
}


def form_of(path: str) -> str | None:
    """The form that a file at this path has, by its name."""
    for name, form in FORMS.items():
        if any(path.endswith(ending) for ending in form.endings.split()):
            return name
    return None


def content(name: str, random: Random | None = None) -> str:
    """A file of this form, with values drawn anew. KeyError: no such form."""
    drawn = random or SystemRandom()
    return _VALUE.sub(lambda found: _value(_EXAMPLES[found[1]], drawn), FORMS[name].template)


def own(name: str, text: str) -> str:
    """What a file of this form has drawn, apart from the words that all of its form have."""
    shapes = (fixed(_EXAMPLES[kind]) for kind in _VALUE.findall(FORMS[name].template))
    return _without(" ".join(shapes), text)


def _value(example: str, random: Random) -> str:
    while not RUN.search(_without(fixed(example), value := fill(example, random)).encode()):
        pass
    return value


def _without(words: str, text: str) -> str:
    for word in RUN.findall(words.encode()):
        text = text.replace(word.decode(), " ")
    return text
