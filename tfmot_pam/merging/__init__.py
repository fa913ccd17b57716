"""From aligned networks to one merged network."""
