"""Small worlds that train, run and are measured without any download."""
