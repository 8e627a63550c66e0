"""What `make bench` runs: this tool, tf-models' own and Hugging Face's on the same modules, on the same machine, in turns."""
