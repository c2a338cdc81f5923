"""Code loaded at run time in a real container: each kind is listed with the call that loaded it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hullwatch.context import tool_call
from support.agent import Agent
from support.bundles import Mount
from support.cli import cli
from support.images import Image
from support.needs import missing
from support.runc import Runc
from support.watch import missing_bpf

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(300)]

# What one call wrote another loads. zlib stands for any library of the image.
WORK = """
import ctypes, glob, os, pickle, shutil, subprocess, sys
from tool_call import tool_call

site = f"/usr/local/lib/python3.{sys.version_info[1]}/dist-packages"
for made in (site + "/acme", site + "/acme-1.2.dist-info", "/srv/plug", "/srv/data",
             "/srv/node/node_modules/@acme/pad"):
    os.makedirs(made)

def write(path, text):
    with open(path, "w") as file:
        file.write(text)

with tool_call("fetch", server="web"):
    write("/srv/plug/fetched.py", "answer = 42")
    write(site + "/acme/__init__.py", "name = 'acme'")
    write(site + "/acme-1.2.dist-info/entry_points.txt", "[acme]\\nx = acme:name\\n")
    write(site + "/acme-1.2.dist-info/METADATA", "Name: acme\\nVersion: 1.2\\n")
    write(site + "/hook.pth", "import os\\n")
    write("/srv/data/module.wasm", "\\0asm")
    write("/srv/node/node_modules/@acme/pad/index.js", "module.exports = 1")
    write("/srv/node/main.js", "require('@acme/pad')")
    shutil.copy(glob.glob("/usr/lib/python3.*/lib-dynload/_json.*.so")[0], "/srv/data/native.so")
    with open("/srv/data/model.pkl", "wb") as file:
        pickle.dump({"a": 1}, file)
sys.path.insert(0, "/srv/plug")
with tool_call("import", server="run"):
    import fetched
with tool_call("package", server="run"):
    subprocess.run(["python3", "-c", "import acme; from importlib.metadata import entry_points;"
                    " entry_points()"], check=True)
with tool_call("native", server="run"):
    ctypes.CDLL("/srv/data/native.so")
with tool_call("memory", server="run"):
    file = os.memfd_create("library")
    os.write(file, open("/srv/data/native.so", "rb").read())
    ctypes.CDLL(f"/proc/self/fd/{file}")
with tool_call("unpickle", server="run"):
    pickle.load(open("/srv/data/model.pkl", "rb"))
with tool_call("wasm", server="run"):
    open("/srv/data/module.wasm", "rb").read()
with tool_call("read", server="run"):
    subprocess.run(["cat", "/srv/plug/fetched.py"], check=True)
with tool_call("own", server="run"):
    import wave
with tool_call("volume", server="run"):
    sys.path.insert(0, "/volume")
    import mounted
if os.path.exists("/host/usr/bin/node"):
    with tool_call("node", server="run"):
        libraries = ":".join(glob.glob("/host/usr/lib/*-linux-gnu"))
        subprocess.run(["/host/usr/bin/node", "/srv/node/main.js"], check=True,
                       env={"LD_LIBRARY_PATH": libraries})
print("done", flush=True)
"""


@pytest.fixture(scope="module")
def listed(
    python_image: Image, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """Rows of `hullwatch plugins --all` by kind and package or folder, and the findings."""
    if reason := missing("runc") or missing_bpf():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("plugins")
    library, volume, sockets = folder / "lib", folder / "volume", folder / "run"
    for made in (library, volume, sockets):
        made.mkdir()
    (library / "tool_call.py").write_text(Path(tool_call.__file__).read_text())
    (library / "work.py").write_text(WORK)
    (volume / "mounted.py").write_text("x = 1")
    with (
        Agent(folder / "store", calls=sockets / "calls.sock") as agent,
        Runc(python_image) as runc,
    ):
        container = runc.start(
            ["python3", "/lib-hullwatch/work.py"],
            name="worker",
            mounts=[
                Mount(library, "/lib-hullwatch"),
                Mount(volume, "/volume"),
                Mount(Path("/usr"), "/host/usr"),
                Mount(sockets, "/run/hullwatch", writable=True),
            ],
        )
        container.wait_for_output("done", 120)
        agent.settle()
        found = agent.stored(container.id)
    rows = cli(folder / "store", "plugins", "--all", "--container", "worker")
    return {f"{one['kind']} {one['package'] or one['folder']}": one for one in rows}, found


def calls_of(one: dict[str, Any]) -> list[str]:
    return [text.split()[1] for text in one["calls"]]


@pytest.mark.parametrize(
    ("what", "call"),
    [
        ("python_module /srv/plug", "import"),
        ("python_module acme", "package"),
        ("entry_points acme", "package"),
        ("python_startup hook", "package"),
        ("shared_object /srv/data", "native"),
        ("pickle /srv/data", "unpickle"),
        ("wasm /srv/data", "wasm"),
    ],
)
def test_what_a_call_wrote_is_listed_with_the_call_that_loaded_it(listed, what, call):
    one = listed[0][what]
    assert calls_of(one) == [call] and one["outside"]
    assert one["origins"] == ["container"]
    (written,) = one["written"]
    assert written["call"].startswith("web: fetch ") and written["by"] == "python3"
    assert written["time"] <= one["first"]


@pytest.mark.skipif(not Path("/usr/bin/node").exists(), reason="needs node: apt-get install nodejs")
def test_a_module_of_node_is_listed_with_its_package(listed):
    one = listed[0]["node_module @acme/pad"]
    assert calls_of(one) == ["node"] and one["origins"] == ["container"] and one["outside"]


def test_the_version_is_told_where_a_path_has_it(listed):
    assert listed[0]["python_module acme"]["version"] == "1.2"
    assert listed[0]["entry_points acme"]["version"] == "1.2"


def test_what_the_image_brought_is_not_outside(listed):
    own = listed[0]["python_module python"]
    assert own["origins"] == ["image"] and own["version"] and not own["outside"]
    assert "own" in calls_of(own)
    libraries = [one for what, one in listed[0].items() if what.startswith("shared_object /lib")]
    assert libraries and not any(one["outside"] for one in libraries)


def test_a_library_of_memory_alone_is_listed(listed):
    (one,) = [one for one in listed[0].values() if "memory" in one["origins"]]
    assert one["kind"] == "shared_object" and calls_of(one) == ["memory"] and one["outside"]
    assert "memfd:library" in one["paths"][0]


def test_the_rules_find_it(listed):
    found: dict[str, set[str]] = {}
    for one in listed[1]:
        found.setdefault(one["rule"], set()).add(one["object"])
    assert found["Code that is not in the image loaded in a tool call"] >= {
        "/srv/plug/fetched.py",
        "/srv/data/module.wasm",
    }
    assert found["Native code that is not in the image mapped by an AI agent"] == {
        "/srv/data/native.so",
        "memfd:library",
    }
    assert found["Pickle that is not in the image loaded in a tool call"] == {"/srv/data/model.pkl"}
    (hook,) = found["Python start-up hook that is not in the image run"]
    assert hook.endswith("/hook.pth")


def test_what_is_mounted_comes_from_a_volume(listed):
    mounted = listed[0]["python_module /volume"]
    assert mounted["origins"] == ["volume"] and calls_of(mounted) == ["volume"]
    assert mounted["outside"] and mounted["written"] == []
