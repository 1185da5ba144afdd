"""The first hour on a GPU: are its kernels right, how fast is a step, what is slow, and does the model learn."""
