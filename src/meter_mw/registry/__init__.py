"""The operator's keys in Redis: made, listed, rotated and revoked there, and asked for by every worker.

Rule 1: a key is kept as its pseudonym alone; what it was is said once, to whom it is made for.
Rule 2: the terms of a subject are one record, which all of its keys refer to.
Rule 3: a look-up writes nothing, so a key that is made up makes up no state.
"""
