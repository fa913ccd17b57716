"""What becomes a file: sub-networks, lowered, converted, quantised, packed, and checked."""
