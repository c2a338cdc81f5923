"""Code that came after the image: rules/agent/plugins.yaml. `tool` is told over the agent's
socket, so a recording made beside it has no calls."""

from __future__ import annotations

from support.attacks.attack import Attack

__all__ = ["ATTACKS"]

ATTACKS = (
    Attack(
        "module-in-call",
        'touch("/srv/plug/fetched.py", "answer = 42"); sys.path.insert(0, "/srv/plug")\n'
        'with tool("run_code"):\n    import fetched',
        {"Code that is not in the image loaded in a tool call": "/srv/plug/fetched.py"},
        told=True,
    ),
    Attack(
        "pickle-in-call",
        'touch("/srv/plug/model.joblib")\n'
        'with tool("predict"):\n    open("/srv/plug/model.joblib").read()',
        {"Pickle that is not in the image loaded in a tool call": "/srv/plug/model.joblib"},
        told=True,
    ),
    Attack(
        "native",
        "import glob, shutil; found = glob.glob('/usr/lib/python3.*/lib-dynload/_json.*.so')\n"
        'os.makedirs("/srv/plug", exist_ok=True); shutil.copy(found[0], "/srv/plug/native.so")\n'
        'ctypes.CDLL("/srv/plug/native.so")',
        {"Native code that is not in the image mapped by an AI agent": "/srv/plug/native.so"},
    ),
    Attack(
        "start-up-hook",
        'hook = "/usr/lib/python3/dist-packages/before.pth"; touch(hook)\n'
        'run("/usr/bin/python3", "-c", "pass"); os.remove(hook)',
        {
            "Python start-up hook that is not in the image run": ".*/before.pth",
            "Python start-up hook written": ".*/before.pth",
        },
    ),
)
