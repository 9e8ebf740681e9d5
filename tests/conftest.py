"""Settings that hold for every test: one thread (sums must agree), no network, no colours."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["NO_COLOR"] = "1"

import torch  # noqa: E402

torch.set_num_threads(1)
