"""The nodes for ComfyUI: `pack` is what is copied there, and knows nothing of this package."""
