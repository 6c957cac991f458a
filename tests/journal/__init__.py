"""The journal and the forwarder."""
