"""Pictures on disk: their names, their metadata, and how they are written."""
