"""Reading and unpacking of files from other people, downloads, and temporary directories. Knows no ALBERT."""
