"""Names and resolvers, as the host's own files say them."""

from __future__ import annotations

from hullwatch.context import etc


def test_hosts(tmp_path):
    path = tmp_path / "hosts"
    path.write_bytes(
        b"127.0.0.1 LocalHost box # 127.0.0.1 no\n#10.0.0.1 no\n10.0.0.2\n\n::1\tip6\n"
        b"127.0.0.1 more\n10.0.0.3 \xff\n"
    )
    found = etc.hosts(path)
    assert found["127.0.0.1"] == ("localhost", "box", "more") and found["::1"] == ("ip6",)
    assert set(found) == {"127.0.0.1", "::1", "10.0.0.3"}


def test_name_servers(tmp_path):
    path = tmp_path / "resolv.conf"
    path.write_text(
        "search example.com\nnameserver 10.0.0.2\nnameserver here\n"
        "#nameserver 10.0.0.3\nnameserver\nnameserver 2001:DB8:0::1 # two\n"
    )
    assert etc.name_servers(path) == ["10.0.0.2", "2001:db8::1"]


def test_what_cannot_be_read_says_nothing(tmp_path):
    assert etc.hosts(tmp_path) == {} and etc.name_servers(tmp_path / "none") == []
