"""Code loaded at run time: what files are called, of which package they are, and what is listed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st

from hullwatch.agent.plugins import KINDS, LIKELY, kind_of, loads, package_of
from hullwatch.cli import main
from hullwatch.context.call import Call
from hullwatch.detect.baseline.values import Changes, EntryRow, ProfileRow
from hullwatch.sensor.wire import Mark
from hullwatch.store.baselines import judge, put
from hullwatch.store.state import State
from support.enriched import WALL, Builder
from support.stores import writer

SITE = "/usr/lib/python3/dist-packages"
UPPER, LOWER = int(Mark.UPPER), int(Mark.LOWER)
IMAGE = "example/agent:1"

FILES = [
    # path, kind, package, version
    (f"{SITE}/yaml/__init__.py", "python_module", "yaml", ""),
    (f"{SITE}/yaml/__pycache__/nodes.cpython-311.pyc", "python_module", "yaml", ""),
    (f"{SITE}/__pycache__/six.cpython-311.pyc", "python_module", "six", ""),
    (f"{SITE}/_cffi.cpython-311-x86_64-linux-gnu.so", "shared_object", "_cffi", ""),
    (f"{SITE}/numpy.libs/libblas.so.0", "shared_object", "numpy", ""),
    ("/usr/lib/python3.11/json/decoder.py", "python_module", "python", "3.11"),
    (f"{SITE}/x-1.0-py3.11.egg/x/y.py", "python_module", "x", "1.0"),
    (f"{SITE}/litellm_init.pth", "python_startup", "litellm_init", ""),
    ("/usr/lib/python3.11/sitecustomize.py", "python_startup", "python", "3.11"),
    ("/models/consolidated.00.pth", "pickle", "", ""),
    ("/models/m.joblib", "pickle", "", ""),
    (f"{SITE}/requests-2.32.0.dist-info/entry_points.txt", "entry_points", "requests", "2.32.0"),
    (f"{SITE}/requests-2.32.0.dist-info/METADATA", None, "requests", "2.32.0"),
    ("/app/node_modules/left-pad/index.js", "node_module", "left-pad", ""),
    ("/app/node_modules/@scope/name/dist/a.mjs", "node_module", "@scope/name", ""),
    (
        "/app/node_modules/.pnpm/@scope+name@1.2.3_react@18/node_modules/@scope/name/a.js",
        "node_module",
        "@scope/name",
        "1.2.3",
    ),
    ("/app/node_modules/a/build/Release/a.node", "native_addon", "a", ""),
    ("/root/.claude/skills/pdf/SKILL.md", "agent_extension", "pdf", ""),
    ("/root/.claude/plugins/cache/m/review/1.2.0/x.js", "agent_extension", "review", "1.2.0"),
    ("/root/.mcp.json", "agent_extension", "", ""),
    ("/opt/lib/log4j-core-2.14.1.jar", "java_class", "log4j-core", "2.14.1"),
    ("/usr/share/jupyter/kernels/python3/kernel.json", "notebook_kernel", "python3", ""),
    (
        "/root/.cache/huggingface/hub/models--a--b/snapshots/0123456789abcdef/pytorch_model.bin",
        "pickle",
        "a/b",
        "0123456789ab",
    ),
    ("/srv/x.wasm", "wasm", "", ""),
    ("/models/m.safetensors", None, "", ""),
    ("/etc/passwd", None, "", ""),
    ("", None, "", ""),
]


@pytest.mark.parametrize(("path", "kind", "package", "version"), FILES)
def test_a_path_tells_kind_and_package(path, kind, package, version):
    assert kind_of(path) == kind
    assert package_of(path)[:2] == (package, version)


def test_what_is_mapped_is_native_code_whatever_it_is_called():
    assert kind_of("/tmp/picture.png") is None
    assert kind_of("/tmp/picture.png", mapped=True) == "shared_object"
    assert kind_of("/srv/a.node", mapped=True) == "native_addon"


def test_what_a_program_reads_it_need_not_load():
    assert loads("python_module", "/usr/bin/python3.11") and loads("python_module", "", "pypy3")
    assert not loads("python_module", "/usr/bin/cat") and not loads(
        "python_module", "/usr/bin/node"
    )
    assert loads("node_module", "/usr/bin/node") and loads("pickle", "python3")
    assert loads("wasm", "wasmtime")


_PARTS = [
    *("site-packages", "node_modules", ".pnpm", "@a", "a@1", "x-1.0.dist-info", "__pycache__"),
    *("a.py", "a.pth", "models--a--b", "snapshots", "kernels", "skills", ".so", "-1-2.jar", "é"),
]


@given(st.lists(st.sampled_from(_PARTS) | st.text(max_size=8), max_size=8), st.booleans())
def test_no_path_is_too_odd(parts, mapped):
    path = "/" + "/".join(parts)
    kind, package = kind_of(path, mapped), package_of(path)
    assert kind is None or kind in KINDS
    assert all(isinstance(one, str) for one in package) and package.folder
    if kind_of(path) is not None:
        options = re2.Options()
        options.dot_nl, options.encoding = True, re2.Options.Encoding.LATIN1
        raw = path.encode("utf-8", "surrogatepass")
        assert re2.compile(LIKELY.encode(), options).fullmatch(raw)


@pytest.fixture
def told(tmp_path, capsys):
    """What `hullwatch plugins --all` says of a test's events, by kind and package or folder."""

    def ask(b: Builder, *more: str) -> dict[str, dict[str, Any]]:
        with_them = writer(tmp_path)
        with_them.put_workloads([b.workloads.workload(0), b.workloads.workload(1)])
        with_them.write(b.build())
        given: dict[str, Any] = {"kind": "tool", "source": "gateway", "server": "run"}
        calls = [Call(id=n, name=f"tool{n}", begin=WALL + n, **given) for n in (1, 2)]
        with_them.put_calls(calls, {})
        with_them.close()
        return listed(tmp_path, capsys, *(more or ("--all",)))

    return ask


