"""What stands for a secret: the installation's key, its hashes, and texts without secrets."""

from __future__ import annotations

import json
import os
import stat
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hullwatch.agent.secrets import KINDS, Key, KeyUnusable, detect, redact
from hullwatch.agent.secrets.examples import fill

KEY = Key(bytes(range(32)))
TOKEN = fill("glpat-{s20}", Random(1))
PEM = fill("-----BEGIN PRIVATE KEY-----\n{pem}\n-----END PRIVATE KEY-----", Random(2))


def secret_of(value: str) -> str:
    (found,) = detect(value)
    return value[found.start : found.end]


# --- the key ------------------------------------------------------------------------------


def test_a_key_is_made_for_its_owner_alone_and_then_stays(tmp_path):
    path = tmp_path / "key"
    made = Key.load(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_size == 32
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]
    assert Key.load(path).hash("a") == made.hash("a")


def test_two_installations_give_one_secret_two_hashes(tmp_path):
    hashes = {Key.load(tmp_path / name).hash(TOKEN) for name in "ab"}
    assert len(hashes) == 2
    assert all(len(each) == 16 and int(each, 16) >= 0 for each in hashes)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666, 0o601])
def test_a_key_that_others_may_touch_is_refused(tmp_path, mode):
    path = tmp_path / "key"
    Key.load(path)
    path.chmod(mode)
    with pytest.raises(KeyUnusable, match=f"{path}: mode 0{mode:o}.*remove it"):
        Key.load(path)


def test_a_key_of_another_size_is_refused(tmp_path):
    path = tmp_path / "key"
    for content in (b"", b"x" * 31, b"x" * 33):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(KeyUnusable, match="not 32 bytes"):
            Key.load(path)


def test_what_is_no_file_is_refused(tmp_path):
    real = tmp_path / "real"
    Key.load(real)
    (tmp_path / "link").symlink_to(real)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("link", "folder", "pipe"):
        with pytest.raises(KeyUnusable, match=name):
            Key.load(tmp_path / name)
    with pytest.raises(KeyUnusable, match="No such file"):
        Key.load(tmp_path / "nowhere" / "key")


def test_a_key_does_not_show_itself():
    assert repr(KEY) == "Key(...)"
    assert not hasattr(KEY, "__dict__")


# --- hashes -------------------------------------------------------------------------------


def test_one_secret_has_one_hash_however_it_is_written():
    written = [
        PEM,
        PEM.encode(),
        PEM.replace("\n", "\r\n"),
        json.dumps(PEM)[1:-1],
        json.dumps(json.dumps(PEM))[1:-1].strip('\\"'),
        PEM.replace("\n", "\\n").replace("/", "\\/").replace("+", "\\u002b"),
    ]
    assert len({KEY.hash(each) for each in written}) == 1
    assert KEY.hash(PEM) != KEY.hash(PEM[:-1])


# --- redaction ----------------------------------------------------------------------------


def test_a_secret_becomes_its_kind_and_eight_digits():
    assert redact(f"use {TOKEN} now", KEY) == f"use [gitlab_token:{KEY.hash(TOKEN)[:8]}] now"
    assert redact("nothing here", KEY) == "nothing here"


def test_what_is_found_once_is_taken_out_everywhere():
    value = fill("{w32}", Random(5))
    text = f"api_key = '{value}'\nI will now call the service as {value}, and {value}x"
    assert value not in redact(text, KEY)


def test_json_stays_json():
    text = json.dumps({"files": [{"name": "id", "content": PEM}], "note": f'he said "{TOKEN}"'})
    out = json.loads(redact(text, KEY))
    assert out["files"][0] == {"name": "id", "content": f"[private_key:{KEY.hash(PEM)[:8]}]"}
    assert out["note"] == f'he said "[gitlab_token:{KEY.hash(TOKEN)[:8]}]"'


plants = st.lists(
    st.builds(
        lambda kind, seed: fill(kind.example, Random(seed)),
        st.sampled_from(KINDS),
        st.integers(0, 999),
    ),
    min_size=1,
    max_size=6,
)


@settings(deadline=None, max_examples=80)
@given(plants, st.integers(0, 2))
def test_nothing_that_was_planted_is_left(values, depth):
    text = "\n".join(f"step {at}\n{value}\n" for at, value in enumerate(values))
    for _ in range(depth):
        text = json.dumps({"text": text})
    out = redact(text, KEY)
    for value in values:
        secret = secret_of(value)
        assert secret not in out
        longest = max(secret.split("\n"), key=len)
        assert longest not in out and json.dumps(longest)[1:-1] not in out


@settings(deadline=None, max_examples=50)
@given(plants, st.text(max_size=40))
def test_a_redacted_text_has_nothing_left_to_redact(values, noise):
    once = redact(f"{noise}\n" + "\n".join(values), KEY)
    assert redact(once, KEY) == once
