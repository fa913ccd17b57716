"""How well a model does a task: accuracies, Keras metrics, and functions of one's own."""
