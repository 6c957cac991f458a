"""Privacy: what is recorded and where it goes, all that is held of a subject, and how it is forgotten."""
