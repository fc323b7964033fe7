"""Task sources: where tasks come from and where their outcomes go back to."""
