"""Files: where they lie, how they are fetched, checked and read safely."""
