"""What the English community makes for a backbone, on a stock pipeline.

diffusers and peft load; here it is checked before, and reported and verified after. Nothing here
ever touches a bridge: plug-ins act on the backbone and its English prompt alone.
"""
