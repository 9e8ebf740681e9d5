"""The `bdm` command: one file a command, each a thin layer over the library's own functions.

No module here imports torch, diffusers or transformers before a command runs.
"""
