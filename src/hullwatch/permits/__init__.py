"""Opens and execs of containers, asked of policies through fanotify, where there is no BPF LSM.

doorkeeper.py   keeps the process that answers; started with what rights that takes
messages.py     what the two say to each other
permitting.py   the process that answers
container.py    one container: what is marked, what its files are called inside
carried.py      labels and calls of who asks, read of the agent's maps
held.py         what waits for a person, and the decision log
"""
