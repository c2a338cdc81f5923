"""Opens and execs of containers, asked of policies through fanotify.

doorkeeper.py   keeps the process that answers; started with what rights that takes
asleep.py       that process while there is nothing to keep
messages.py     what the two say to each other
permitting.py   the process that answers
asked.py        what it asks the policies about an open, and what they say
threads.py      who asks, as /proc has it
container.py    one container: what is marked, what its files are called inside
carried.py      labels and calls of who asks, read of the agent's maps
telling.py      what is told of it
held.py         what waits for a person, and the decision log
"""
