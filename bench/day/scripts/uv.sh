# The same by uv and pipx: environments, tools, scripts with their dependencies in a header.
. /day/common.sh
reach http://pypi.test/simple/
cd /srv
uv venv -q .venv
uv pip install -q flask requests
.venv/bin/python -c 'import flask'
printf '# /// script\n# dependencies = ["rich"]\n# ///\nimport rich\nrich.print("[b]hello[/]")\n' >hello.py
uv run -q --no-project hello.py
uvx -q black --version
echo 'x = {  "a":1 }' >ugly.py
uvx -q black -q ugly.py
[ "$ROUNDS" -eq 1 ] || { pipx install --quiet black && /root/.local/bin/black --check ugly.py; }
uv init -q service && cd service && uv add -q requests && uv run -q python -c 'import requests'
