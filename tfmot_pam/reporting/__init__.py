"""Tables, JSON and pictures of merged models."""
