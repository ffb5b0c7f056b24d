"""The commands for shells that people make pictures in: chats and ComfyUI."""