def listed(store: Path, capsys: Any, *more: str) -> dict[str, dict[str, Any]]:
    assert main(["plugins", "--store", str(store), "--json", *more]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = {f"{one['kind']} {one['package'] or one['folder']}": one for one in rows}
    assert len(found) == len(rows)
    return found


def python(b: Builder, pid: int = 100, **more: Any) -> Any:
    return b.process(pid, name="python3", **more)


def test_modules_are_listed_by_package_with_call_and_program(told):
    b = Builder()
    process = python(b)
    for name in ("__init__", "nodes", "loader"):
        b.event("open", process, f"{SITE}/yaml/{name}.py", marks=LOWER, span=1)
    b.event("open", process, f"{SITE}/PyYAML-6.0.dist-info/METADATA", marks=LOWER)
    b.event("open", process, f"{SITE}/yaml-5.1.dist-info/METADATA", marks=LOWER)
    b.event("open", b.process(101, name="cat"), f"{SITE}/other/x.py", marks=LOWER)
    b.event("open", process, f"{SITE}/gone/x.py", ret=-2)
    (one,) = told(b).values()
    assert (one["package"], one["version"], one["files"]) == ("yaml", "5.1", 3)
    assert one["calls"] == ["run: tool1 (0000000000000001)"]
    assert one["programs"] == ["/usr/bin/python3"] and one["origins"] == ["image"]
    assert one["outside"] is False and one["workload"] == "agent" and one["new"] is None


def test_where_a_file_came_from(told):
    b = Builder()
    process = python(b)
    for path, marks in (
        ("/srv/a/x.py", UPPER),
        ("/srv/b/x.py", LOWER),
        ("/data/x.py", 0),
        ("/dev/shm/x.py", 0),
    ):
        b.event("open", process, path, marks=marks)
    b.event("mmap", process, "memfd:x")
    origins = {one["folder"]: one["origins"] for one in told(b).values()}
    assert origins == {
        "/srv/a": ["container"],
        "/srv/b": ["image"],
        "/data": ["volume"],
        "/dev/shm": ["scratch"],
        "/": ["memory"],
    }


def test_without_an_overlay_nothing_is_claimed(told):
    b = Builder()
    (one,) = told(b.event("open", python(b), "/data/x.py")).values()
    assert one["origins"] == ["unknown"] and not one["outside"]


def test_who_wrote_it_and_in_which_call(told):
    b = Builder()
    curl, process = b.process(101, name="curl"), python(b)
    b.event("open", curl, "/srv/a/x.py", flags=0o101, marks=UPPER, span=1)
    b.event("open", process, "/srv/a/x.py", marks=UPPER, span=2)
    b.event("open", b.process(102, name="vi"), "/srv/a/x.py", flags=0o1, marks=UPPER)  # later
    b.event("rename", curl, "/srv/b/part", "/srv/b/m.pkl")
    b.event("open", process, "/srv/b/m.pkl", marks=UPPER)
    found = told(b)
    (wrote,) = found["python_module /srv/a"]["written"]
    assert (wrote["by"], wrote["call"]) == ("curl", "run: tool1 (0000000000000001)")
    assert found["python_module /srv/a"]["calls"] == ["run: tool2 (0000000000000002)"]
    assert [one["by"] for one in found["pickle /srv/b"]["written"]] == ["curl"]


def test_what_python_compiles_of_the_image_is_the_images(told):
    b = Builder()
    process = python(b)
    for folder, planted in (("own", False), ("bad", True)):
        cache = f"/app/{folder}/__pycache__/m.cpython-311.pyc"
        if planted:
            b.event("open", process, cache, flags=0o101, marks=UPPER)
        else:
            b.event("rename", process, f"{cache}.123", cache)
        b.event("open", process, cache, marks=UPPER)
    b.event("open", process, "/app/new/m.py", flags=0o101, marks=UPPER)
    b.event("rename", process, "/app/x", "/app/new/__pycache__/m.cpython-311.pyc")
    b.event("open", process, "/app/new/__pycache__/m.cpython-311.pyc", marks=UPPER)
    origins = {one["folder"]: one["origins"] for one in told(b).values()}
    assert origins == {"/app/own": ["image"], "/app/bad": ["container"], "/app/new": ["container"]}


def test_native_code_is_what_was_mapped(told):
    b = Builder()
    process = b.process(100, name="java")
    b.event("open", process, "/lib/libc.so.6", marks=LOWER)
    b.event("open", process, "/srv/libx.so", marks=UPPER)
    b.event("mmap", process, "/srv/libx.so", marks=UPPER)
    (one,) = told(b).values()
    assert (one["kind"], one["folder"], one["outside"]) == ("shared_object", "/srv", True)


def test_what_is_only_installed_is_told_apart(told, tmp_path, capsys):
    b = Builder()
    pip = python(b, argv=("python3", "-m", "pip", "install", "acme"))
    b.event("open", pip, f"{SITE}/acme/x.py", marks=UPPER)
    b.event("open", python(b, 101), "/srv/x.py", marks=UPPER)
    found = told(b)
    assert found["python_module acme"]["installing"] and not found["python_module acme"]["outside"]
    assert set(listed(tmp_path, capsys)) == {"python_module /srv"}


def test_the_host_is_left_out(told):
    b = Builder()
    host = b.process(7, workload=0, cgroup=1, name="python3")
    assert told(b.event("open", host, "/srv/x.py")) == {}


def baseline(root: Path, first: dict[str, int], locked: int | None) -> None:
    state = State(root / "state.db")
    rows = tuple(EntryRow(IMAGE, "read", name, at, at, 1, ()) for name, at in first.items())
    with state.transaction() as link:
        put(link, Changes((ProfileRow(IMAGE, IMAGE, 1, 10, None, (), 0),), rows, (), ()))
        judge(link, IMAGE, locked, (("read", "/ok/*"),), 10)
    state.close()


@pytest.mark.parametrize("locked", [True, False])
def test_what_the_baseline_does_not_hold_is_new(told, tmp_path, capsys, locked):
    b = Builder()
    process = python(b)
    paths = ("/old/x.py", "/new/x.py", "/ok/x.py", "/lib/x.so", "/unknown/x.py")
    for path in paths[:3]:
        b.event("open", process, path, marks=LOWER)
    b.event("open", process, paths[3], marks=LOWER).event("mmap", process, paths[3], marks=LOWER)
    b.event("open", process, paths[4], marks=LOWER)
    b.event(
        "mmap", process, "/odd/picture.png", marks=LOWER
    )  # opened as what nobody takes for code
    told(b)
    late = WALL + b.clock
    first = {"/old/x.py": 5, "/new/x.py": late, "/ok/x.py": late, "/lib/x.so": late}
    first["/odd/picture.png"] = 5
    baseline(tmp_path, first, 1000 if locked else None)
    found = {one["folder"]: one["new"] for one in listed(tmp_path, capsys, "--all").values()}
    assert found == {
        "/old": False,
        "/new": True,
        "/ok": not locked,
        "/lib": True,
        "/unknown": None,
        "/odd": False if locked else None,
    }
    outside = listed(tmp_path, capsys)
    assert ("python_module /new" in outside) and ("python_module /old" not in outside)


def test_a_part_is_asked_for(told, tmp_path, capsys):
    b = Builder()
    process = python(b)
    b.event("open", process, "/srv/x.py", marks=UPPER).event(
        "open", process, "/srv/m.pkl", marks=UPPER
    )
    b.event("open", process, f"{SITE}/yaml/x.py", marks=LOWER)
    told(b)
    assert set(listed(tmp_path, capsys, "--kind", "pickle")) == {"pickle /srv"}
    assert listed(tmp_path, capsys, "--since", "2037-01-01") == {}
    assert set(listed(tmp_path, capsys, "--container", "agent")) == {
        "pickle /srv",
        "python_module /srv",
    }
    assert main(["plugins", "--store", str(tmp_path), "--kind", "nonsense"]) == 2
    capsys.readouterr()
    assert main(["plugins", "--store", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert "/srv/m.pkl" in shown.out and "yaml" not in shown.out
    assert "1 more" in shown.err
