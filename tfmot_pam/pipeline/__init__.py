"""From trained models to the smallest network that keeps their accuracy, in one call."""
