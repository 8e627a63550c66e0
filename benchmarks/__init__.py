"""The benchmark of `make bench`: this tool, tf-models and Hugging Face on the same modules and machine, in turns."""
