"""From a live encoder to SavedModel files: the encoder, the preprocessor, and the model from text to vectors."""
