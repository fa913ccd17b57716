"""Training a merged model: distillation, labels, and steps on sampled combinations."""
