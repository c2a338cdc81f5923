"""How well secrets are found, and what it costs:

    .venv/bin/python bench/secret_kinds.py [--corpus FOLDER ...] [--json]

Precision: the sources of the installed packages and of Python, where every hit is presumably none,
each listed. Recall: made-up secrets of every kind in tool arguments, results, code and logs. Times
are of the processor, so that a busy machine does not count.
"""

from __future__ import annotations

import argparse
import json
import sysconfig
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from hullwatch.agent.secrets import KINDS, detect
from hullwatch.agent.secrets.examples import fill

ROUNDS = 20  # values a kind and place
MAX_FILE = 16 << 20

# End of a file's path, kind: why it is no mistake to say so, or why it is one.
JUSTIFIED = {
    ("test/certdata/", "private_key"): "a private key of Python's tests",
    ("test/certdata/", "rsa_private_key"): "a private key of Python's tests",
    ("test/certdata/", "encrypted_private_key"): "a private key of Python's tests",
    ("urllib/request.py", "generic_password"): "a password in an example of the documentation",
    ("oauthlib/", "generic_api_key"): "tokens of the RFCs' examples",
    ("oauthlib/", "basic_auth_header"): "user and password of an RFC's example",
    ("PyJWT", "jwt"): "a real token, as an example",
    ("pyjwt", "jwt"): "a real token, as an example",
    ("sqlalchemy/dialects/mssql/base.py", "database_url"): "scott's password, as an example",
    ("twilio/rest/chat/v1/credential.py", "rsa_private_key"): "the beginning of a key, 12 times",
    ("ansible/", "password_hash"): "hashes of passwords, as examples",
    ("ansible/modules/expect.py", "generic_password"): "a password, as an example",
    ("botocore/data/iam/", "generic_password"): "passwords of an API's examples",
    ("botocore/data/storagegateway/", "generic_password"): "a password of an API's examples",
    ("botocore/data/kms/", "generic_api_key"): "a grant token of an API's examples",
    ("kubernetes/aio/config/kube_config_test.py", "generic_api_key"): "a test's refresh token",
    ("litellm/proxy/spend_tracking/", "generic_api_key"): "an API key, as an example",
}

PLACES: dict[str, Callable[[str], str]] = {
    "tool arguments": lambda value: json.dumps({"path": "/srv/x", "content": f"a\n{value}\nb"}),
    "result": lambda value: json.dumps({"result": json.dumps({"text": f"it is\n{value}\n."})}),
    "code": lambda value: f"def connect():\n    call({value}, timeout=3)\n",
    "log": lambda value: f"2026-11-27T10:00:00Z INFO worker-3 starts\n{value}\nDEBUG done\n",
}


class Hit(NamedTuple):
    file: str
    line: int
    kind: str


def texts(folders: list[Path]) -> Iterator[tuple[str, bytes]]:
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if "__pycache__" in path.parts or path.is_symlink() or not path.is_file():
                continue
            if folder == stdlib() and "site-packages" in path.parts:
                continue
            if path.stat().st_size <= MAX_FILE:
                data = path.read_bytes()
                if b"\0" not in data[:8192]:
                    yield path.relative_to(folder).as_posix(), data


def stdlib() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def precision(corpus: list[tuple[str, bytes]]) -> tuple[list[Hit], float]:
    """Hits, and the seconds that they took."""
    hits: list[Hit] = []
    seconds = 0.0
    for name, data in corpus:
        begin = time.process_time()
        found = detect(data)
        seconds += time.process_time() - begin
        hits += [Hit(name, data.count(b"\n", 0, one.start) + 1, one.kind) for one in found]
    return hits, seconds


def why(hit: Hit) -> str:
    found = [
        reason
        for (file, kind), reason in JUSTIFIED.items()
        if file in hit.file and kind == hit.kind
    ]
    return found[0] if found else ""


def recall() -> dict[str, float]:
    """Of every kind, the share of made-up values that were found, and as that kind."""
    shares: dict[str, float] = {}
    for kind in KINDS:
        good = 0
        for name, place in PLACES.items():
            for seed in range(ROUNDS):
                value = fill(kind.example, Random(f"bench {kind.name} {name} {seed}"))
                good += [one.kind for one in detect(place(value))] == [kind.name]
        shares[kind.name] = good / (ROUNDS * len(PLACES))
    return shares


def costs() -> dict[str, float]:
    """Microseconds for 4 KB."""
    source = Path(__file__).read_text() * 2
    arguments = json.dumps({"path": "/srv/x.py", "content": source})
    token = fill("glpat-{s20}", Random(1))
    samples = {
        "source code": source[:4096],
        "the same in JSON": arguments[:4096],
        "with a secret in it": f"{source[:2000]} {token} {source[:2068]}",
        "nothing but secrets": " ".join(f"token={fill('{w20}', Random(at))}" for at in range(151)),
        "nothing but backslashes": "\\" * 4096,
    }
    return {name: _microseconds(text.encode()) for name, text in samples.items()}


def _microseconds(data: bytes, rounds: int = 200) -> float:
    detect(data)
    begin = time.process_time()
    for _ in range(rounds):
        detect(data)
    return (time.process_time() - begin) / rounds * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--corpus", type=Path, nargs="*", default=[], help="further folders")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    folders = [Path(sysconfig.get_path("purelib")), stdlib(), *options.corpus]
    corpus = list(texts(folders))
    size = sum(len(data) for _, data in corpus) / 1e6
    hits, seconds = precision(corpus)
    shares = recall()
    answer: dict[str, Any] = {
        "kinds": len(KINDS),
        "corpus_mb": round(size, 1),
        "files": len(corpus),
        "hits": [{**hit._asdict(), "why": why(hit)} for hit in hits],
        "mb_per_second": round(size / seconds, 1),
        "recall": shares,
        "microseconds_for_4_kb": costs(),
    }
    if options.json:
        print(json.dumps(answer))
        return
    unexplained = [hit for hit in hits if not why(hit)]
    for hit in hits:
        print(f"  {hit.file}:{hit.line} {hit.kind}: {why(hit) or 'FALSE'}")
    print(
        f"precision: {len(hits)} hits in {size:.1f} MB of {len(corpus)} files, {len(unexplained)}"
    )
    print(f"           of them false: {len(unexplained) / size * 10:.2f} in 10 MB;", end=" ")
    print(", ".join(f"{count} {kind}" for kind, count in Counter(h.kind for h in hits).items()))
    print(f"recall:    {sum(shares.values()) / len(shares):.2%} of {len(KINDS)} kinds in", end=" ")
    print(f"{len(PLACES)} places, {ROUNDS} values each")
    for name, share in shares.items():
        if share < 1:
            print(f"           {name} {share:.1%}")
    print(f"speed:     {size / seconds:.1f} MB/s on one core")
    for name, spent in answer["microseconds_for_4_kb"].items():
        print(f"           4 KB of {name}: {spent:.0f} µs")


if __name__ == "__main__":
    main()
