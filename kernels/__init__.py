"""CUDA C++ sources: data files, found through smoe_np.kernel_files."""
