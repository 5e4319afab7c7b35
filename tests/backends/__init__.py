"""Other backends of Keras beside TensorFlow."""
