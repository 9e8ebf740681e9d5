"""Training of the emoji world's own parts, stage by stage, through the product's one loop."""
