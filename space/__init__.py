"""Gradio demo for a Hugging Face Space, see `space/README.md`."""
