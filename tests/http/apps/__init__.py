"""One subject, written in every framework: the same endpoints behind each edge."""
