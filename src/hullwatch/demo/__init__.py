"""Real containers on this machine, attacked: what `hullwatch demo` and the live tests run.

scratch.py, image.py, bundle.py and runc.py make the containers; scenario.py is the demo's story,
and workload/ holds the programs that run inside them.
"""
