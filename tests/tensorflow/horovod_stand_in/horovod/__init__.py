"""A stand-in for Horovod, of which only what this project uses is there: tests put its folder in front of sys.path."""
