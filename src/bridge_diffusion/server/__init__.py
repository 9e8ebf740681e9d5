"""`bdm serve`: the queue, its workers, and the HTTP interfaces over `generation`.

The web process imports no torch: pictures are drawn in one worker process a device.
"""
