"""The nodes. `conditioning`, `fit` and `residuals` know nothing of ComfyUI; the rest runs in it."""
