"""What a bridge is compared with: other ways to a native prompt, of the same data and budget."""
