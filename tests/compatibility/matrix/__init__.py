"""The compatibility matrix: pipelines, families, plug-ins, ways to run; and its oracle."""
