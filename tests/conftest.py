"""For all tests."""

import signal

# A shell that runs the tests in the background ignores SIGINT, and every program started from here
# would inherit that: the tests which interrupt one could not.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
