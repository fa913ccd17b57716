"""What is measured of files: latency, memory, and what an app loads when its tasks change."""
