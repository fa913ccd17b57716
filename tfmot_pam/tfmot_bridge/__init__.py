"""TensorFlow Model Optimization's own techniques on merged models, head names kept."""
