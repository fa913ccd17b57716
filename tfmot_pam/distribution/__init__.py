"""Training on several devices and by several workers, under a `tf.distribute` strategy."""
