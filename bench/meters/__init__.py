"""The contenders, one module each: `build` puts a meter around, or into, a bare app.

A module may have `drain(app)`, which waits for what the app does in the background, `leave(app)`, which lets
go of what belongs to the running loop, and `close(app)`.
Each is set up as its own documentation shows it at its quickest; its first lines say how.
"""
