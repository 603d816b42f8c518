"""How fast the worker draws, beside diffusers used plainly; `python -m gpu_worker.bench`."""
