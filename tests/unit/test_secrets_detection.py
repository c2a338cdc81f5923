"""Places of secrets: in characters and bytes, in escaped text, and over the chunks of a stream."""

from __future__ import annotations

import json
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hullwatch.agent.secrets import KINDS, Found, Stream, detect
from hullwatch.agent.secrets.detection import _BEFORE, MAX_SECRET, STEP
from hullwatch.agent.secrets.escapes import unescape
from hullwatch.agent.secrets.examples import fill

TOKEN = fill("glpat-{s20}", Random(1))
PEM = fill("-----BEGIN PRIVATE KEY-----\n{pem}\n-----END PRIVATE KEY-----", Random(2))

planted = st.builds(
    lambda kind, seed: fill(kind.example, Random(seed)), st.sampled_from(KINDS), st.integers(0, 99)
)
noise = st.text(max_size=60) | st.sampled_from(
    [
        "\\",
        '\\"',
        "\\n",
        "password=",
        "-----BEGIN ",
        "eyJ",
        "://a:",
        "\\u0041",
        "key ",
        "é",
        "\ud800",
    ]
)
texts = st.lists(planted | noise, max_size=12).map("\n".join)


def streamed(data: bytes, cuts: list[int]) -> tuple[Found, ...]:
    stream, at = Stream(), 0
    found: list[Found] = []
    for cut in [*sorted(cuts), len(data)]:
        found += stream.feed(data[at:cut])
        at = max(at, cut)
    return (*found, *stream.finish())


def test_offsets_count_characters_in_a_text_and_bytes_in_bytes():
    text = f"Schlüssel → {TOKEN} ✓"
    (found,) = detect(text)
    assert text[found.start : found.end] == TOKEN
    (found,) = detect(text.encode())
    assert text.encode()[found.start : found.end] == TOKEN.encode()


def test_of_two_kinds_for_one_text_the_more_specific_counts():
    assert [found.kind for found in detect(f'api_key = "{TOKEN}"')] == ["gitlab_token"]
    assert [found.kind for found in detect(f"https://bot:{TOKEN}@git.invalid/x")] == [
        "gitlab_token"
    ]


@pytest.mark.parametrize("between", ["\n", " ", ","])
def test_one_character_between_two_of_a_kind_is_enough(between):
    first = "pa-0UAqFzWsDK4FrUMp48Y3tT3QDgAL47D1qXIaSyZP7E1"
    second = "pa-i0VpEBOWfbZAVaBSo63bbH6xnAbnBEoonCrbZINl71h"
    found = detect(first + between + second)
    assert [(one.start, one.end) for one in found] == [(0, 46), (47, 93)]


def test_several_secrets_come_in_their_order():
    text = " ".join([TOKEN, fill("AKIA{t16}", Random(3)), fill("hf_{a34}", Random(4))])
    assert [found.kind for found in detect(text)] == [
        "gitlab_token",
        "aws_access_key_id",
        "huggingface_token",
    ]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_key_in_json_in_json_is_found_whole(depth):
    text = PEM
    for _ in range(depth):
        text = json.dumps({"content": text})
    (found,) = detect(text)
    assert found.kind == "private_key"
    assert text[found.start : found.end].startswith("-----BEGIN")
    assert text[found.start : found.end].endswith("END PRIVATE KEY-----")


@pytest.mark.parametrize(
    "escape",
    [
        lambda text: text.replace("/", "\\/").replace("\n", "\\n"),
        lambda text: text.replace("+", "\\u002B").replace("\n", "\\u000a"),
        lambda text: text.replace("\n", "\\r\\n"),
        lambda text: '"' + text.replace("\n", '\\n" +\n  "') + '"',
        lambda text: text.replace("\n", "\r\n"),
    ],
    ids=["solidus", "numbers", "crlf escaped", "joined lines of code", "crlf"],
)
def test_other_ways_of_writing_a_key_are_found_whole(escape):
    text = f"key: {escape(PEM)}."
    (found,) = detect(text)
    assert found.kind == "private_key"
    assert text[found.end :].strip('".') == ""


def test_a_key_that_was_cut_is_found_as_far_as_it_goes():
    cut = PEM[:300]
    (found,) = detect(f"{cut}")
    assert (found.kind, found.end) == ("private_key", 300)


def test_a_key_with_headers_is_found():
    with_headers = PEM.replace(
        "KEY-----\n", "KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,3F17\n\n", 1
    )
    (found,) = detect(with_headers)
    assert found.end - found.start == len(with_headers)


@settings(deadline=None)
@given(st.binary(max_size=2000))
def test_any_bytes_are_taken(data):
    for found in detect(data):
        assert 0 <= found.start < found.end <= len(data)


@settings(deadline=None, max_examples=60)
@example("\\" * 3000)
@example("eyJ" * 800)
@example("a:@://" * 500)
@given(texts)
def test_any_text_is_taken_and_what_is_found_is_in_order(text):
    at = 0
    for found in detect(text):
        assert at <= found.start < found.end <= len(text)
        at = found.end


@settings(deadline=None, max_examples=60)
@given(texts, st.lists(st.integers(0, 4000), max_size=8), st.integers(0, 4))
def test_a_stream_gives_the_same_whatever_its_chunks(text, cuts, windows):
    """With so many windows of noise before it that the text lies over the border of two."""
    data = text.encode("utf-8", "surrogatepass")
    before = b"lorem ipsum, " * (windows * STEP // 13) + b"\n"
    whole = detect(before + data)
    assert streamed(before + data, [len(before) + cut for cut in cuts]) == whole
    assert streamed(before + data, []) == whole


@pytest.mark.parametrize("shift", range(-len(TOKEN) - 1, _BEFORE + 3, 3))
def test_a_secret_over_the_border_of_windows_is_found_once(shift):
    data = (b"x " * STEP)[: STEP + shift] + b"\n" + TOKEN.encode() + b"\n" + b"y " * STEP
    assert detect(data) == (Found("gitlab_token", STEP + shift + 1, STEP + shift + 1 + len(TOKEN)),)


def test_a_secret_is_told_before_the_stream_ends():
    stream = Stream()
    assert stream.feed(TOKEN.encode()) == ()
    assert [found.kind for found in stream.feed(b"\n" * (STEP + MAX_SECRET))] == ["gitlab_token"]
    assert stream.finish() == ()


def test_a_stream_holds_no_more_than_a_window():
    stream = Stream()
    for _ in range(40):
        stream.feed(b"some words " * 1000)
        assert len(stream._held) <= STEP + MAX_SECRET + 11_000 + _BEFORE


def test_a_stream_begins_anew_after_its_end():
    stream = Stream()
    for _ in range(2):
        stream.feed(TOKEN.encode())
        assert stream.finish() == (Found("gitlab_token", 0, len(TOKEN)),)


@given(st.binary(max_size=300))
def test_unescaped_places_lead_back(data):
    plain = unescape(data)
    assert len(plain.text) <= len(data)
    places = [plain.origin(place) for place in range(len(plain.text) + 1)]
    assert places == sorted(places)
    assert places[-1] == len(data)
    for place, origin in enumerate(places[:-1]):
        assert data[origin] in (plain.text[place], ord("\\"))


@given(st.text(max_size=80), st.integers(1, 3))
def test_json_of_any_depth_is_undone(text, depth):
    text = "".join(char for char in text if char >= " " and char != "\\" and char != '"')
    wrapped = f"{text}\n\t{text}"
    for _ in range(depth):
        wrapped = json.dumps(wrapped, ensure_ascii=False)[1:-1]
    assert unescape(wrapped.encode()).text == f"{text}\n\t{text}".encode()
