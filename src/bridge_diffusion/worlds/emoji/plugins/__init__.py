"""The English community's plug-ins of the emoji world, made with stock tools."""
