"""Files of PyPI as the folders of a simple index (PEP 503), for any web server to list.

Usage: index.py FILES INDEX
"""

import os
import re
import sys
from pathlib import Path

files, index = map(Path, sys.argv[1:])
for file in sorted(files.iterdir()):
    # NAME-VERSION-TAGS.whl, NAME-VERSION.tar.gz
    stem = file.name.split("-")[0] if file.suffix == ".whl" else file.name.rpartition("-")[0]
    folder = index / re.sub(r"[-_.]+", "-", stem).lower()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / file.name).exists():
        os.link(file, folder / file.name)
