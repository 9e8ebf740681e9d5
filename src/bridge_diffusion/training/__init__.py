"""Training: one loop, one task for each thing that is trained."""
