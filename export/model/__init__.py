"""Writes SavedModels: the encoder, the preprocessor, and the model from text to vectors."""
