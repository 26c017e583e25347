"""The same event to the same counting listeners, for dispatch.py: by Cauce, by a bare loop, by the libraries people use.

Each peer is used as its own documentation does it and, where there is a choice, in its fastest form (strong references
for blinker, no debug mode for pyventus, no log and hardly a history for bubus, which searches its own). A peer that is
not installed is left out and named.

Shared: counting. The ways: with_cauce, bare_loop and the peers, one a file; ways lists them. Each repeats the loop
around its call, because a function between the two would be measured too.
"""
