"""What training took, counted as the guidelines ask."""
