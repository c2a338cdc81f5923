# A build of a Python service: wheels from an index, then sdists, one of them with C in it.
. /day/common.sh
reach http://pypi.test/simple/
python3 -m venv /srv/app
. /srv/app/bin/activate
pip install -q flask requests rich
python -c 'import flask, requests, rich'
pip install -q --no-binary markupsafe,click --force-reinstall --no-deps markupsafe click
python -c 'import markupsafe._speedups'
if [ "$ROUNDS" -gt 1 ]; then
    pip install -q numpy pandas cython
    python -c 'import pandas; print(pandas.DataFrame({"a": [1, 2]}).describe())'
    pip install -q build
    mkdir /srv/click && tar -xzf /cache/flat/click-8.5.1.tar.gz -C /srv/click --strip-components=1
    python -m build -o /srv/dist /srv/click
    printf 'cdef int f(int x):\n    return x * 2\nprint(f(21))\n' >/srv/fast.pyx
    (cd /srv && cythonize -q -i fast.pyx && python -c 'import fast')
fi
pip freeze >/srv/requirements.txt
pip check
pip uninstall -q -y requests
