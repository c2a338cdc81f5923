"""Secrets that a gateway is given: where they may stand, and that they are said nowhere."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from hullwatch.cli.asking import NOBODY, Asking, asks
from hullwatch.cli.errors import CommandError
from hullwatch.decide.elsewhere import Elsewhere, listen

SECRET = "correct horse battery"


def test_the_options_of_a_command_that_asks():
    app, seen = typer.Typer(), list[object]()

    @app.command()
    @asks
    def command(first: str, told: Asking = NOBODY, last: bool = False) -> None:
        seen.extend((first, told, last))

    runner = CliRunner()
    assert runner.invoke(app, ["x"]).exit_code == 0
    options = "--approval-webhook h --approval-webhook-secret s --approval-listen l --last"
    more = " --approval-url u --approval-link-as n x"
    assert runner.invoke(app, (options + more).split()).exit_code == 0
    assert seen == ["x", NOBODY, False, "x", Asking("h", "s", "l", "u", "n"), True]


def given(secret: str) -> Asking:
    return Asking("https://hook.example/", secret).checked(policy=True)


def test_a_variable_is_taken_out_of_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    monkeypatch.setenv("HOOK", "https://hook.example/T0/B0")
    read = Asking("env:HOOK", "env:HOOK_SECRET").checked(policy=True)
    assert (read.hook, read.secret) == ("https://hook.example/T0/B0", SECRET)
    assert not {"HOOK", "HOOK_SECRET"} & os.environ.keys()


def test_a_file_of_one_s_own(tmp_path: Path):
    path = tmp_path / "secret"
    path.write_text(f"{SECRET}\n")
    path.chmod(0o600)
    assert given(f"file:{path}").secret == SECRET
    for mode in (0o640, 0o604):
        path.chmod(mode)
        with pytest.raises(CommandError, match="chmod 600"):
            given(f"file:{path}")


@pytest.mark.parametrize("data", [b"", b"fifteen bytes !", b"x" * 5000, b"\xff" * 20])
def test_what_is_no_secret(tmp_path: Path, data: bytes):
    path = tmp_path / "secret"
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(CommandError) as error:
        given(f"file:{path}")
    assert not data or data.decode(errors="replace") not in str(error.value)


def test_nothing_is_read_where_nobody_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    assert Asking().checked(policy=False) == Asking()
    with pytest.raises(CommandError, match="needs --approval-webhook"):
        Asking(secret="env:HOOK_SECRET").checked(policy=True)
    assert os.environ["HOOK_SECRET"] == SECRET


# --- where links are answered -------------------------------------------------------------


def opened(**said: str) -> Elsewhere:
    found = Asking("https://hook.example/T0/B0", name="oncall", **said).opened()
    assert found is not None
    os.close(found.listening)
    return found


def test_where_links_lead(capsys: pytest.CaptureFixture[str]):
    found = Asking("https://hook.example/T0/B0", SECRET, name="oncall").opened()
    assert found is not None and Asking().opened() is None
    with socket.socket(fileno=found.listening) as listening:
        port = listening.getsockname()[1]
        assert listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    assert found.base == f"http://127.0.0.1:{port}"
    said = capsys.readouterr().err
    assert f"{found.base}/answer/..., as link:oncall" in said and "signature" not in said
    for secret in (SECRET, "T0"):
        assert secret not in said + repr(found) + str(found)
    assert opened(listen="0.0.0.0:0", url="https://ask.example/a/").base == "https://ask.example/a"
    assert "without a signature" in capsys.readouterr().err


def test_where_nothing_can_listen_is_said():
    with listen("127.0.0.1", 0) as other:
        at = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(CommandError, match=f"--approval-listen {at}: .*in use"):
            opened(listen=at)
    with pytest.raises(CommandError, match="there is no TLS on it"):
        opened(listen="0.0.0.0:0")
    with pytest.raises(CommandError, match="--approval-webhook: .*https"):
        Asking("http://hook.example/").opened()
