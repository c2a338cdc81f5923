# A public package's own tests, out of its sdist.
. /day/common.sh
reach http://pypi.test/simple/
mkdir /srv/click && cd /srv/click
tar -xzf /cache/flat/click-8.5.1.tar.gz --strip-components=1
python3 -m venv .venv
.venv/bin/pip install -q pytest
.venv/bin/pip install -q -e .
.venv/bin/python -m pytest -q -p no:cacheprovider tests || [ $? -eq 1 ] # some need a newer pytest
