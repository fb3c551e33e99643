"""The page to try the model in: a Gradio app that is a Hugging Face Space, see `space/README.md`."""
